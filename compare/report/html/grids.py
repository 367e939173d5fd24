"""Heat maps that are tables: a browser colours them, a screen reader reads them, a printer prints them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compare.results import Results, Run, groups, name_of, order, size

DECADES = 6  # below the tolerance, from which on a cell has no colour


@dataclass(frozen=True)
class Cell:
    """A cell: what it says, and how strongly it is coloured, 0 .. 1."""

    text: str
    level: float = 0.0
    bad: bool = False
    quiet: bool = False  # on the diagonal, of which a confusion is no error


@dataclass(frozen=True)
class Grid:
    """A heat map: `groups` are headings over so many columns each, or none."""

    title: str
    about: str
    source: str
    corner: str
    groups: list[tuple[str, int]]
    columns: Sequence[str]
    rows: list[tuple[str, list[Cell]]]
    kind: str


def proofs(results: Results) -> dict[str, list[Grid]]:
    """How far apart each leaf was in the proof: a grid for each precision, by preset."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {preset: {} for preset in groups(results)}
    for pair in results.get("proof") or []:
        if pair.get("leaves"):
            found.setdefault(pair["preset"], {}).setdefault(pair["precision"], []).append(pair)
    return {preset: [_proof(*each) for each in precisions.items()] for preset, precisions in found.items()}


def _proof(precision: str, pairs: list[dict[str, Any]]) -> Grid:
    """Rows are leaves, columns what was compared, for each pair of tracks; a cell is ‖a - b‖/‖b‖."""
    pairs = sorted(pairs, key=lambda pair: [order(pair[side]) for side in "ab"])
    tolerances = {check["what"]: check["tolerance"] for pair in pairs for check in pair["checks"]}
    cells: dict[str, dict[tuple[str, int], Cell]] = {}
    columns: dict[tuple[str, int], None] = {}
    for number, pair in enumerate(pairs):
        for what, leaves in pair["leaves"].items():
            for path, gap in leaves.items() if what != "logits" else ():  # one leaf, in the table above
                part, leaf = _part(what, path)
                columns[part, number] = None
                cells.setdefault(leaf, {})[part, number] = _closeness(gap, tolerances[what])
    parts = dict.fromkeys(part for part, _ in columns)
    places = [(part, number) for part in parts for number in range(len(pairs)) if (part, number) in columns]
    short = [f"{name_of(pair['a'])}\n{name_of(pair['b'])}" for pair in pairs]
    worst = max((cell.level for row in cells.values() for cell in row.values()), default=0.0)
    nearest = f"{10 ** (DECADES * (worst - 1)):.1e} of it" if worst < 1 else "more than that"
    return Grid(
        title=f"Leaf by leaf, {precision}",
        about=f"‖a - b‖ / ‖b‖ of each pair of tracks. The colour says in decades how near a difference comes to its "
        f"tolerance, and begins at a millionth of it. The nearest is at {nearest}.",
        source="proof[].leaves",
        corner="leaf",
        groups=[(part, sum(p == part for p, _ in places)) for part in parts],
        columns=[short[number] for _, number in places],
        rows=[(leaf, [row.get(place, Cell("")) for place in places]) for leaf, row in cells.items()],
        kind="leaves",
    )


def _part(what: str, path: str) -> tuple[str, str]:
    """The column group and the row of a leaf: an optimizer's mu/output/kernel stands beside params/output/kernel."""
    head, _, leaf = path.partition("/")
    if what == "optimizer":
        return f"optimizer {head}", leaf
    if what == "parameters" and head != "stats":
        return "parameters" if head == "params" else head, leaf
    return what, path


def _closeness(gap: float | None, tolerance: float) -> Cell:
    if gap is None or not math.isfinite(gap):
        return Cell("not finite", 1.0, bad=True)
    level = 1 + math.log10(gap / tolerance) / DECADES if gap else 0.0
    return Cell(size(gap), min(max(level, 0.0), 1.0), bad=gap > tolerance)


def confusions(results: Results) -> dict[str, list[Grid]]:
    """Test images by label and answer: a grid for each track, by preset; all seeds together."""
    found = {}
    for preset, tracks in groups(results).items():
        counts = {track: _counts(runs) for track, runs in tracks.items()}
        known = {track: count for track, count in counts.items() if count is not None}
        most = max((np.max(count - np.diag(np.diag(count))) for count in known.values()), default=0)
        found[preset] = [_confusion(track, tracks[track], count, int(most)) for track, count in known.items()]
    return found


def _counts(runs: list[Run]) -> np.ndarray | None:
    counts = [run["insight"]["confusion"] for run in runs if (run.get("insight") or {}).get("confusion")]
    return np.sum(counts, axis=0) if counts else None


def _confusion(track: str, runs: list[Run], counts: np.ndarray, most: int) -> Grid:
    classes = next(run["insight"]["classes"] for run in runs if run.get("insight"))
    seeds = sum(bool(run.get("insight")) for run in runs)
    wrong = int(counts.sum() - np.trace(counts))

    def cell(label: int, answer: int) -> Cell:
        count = int(counts[label, answer])
        if label == answer:
            return Cell(str(count), quiet=True)
        return Cell(str(count or ""), math.sqrt(count / most) if most else 0.0)

    return Grid(
        title=name_of(track),
        about=f"{wrong:,} of {int(counts.sum()):,} answers are wrong" + (f" ({seeds} seeds)." if seeds > 1 else "."),
        source="runs[].insight.confusion",
        corner="label",
        groups=[("answer", len(classes))],
        columns=classes,
        rows=[(name, [cell(i, j) for j in range(len(classes))]) for i, name in enumerate(classes)],
        kind="confusion",
    )

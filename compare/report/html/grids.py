"""Heat maps that are tables: a browser colours them, a screen reader reads them, a printer prints them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compare.report.style import name_of, order
from compare.results.parity import difference
from compare.results.runs import confusions, groups
from compare.results.schema import ParityRow, Results

DECADES = 6  # below the tolerance; smaller differences have no colour


@dataclass(frozen=True)
class Cell:
    """A cell: what it says, and how strongly it is coloured, 0 .. 1."""

    text: str
    level: float = 0.0
    bad: bool = False
    quiet: bool = False  # the diagonal of a confusion matrix: no error


@dataclass(frozen=True)
class Grid:
    """A heat map: `groups` are headings, each with the number of columns that it spans."""

    title: str
    about: str
    source: str
    corner: str
    groups: list[tuple[str, int]]
    columns: Sequence[str]
    rows: list[tuple[str, list[Cell]]]
    kind: str


def parity(results: Results) -> dict[str, list[Grid]]:
    """The relative difference of each leaf in the parity check: a grid for each precision, by preset."""
    found: dict[str, dict[str, list[ParityRow]]] = {preset: {} for preset in groups(results)}
    for pair in results["parity"]:
        if pair["leaves"]:
            found.setdefault(pair["preset"], {}).setdefault(pair["precision"], []).append(pair)
    return {preset: [_parity(*each) for each in precisions.items()] for preset, precisions in found.items()}


def _parity(precision: str, pairs: list[ParityRow]) -> Grid:
    """Rows are leaves, columns are quantities, for each pair of tracks; a cell is ‖a - b‖/‖b‖."""
    pairs = sorted(pairs, key=lambda pair: (order(pair["a"]), order(pair["b"])))
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
    largest = f"{10 ** (DECADES * (worst - 1)):.1e} of its tolerance" if worst < 1 else "above its tolerance"
    return Grid(
        title=f"Leaf by leaf, {precision}",
        about="‖a - b‖ / ‖b‖ for each pair of tracks. The colour shows how close a difference is to its tolerance, in "
        f"decades from a millionth of it. The largest is {largest}.",
        source="parity[].leaves",
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
    return Cell(difference(gap), min(max(level, 0.0), 1.0), bad=gap > tolerance)


def confusion_matrices(results: Results) -> dict[str, list[Grid]]:
    """The confusion matrix of each track, by preset; the counts of all seeds are added."""
    found = {}
    for preset, tracks in groups(results).items():
        known = {track: of_seeds for track, runs in tracks.items() if (of_seeds := confusions(runs))}
        counts = {track: np.sum([count for _, count in of_seeds], axis=0) for track, of_seeds in known.items()}
        most = max((int(np.max(count - np.diag(np.diag(count)))) for count in counts.values()), default=0)
        found[preset] = [
            _confusion(track, of_seeds[0][0], len(of_seeds), counts[track], most) for track, of_seeds in known.items()
        ]
    return found


def _confusion(track: str, classes: list[str], seeds: int, counts: np.ndarray, most: int) -> Grid:
    wrong = int(counts.sum() - np.trace(counts))

    def cell(label: int, prediction: int) -> Cell:
        count = int(counts[label, prediction])
        if label == prediction:
            return Cell(str(count), quiet=True)
        return Cell(str(count or ""), math.sqrt(count / most) if most else 0.0)

    return Grid(
        title=name_of(track),
        about=f"{wrong:,} of {int(counts.sum()):,} misclassified" + (f" ({seeds} seeds)." if seeds > 1 else "."),
        source="runs[].error_analysis.confusion",
        corner="label",
        groups=[("prediction", len(classes))],
        columns=classes,
        rows=[(name, [cell(i, j) for j in range(len(classes))]) for i, name in enumerate(classes)],
        kind="confusion",
    )

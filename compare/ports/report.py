"""What a check found, as text, JSON and HTML."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from compare.ports.frames import Frame
from compare.ports.html import number, page

PRINTED_ROWS = 12  # rows of the table that are printed, the worst of them


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: an output, the loss, a gradient, a running statistic, an update."""

    what: str
    a: str
    b: str
    rel: float  # ‖a - b‖/max(‖a‖, ‖b‖)
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the two are equal within tolerance; NaN is not."""
        return self.rel <= self.tolerance


@dataclasses.dataclass(frozen=True)
class First:
    """Where the two sides part."""

    direction: str  # "forward", "backward", "statistics" or "update"
    a: str  # "file.py:41"
    b: str
    path_a: str
    path_b: str
    op_a: str
    op_b: str
    inputs_rel: float
    outputs_rel: float
    pattern: str
    hint: str
    note: str = ""
    frames_a: tuple[Frame, ...] = ()
    frames_b: tuple[Frame, ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """The verdict, where the sides part, and every comparison."""

    verdict: str  # "same", "different" or "undecided"
    reason: str
    first: First | None
    rows: list[Row]
    kind_a: str
    kind_b: str
    precision: str
    values: tuple[int, int]  # recorded of each side
    matched: tuple[int, int]  # of these, how many have a twin
    links: list[str]
    notes: list[str]

    def __str__(self) -> str:
        """The verdict, where the sides part, then the table."""
        lines = [f"{self.verdict}: {self.reason}"]
        if self.first is not None:
            lines += ["", *self.describe_first(self.first)]
        lines += ["", *self.table()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def describe_first(self, first: First) -> list[str]:
        """The two lines with their source text, the size of the difference, its pattern and a hint."""
        made = {"backward": "gradients", "statistics": "statistics", "update": "updates"}.get(first.direction, "values")
        lines = [f"first difference, {first.direction}:"]
        sides = (
            ("a", self.kind_a, first.a, first.path_a, first.frames_a),
            ("b", self.kind_b, first.b, first.path_b, first.frames_b),
        )
        for name, kind, where, path, frames in sides:
            if not where:
                continue
            lines.append(f"  {name} ({kind})  {where}{f'  in {path}' if path else ''}")
            lines += [f"      {source(frame)}" for frame in frames[:1] if source(frame)]
            if len(frames) > 1:
                lines.append(f"      called from {', '.join(map(str, frames[1:3]))}")
        if first.note:
            lines.append(f"  {first.note}")
        lines.append(
            f"  relative difference: {number(first.inputs_rel)} before, {number(first.outputs_rel)} after ({made})"
        )
        if first.pattern:
            lines.append(f"  pattern: {first.pattern}")
        if first.hint:
            lines.append(f"  hint: {first.hint}")
        return lines

    def table(self) -> list[str]:
        """The worst comparisons first, failed ones before all others; how many more passed."""
        ranked = sorted(
            self.rows, key=lambda row: (row.passed, -row.rel / row.tolerance if row.rel == row.rel else -math.inf)
        )
        shown = ranked[:PRINTED_ROWS]
        width = max([len(row.a) for row in shown], default=1)
        other = max([len(row.b) for row in shown], default=1)
        lines = [f"{'':<9}  {'a: ' + self.kind_a:<{width}}  {'b: ' + self.kind_b:<{other}}  {'rel':>7}  {'limit':>7}"]
        for row in shown:
            mark = "ok" if row.passed else "DIFFERENT"
            said = f"  ({row.note})" if row.note else ""
            names = f"{row.what:<9}  {row.a:<{width}}  {row.b:<{other}}"
            lines.append(f"{names}  {number(row.rel):>7}  {number(row.tolerance):>7}  {mark}{said}")
        if len(ranked) > PRINTED_ROWS:
            hidden = ranked[PRINTED_ROWS:]
            failed = sum(not row.passed for row in hidden)
            lines.append(f"and {len(hidden)} more: {failed} different, {len(hidden) - failed} ok")
        lines.append(
            f"{self.precision}; {self.matched[0]} of {self.values[0]} values of a and {self.matched[1]} of "
            f"{self.values[1]} of b have a twin"
        )
        return lines

    def to_json(self) -> str:
        """Everything, as JSON; infinite distances are null."""

        def plain(value: Any) -> Any:
            if isinstance(value, float):
                return value if math.isfinite(value) else None
            if isinstance(value, dict):
                return {key: plain(each) for key, each in value.items()}
            return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value

        return json.dumps(plain(dataclasses.asdict(self)), indent=1)

    def to_html(self, path: str | Path) -> Path:
        """Write a self-contained page with both sources side by side, the lines lit."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(self), encoding="utf-8")
        return target


def source(frame: Frame) -> str:
    """The text of a line of source code."""
    import linecache

    return linecache.getline(frame.file, frame.line).strip()

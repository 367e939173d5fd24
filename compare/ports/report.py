"""What a check found, as text, JSON and HTML."""

from __future__ import annotations

import dataclasses
import html
import json
import linecache
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compare.ports.frames import Frame

PRINTED_ROWS = 12  # rows of the table that are printed, the worst of them
AROUND = 8  # lines before and after the one that is lit

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --soft: #60646c; --line: #d9d9e0; --panel: #f6f7f9;
  --lit: #ffe8a3; --same: #18794e; --different: #ca244d; --undecided: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --back: #111113; --text: #edeef0; --soft: #b0b4ba; --line: #363a3f;
  --panel: #18191b; --lit: #4d3d00; --same: #3dd68c; --different: #ff949d; --undecided: #f5d90a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem; max-width: 80rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 1rem; } h2 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
.same { color: var(--same); } .different { color: var(--different); } .undecided { color: var(--undecided); }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem; }
.side { min-width: 0; border: 1px solid var(--line); border-radius: .5rem; background: var(--panel); }
.side header { padding: .5rem .75rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.side header small { color: var(--soft); }
pre { margin: 0; padding: .5rem 0; overflow-x: auto; font: .85rem/1.5 ui-monospace, monospace; }
pre span { display: block; padding: 0 .75rem; white-space: pre; min-width: max-content; }
pre .lit { background: var(--lit); font-weight: 600; }
pre i { display: inline-block; width: 3rem; color: var(--soft); font-style: normal; user-select: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
"""


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
    return linecache.getline(frame.file, frame.line).strip()


# --- as a page -------------------------------------------------------------------------------------------------------


def page(report: Report) -> str:
    """The page as text."""
    text = html.escape
    parts = [f'<h1><span class="{report.verdict}">{report.verdict}</span>: {text(report.reason)}</h1>']
    first = report.first
    if first is not None:
        parts.append(f"<h2>First difference, {text(first.direction)}</h2>")
        parts.append(
            '<div class="sides">'
            + side("a", report.kind_a, first.a, first.path_a, first.frames_a)
            + side("b", report.kind_b, first.b, first.path_b, first.frames_b)
            + "</div>"
        )
        facts = {
            "relative difference": f"{number(first.inputs_rel)} before, {number(first.outputs_rel)} after",
            "pattern": first.pattern,
            "hint": first.hint,
            "note": first.note,
        }
        listed = "".join(f"<dt>{name}</dt><dd>{text(fact)}</dd>" for name, fact in facts.items() if fact)
        parts.append(f"<dl>{listed}</dl>")
    parts += [f"<h2>Comparisons, {text(report.precision)}</h2>", table(report)]
    said = [*report.notes, *([f"weights: {', '.join(report.links)}"] if report.links else [])]
    parts += [f"<p><small>{text(each)}</small></p>" for each in said]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{report.verdict}: {text(report.kind_a)} and {text(report.kind_b)}</title>"
        f"<style>{STYLE}</style></head>\n<body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def side(name: str, kind: str, where: str, path: str, frames: tuple[Frame, ...]) -> str:
    """One source with its line lit."""
    inside = f" in {html.escape(path)}" if path else ""
    callers = (
        f"<br><small>called from {html.escape(', '.join(map(str, frames[1:4])))}</small>" if len(frames) > 1 else ""
    )
    head = f"<header><strong>{name}</strong> ({html.escape(kind)}) {html.escape(where)}{inside}{callers}</header>"
    code = "".join(lines(frames[0])) if frames else ""
    return f'<section class="side">{head}<pre tabindex="0">{code}</pre></section>'


def lines(frame: Frame) -> Iterator[str]:
    """The source around a line."""
    source = linecache.getlines(str(Path(frame.file)))
    for k in range(max(1, frame.line - AROUND), min(len(source), frame.line + AROUND) + 1):
        lit = ' class="lit" aria-current="true"' if k == frame.line else ""
        yield f"<span{lit}><i>{k}</i>{html.escape(source[k - 1].rstrip())}</span>"


def table(report: Report) -> str:
    """Every comparison, those that failed first."""
    rows = sorted(report.rows, key=lambda row: row.passed)
    titles = ("", f"a: {report.kind_a}", f"b: {report.kind_b}", "rel", "limit", "")
    head = f"<tr>{''.join(f'<th>{html.escape(title)}</th>' for title in titles)}</tr>"
    return f'<div class="scroll" tabindex="0"><table>{head}{"".join(map(line, rows))}</table></div>'


def line(row: Row) -> str:
    """One row of the table."""
    mark, style = ("ok", "same") if row.passed else ("different", "different")
    note = f" ({html.escape(row.note)})" if row.note else ""
    return (
        f"<tr><td>{row.what}</td><td>{html.escape(row.a)}</td><td>{html.escape(row.b)}</td>"
        f'<td class="n">{number(row.rel)}</td><td class="n">{number(row.tolerance)}</td>'
        f'<td class="{style}">{mark}{note}</td></tr>'
    )


def number(value: float) -> str:
    """A distance in five characters or so."""
    return "0" if value == 0 else f"{value:.1e}" if math.isfinite(value) else "-"

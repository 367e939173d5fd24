"""What stands on report.html: the sections of report.md with their figures, for one comparison or several."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from compare.report.html import bars, grids, pictures, plots, roof
from compare.report.html.plots import Plot
from compare.report.markdown import markdown, sections
from compare.report.summary import headline
from compare.results import Results, groups, machine_facts, name_of, numbers, speed_withheld, spread, tested, title
from compare.statistics import ratio_of_medians
from compare.style import track_styles

FOLDER = Path(__file__).parent
SCRIPTED = ("traces", "layout", "control", "titles")  # of a plot
Comparison = tuple[str, Results]  # what it is called, and what it found
Figures = Callable[[Results], Mapping[str, Sequence[Any]]]  # by preset


@dataclass(frozen=True)
class Part:
    """A section: its figures, the buttons above them, and words where report.md has no such section."""

    figures: tuple[Figures, ...] = ()
    control: str = ""
    words: str = ""
    together: bool = False  # one figure for each preset, which stand beside each other


PARTS = {
    "Verdict": Part(),
    "Results": Part((bars.speeds,), together=True),
    "Curves": Part((plots.learning,), control="clock"),
    "The same model: the proof": Part((grids.proofs,)),
    "Drift: the end of training": Part(),
    "Where the time goes": Part((bars.cold_times,), control="cold", together=True),
    "Memory": Part(
        (bars.memory,),
        together=True,
        words="Resident memory of a run's process at its highest, up to its first save. The lower part is there as "
        "soon as the libraries are imported.",
    ),
    "The roofline": Part(
        (roof.roofline,),
        together=True,
        words="A training step can be no faster than the multipliers (the flat part, a large matrix product) nor than "
        "memory (the slope), if no cache helps. Each preset stands at the operations it has for a byte that its step "
        "moves: in the slope it waits for memory, under the flat part it could multiply all the time. What a track "
        "stays below the line, it loses to small products, copies and Python; above the slope, caches help it.",
    ),
    "What they get wrong": Part((grids.confusions, pictures.mistakes)),
    "What the first layer looks for": Part(
        (pictures.filters,),
        words="Weights of the same units in every track, each scaled to its largest: blue is negative, orange "
        "positive (of a layer that sees colours: the colours). All tracks began at the same values, so what differs "
        "between the rows is drift.",
    ),
    "Known unfairness": Part(),
    "What did not finish": Part(),
    "Machine": Part(),
    "To reproduce": Part(),
}


@dataclass(frozen=True)
class Block:
    """What one comparison has to say in a section."""

    comparison: str
    command: str
    text: str  # HTML
    presets: dict[str, list[Any]]  # figures by preset, or all of them together under no name


@dataclass(frozen=True)
class Section:
    """A heading and, side by side, a block for each comparison."""

    title: str
    id: str
    control: str
    blocks: list[Block]


def page(comparisons: Sequence[Comparison]) -> str:
    """The whole of report.html, self-contained."""
    count = itertools.count()
    found = [_section(name, part, comparisons, count) for name, part in PARTS.items()]
    drawn = [
        figure for section in found for block in section.blocks for each in block.presets.values() for figure in each
    ]
    styles = track_styles(
        track for _, results in comparisons for tracks in groups(results).values() for track in tracks
    )
    return (
        _templates()
        .get_template("template.html")
        .render(
            title=title(comparisons[0][1]) if len(comparisons) == 1 else f"{len(comparisons)} comparisons side by side",
            comparisons=[(name, results, headline(results), machine_facts(results)) for name, results in comparisons],
            overview=_rendered(side_by_side(comparisons), "Side by side") if len(comparisons) > 1 else "",
            sections=[section for section in found if section.blocks],
            tracks=[(track, name_of(track), style, plots.dash(style)) for track, style in styles.items()],
            clocks=plots.CLOCKS,
            figures=_json({figure.id: figure for figure in drawn if isinstance(figure, Plot)}),
            style=_file("style.css"),
            script=_file("script.js"),
            plotly=_file("plotly-basic.min.js"),
        )
    )


def side_by_side(comparisons: Sequence[Comparison]) -> str:
    """A table of accuracy and speed of every comparison, and how the speed compares with the first one's."""
    pairs = dict.fromkeys(
        (preset, track) for _, results in comparisons for preset, tracks in groups(results).items() for track in tracks
    )
    rows = []
    for preset, track in pairs:
        cells, first = [preset, name_of(track)], None
        for _, results in comparisons:
            runs = groups(results).get(preset, {}).get(track, [])
            accuracy = spread([100 * value for value in numbers(tested(runs), "test_accuracy")], unit="%")
            speed = [] if not runs or speed_withheld(results, runs) else numbers(tested(runs), "images_per_second")
            against = f"; {ratio_of_medians(speed, first).describe()}" if speed and first else ""
            first = first or speed
            cells += [accuracy, f"{statistics.median(speed):,.0f}{against}" if speed else "-"]
        rows.append(cells)
    headers = ["preset", "track", *(f"{name}: {what}" for name, _ in comparisons for what in ("accuracy", "images/s"))]
    return markdown(headers, rows)


def _section(name: str, part: Part, comparisons: Sequence[Comparison], count: Iterator[int]) -> Section:
    blocks = []
    for comparison, results in comparisons:
        presets: dict[str, list[Any]] = {}
        for figures in part.figures:
            for preset, drawn in figures(results).items():
                presets.setdefault("" if part.together else preset, []).extend(
                    dataclasses.replace(each, id=f"plot-{next(count)}") if isinstance(each, Plot) else each
                    for each in drawn
                )
        presets = {preset: drawn for preset, drawn in presets.items() if drawn}
        text = sections(results).get(name) or (part.words if presets else "")
        if text or presets:
            command = results.get("command") or "the command was not recorded"
            blocks.append(Block(comparison, command, _rendered(text, name), presets))
    return Section(name, re.sub(r"\W+", "-", name.lower()), part.control, blocks)


def _rendered(text: str, name: str) -> str:
    """Markdown as HTML; what stands in results.json is text, never markup. Wide tables scroll by themselves."""
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    html = html.replace("<th>", '<th scope="col">')
    scrolling = f'<div class="scroll" role="region" tabindex="0" aria-label="Table: {name}"><table>'
    return html.replace("<table>", scrolling).replace("</table>", "</table></div>")


def _json(drawn: Mapping[str, Plot]) -> str:
    """What script.js draws, as the content of a script element."""
    wanted = {id: {name: getattr(plot, name) for name in SCRIPTED} for id, plot in drawn.items()}
    return json.dumps(wanted, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


@cache
def _file(name: str) -> str:
    """A file that is written into the page as it is."""
    return (FOLDER / name).read_text(encoding="utf-8")


__all__ = ["page"]

"""The content of report.html: the sections of report.md with their figures, for one comparison or several."""

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

from compare.report import status
from compare.report.html import bars, grids, pictures, plots, roof
from compare.report.html.plots import Plot
from compare.report.markdown import FIGURES_ONLY, TITLES, folded, markdown, sections
from compare.report.style import name_of, track_styles
from compare.report.summary import headline, machine_facts, title
from compare.results.parity import speed_withheld
from compare.results.runs import WARNING, disturbed, groups, numbers, spread, tested
from compare.results.schema import Results, RunResult
from compare.statistics import ratio_of_medians

FOLDER = Path(__file__).parent
SCRIPTED = ("traces", "layout", "control", "titles")  # of a plot
Comparison = tuple[str, Results]  # its name and its results
Figures = Callable[[Results], Mapping[str, Sequence[Any]]]  # by preset


@dataclass(frozen=True)
class Part:
    """What a section shows beside its text: figures, and the buttons above them."""

    figures: tuple[Figures, ...] = ()
    control: str = ""
    together: bool = False  # the figures of all presets side by side


PARTS = {
    "curves": Part((plots.learning,), control="clock"),
    "parity": Part((grids.parity,)),
    "time": Part((bars.cold_times,), control="cold", together=True),
    "memory": Part((bars.memory,), together=True),
    "roofline": Part((roof.roofline,), together=True),
    "errors": Part((grids.confusion_matrices, pictures.misclassified)),
    "filters": Part((pictures.filters,)),
}


@dataclass(frozen=True)
class Block:
    """The text and figures of one comparison in a section."""

    comparison: str
    command: str
    text: str  # HTML
    folded: str  # HTML of what only a click shows, with the figures
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
    texts = [sections(results) for _, results in comparisons]
    networks = [_networks(results, count) for _, results in comparisons]
    found = [_section(name, comparisons, [text[name] for text in texts], count) for name in TITLES]
    drawn = [plot for cards in networks for _, plot in cards] + [
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
            first_screens=[
                (status.strip(results), status.amber(results), cards)
                for (_, results), cards in zip(comparisons, networks, strict=True)
            ],
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


def _networks(results: Results, count: Iterator[int]) -> list[tuple[status.Card, Plot]]:
    """The small table of each network, and the bar chart of its speeds beside it."""
    charts = bars.speeds(results)
    return [
        (card, dataclasses.replace(charts[card.preset][0], id=f"plot-{next(count)}")) for card in status.cards(results)
    ]


def side_by_side(comparisons: Sequence[Comparison]) -> str:
    """A table of accuracy and speed of every comparison, and the ratio of each speed to the first one's.

    No ratio across runs of which one was disturbed, or which differ in machine, steps or what a step is.
    """
    pairs = dict.fromkeys(
        (preset, track) for _, results in comparisons for preset, tracks in groups(results).items() for track in tracks
    )
    rows = []
    for preset, track in pairs:
        cells: list[str] = [preset, name_of(track)]
        first: tuple[list[float], dict[str, Any]] | None = None
        for _, results in comparisons:
            runs = groups(results).get(preset, {}).get(track, [])
            accuracy = spread([100 * value for value in numbers(tested(runs), "test_accuracy")], unit="%")
            speed = [] if not runs or speed_withheld(results, runs) else numbers(tested(runs), "images_per_second")
            against = ""
            if speed and disturbed(runs):
                against = f" {WARNING}"
            elif speed and first:
                against = f"; {_ratio(speed, _comparable(results, runs[0]), *first)}"
            elif speed:
                first = speed, _comparable(results, runs[0])
            cells += [accuracy, f"{statistics.median(speed):,.0f}{against}" if speed else "-"]
        rows.append(cells)
    headers = ["preset", "track", *(f"{name}: {what}" for name, _ in comparisons for what in ("accuracy", "images/s"))]
    return markdown(headers, rows)


def _ratio(speed: list[float], here: dict[str, Any], first: list[float], there: dict[str, Any]) -> str:
    """The ratio to the first speed, or what forbids it."""
    other = [name for name, value in here.items() if value != there[name]]
    return f"no ratio: other {' and '.join(other)}" if other else ratio_of_medians(speed, first).describe()


def _comparable(results: Results, run: RunResult) -> dict[str, Any]:
    """What two speeds must have in common to be a ratio."""
    environment = results["environment"]
    return {
        "machine": (environment["cpu"], environment["cores"], environment["threads"], run["hardware"]),
        "steps": run["steps"],
        "batch": run["batch_size"],
        "precision": run["precision"],
        "network": (run["model"], run["parameters"]),
    }


def _section(name: str, comparisons: Sequence[Comparison], texts: Sequence[str], count: Iterator[int]) -> Section:
    part, heading, blocks = PARTS.get(name, Part()), TITLES[name], []
    for (comparison, results), text in zip(comparisons, texts, strict=True):
        presets: dict[str, list[Any]] = {}
        for figures in part.figures:
            for preset, drawn in figures(results).items():
                presets.setdefault("" if part.together else preset, []).extend(
                    dataclasses.replace(each, id=f"plot-{next(count)}") if isinstance(each, Plot) else each
                    for each in drawn
                )
        presets = {preset: drawn for preset, drawn in presets.items() if drawn}
        if presets or (text and name not in FIGURES_ONLY):
            more = _rendered(folded(results).get(name, ""), f"{heading}, in full")
            blocks.append(Block(comparison, results["command"], _rendered(text, heading), more, presets))
    return Section(heading, re.sub(r"\W+", "-", heading.lower()), part.control, blocks)


def _rendered(text: str, name: str) -> str:
    """Markdown as HTML; the content of results.json is text, never markup. Wide tables scroll."""
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
    """A file that is included in the page unchanged."""
    return (FOLDER / name).read_text(encoding="utf-8")

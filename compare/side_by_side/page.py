"""From aligned and measured statements to one self-contained page."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from compare.side_by_side.align import Aligned, Row, align
from compare.side_by_side.gradients import partners
from compare.side_by_side.statements import Statement, lines
from compare.side_by_side.topics import MODELS, PACKAGES, VIEWS, View, views
from compare.side_by_side.trace import TOLERANCE, Measured, measure

NAMES = {"numpy": "NumPy", "jax": "JAX", "torch": "PyTorch"}
FOLDER = Path(__file__).resolve().parent
REPORT = FOLDER.parent / "report" / "html"


@dataclass
class Line:
    """A statement as the page shows it."""

    id: str
    track: str
    place: str  # file and line
    code: list[tuple[int, int, str]]  # number, indentation, highlighted text
    twins: list[str] = field(default_factory=list)  # ids, in the other tracks
    partners: list[str] = field(default_factory=list)  # ids, in the other pass of NumPy
    arrays: str = ""
    runs: int | None = None  # None where the page does not run the function
    gap: float | None = None  # largest relative difference of the tracks
    gaps: str = ""  # of each pair of tracks
    differs: bool = False
    first: bool = False  # the first line to run of those that differ
    derived: bool = False  # shown beside the NumPy line that computes its gradient


@dataclass
class Shown:
    """A view as the page shows it: rows of lines by track, block by block."""

    name: str
    title: str
    blocks: list[list[dict[str, Line]]]
    counts: list[str]  # of each track: how many of its statements have a twin
    sources: dict[str, list[str]]  # files of each track


def shown_topic(topic: str) -> list[Shown]:
    """All views of a topic, aligned, and for a model measured."""
    found = views(topic)
    aligned = {name: align(view) for name, view in found.items()}
    measured: dict[str, Measured] = {}
    if topic in MODELS:
        measured = measure(topic, aligned["forward"], {track: found["forward"].of(track) for track in PACKAGES})
    other = partners(found["forward"], found["backward"]) if {"forward", "backward"} <= found.keys() else {}
    twins = {id: each for view in aligned.values() for id, each in view.twins.items()}
    page = Lines(twins, other, measured)
    made = []
    for name, view in found.items():
        blocks = [
            [{track: page.line(each) for track, each in in_order(row).items()} for row in rows]
            for rows in aligned[name].rows.values()
        ]
        if name == "backward" and other:
            blocks = [page.beside_forward(rows, aligned["forward"]) for rows in aligned[name].rows.values()]
        sources = {track: list(dict.fromkeys(each.path for each in view.of(track))) for track in PACKAGES}
        made.append(Shown(name, VIEWS[name], blocks, list(counts(view, aligned[name])), sources))
    return made


def in_order(row: Row) -> Row:
    """The row with NumPy first."""
    return {track: row[track] for track in PACKAGES if track in row}


def counts(view: View, aligned: Aligned) -> Iterator[str]:
    """How many statements of each track have a twin in another; headers of functions and docstrings aside."""
    for track in PACKAGES:
        statements = [each for each in view.of(track) if each.kind not in ("Doc", "FunctionDef", "ClassDef")]
        paired = sum(bool(aligned.twins.get(each.id)) for each in statements)
        yield f"{NAMES[track]} {paired} of {len(statements)}"


@dataclass
class Lines:
    """Makes the lines of one topic; what is known of a statement is found by its id."""

    twins: dict[str, set[Statement]]
    other: dict[str, list[Statement]]  # in the other pass of NumPy
    measured: dict[str, Measured]

    def line(self, statement: Statement, *, derived: bool = False) -> Line:
        """A statement with all that is known of it."""
        found = self.measured.get(statement.id)
        gaps = found.gaps if found else {}
        return Line(
            id=statement.id,
            track=statement.track,
            place=f"{statement.path}:{statement.first}",
            code=[
                (number, max(indent - indent_of(statement), 0), text)
                for number in range(statement.shown, statement.last + 1)
                for indent, text in [highlighted(statement.path)[number - 1]]
            ],
            twins=sorted(each.id for each in self.twins.get(statement.id, ())),
            partners=list(dict.fromkeys(each.id for each in self.other.get(statement.id, ()))),
            arrays=found.arrays if found else "",
            runs=found.runs if found else None,
            gap=max(gaps.values(), default=None),
            gaps=", ".join(f"{NAMES[a]} and {NAMES[b]} {gap:.1e}" for (a, b), gap in gaps.items()),
            differs=bool(found and found.differs is not None),
            first=bool(found and found.first),
            derived=derived,
        )

    def beside_forward(self, rows: list[Row], forward: Aligned) -> list[dict[str, Line]]:
        """Rows of a NumPy backward pass, each with the lines of JAX and PyTorch whose gradient it computes."""
        made, seen = [], set()
        for row in rows:
            found = {track: self.line(each) for track, each in in_order(row).items()}
            for partner in self.other.get(row["numpy"].id, []) if list(row) == ["numpy"] else []:
                if partner.kind in ("FunctionDef", "Doc", "Return"):
                    continue
                for twin in sorted(forward.twins.get(partner.id, ()), key=lambda each: each.first):
                    if twin.id not in seen and twin.track not in found:
                        seen.add(twin.id)
                        found[twin.track] = self.line(twin, derived=True)
            made.append(found)
        return made


def indent_of(statement: Statement) -> int:
    """The indentation of methods, which is not shown."""
    return 4 if highlighted(statement.path)[statement.first - 1][0] and statement.kind != "ClassDef" else 0


@cache
def highlighted(path: str) -> list[tuple[int, str]]:
    """Indentation and highlighted text of each line of a source file."""
    html = highlight("\n".join(lines(path)) + "\n", PythonLexer(stripnl=False), HtmlFormatter(nowrap=True))
    texts = html.split("\n")
    return [
        (len(line) - len(line.lstrip()), text.replace(" " * (len(line) - len(line.lstrip())), "", 1))
        for line, text in zip(lines(path), texts, strict=False)
    ]


def colours() -> str:
    """Pygments' colours for a light and a dark page."""
    light, dark = (HtmlFormatter(style=name).get_token_style_defs(".code") for name in ("default", "github-dark"))
    light, dark = "\n".join(light), "\n".join(dark)
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def page(topics: Sequence[str], note: Callable[[str], object] = lambda topic: None) -> str:
    """The whole page, with all that it needs; ``note`` gets each topic before it is read and run."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made = {}
    for topic in topics:
        note(topic)
        made[topic] = shown_topic(topic)
    return environment.get_template("page.html").render(
        topics=made,
        models=MODELS,
        views=VIEWS,
        names=NAMES,
        tolerance=f"{TOLERANCE:g}".replace("e-0", "e-"),
        style=(REPORT / "style.css").read_text("utf-8") + (FOLDER / "page.css").read_text("utf-8"),
        colours=colours(),
        script=(FOLDER / "page.js").read_text("utf-8"),
        first=[line.place for shown in made.values() for line in lines_of(shown) if line.first],
        measured=any(topic in MODELS for topic in topics),
    )


def lines_of(shown: Sequence[Shown]) -> Iterator[Line]:
    """All lines of the views of a topic."""
    for view in shown:
        for row in itertools.chain.from_iterable(view.blocks):
            yield from row.values()

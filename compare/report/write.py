"""From results to files: the table in the terminal, report.html, report.md and curves.png."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from compare.files import write_atomically
from compare.report import status
from compare.report.markdown import COLUMNS, document, row
from compare.results.runs import WARNING, groups
from compare.results.schema import Results

COLORS = {status.GOOD: "green", status.BAD: "red", WARNING: "yellow", status.UNKNOWN: ""}
WIDTH = 110  # of the table where no terminal says otherwise


def table(results: Results) -> Table:
    """Accuracy, speed, cost and drift of every preset and track; fits 80 columns."""
    caption = "Drift is expected: training amplifies the rounding of float32." if results["drift"] else None
    made = Table(
        box=box.SIMPLE_HEAD, padding=0, pad_edge=False, header_style="bold", caption=caption, caption_justify="left"
    )
    made.add_column("preset\ntrack", no_wrap=True)
    for name in COLUMNS[2:]:
        wordy = name in ("images/s", COLUMNS[-1])  # a reason, the name of a leaf: these may fold
        widths: dict[str, Any] = {"overflow": "fold", "min_width": 8, "max_width": 24} if wordy else {"no_wrap": True}
        made.add_column(name, justify="left" if name == COLUMNS[-1] else "right", **widths)
    for preset, tracks in groups(results).items():
        for track, runs in tracks.items():
            made.add_row(
                f"[bold]{escape(preset)}[/]\n{escape(track)}", *map(Text, row(results, preset, track, runs)[2:])
            )
        made.add_section()
    return made


def show(results: Results, console: Console | None = None) -> None:
    """Print the table and the verdict in three lines; a file or a pipe is as wide as it needs."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, WIDTH))
    console.print(table(results))
    lines = [(f"{mark} {name}: {sentence}", mark) for name, mark, _, sentence in status.strip(results)]
    if amber := status.amber(results):
        lines.append((amber, WARNING))
    for line, mark in lines:
        console.print(Text(line, style=COLORS[mark]), soft_wrap=not console.is_terminal)


def import_libraries() -> None:
    """Import what :func:`write` needs, which takes a second: may be done while something else is waited for."""
    import compare.report.html.content  # noqa: F401


def write(results: Results, out_dir: Path | str) -> list[Path]:
    """Write report.html, report.md and curves.png into `out_dir`."""
    from compare.report.figure import figure
    from compare.report.html.content import page

    out_dir = Path(out_dir)
    return [
        write_atomically(out_dir / "report.html", page([(out_dir.name, results)]).encode()),
        write_atomically(out_dir / "report.md", document(results).encode()),
        write_atomically(out_dir / "curves.png", figure(results)),
    ]


def write_together(comparisons: Mapping[Path, Results], out: Path | None) -> Path:
    """Write one page of several comparisons: to `out`, or as side-by-side.html into the folder that holds them all."""
    from compare.report.html.content import page

    out = out or Path(os.path.commonpath([path.absolute().parent for path in comparisons]), "side-by-side.html")
    names = [path.name for path in comparisons]
    names = names if len({*names}) == len(names) else [str(path) for path in comparisons]
    return write_atomically(out, page(list(zip(names, comparisons.values(), strict=True))).encode())

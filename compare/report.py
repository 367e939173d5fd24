"""From results.json to what people read: a table in the terminal, report.md and curves.png.

python -m compare.report DIR...      writes both files again
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from compare.errors import UserError, command_line
from compare.results import Results, groups, read
from compare.sections import COLUMNS, document, row

__all__ = ["main", "read", "show", "table", "write"]

WIDTH = 110  # of the table where no terminal says otherwise


def table(results: Results) -> Table:
    """Track x preset: what came out, how fast, at what cost, how far from NumPy; 80 columns are enough."""
    made = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, header_style="bold")
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
    """Print the table; a file or a pipe is as wide as it needs."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, WIDTH))
    console.print(table(results))


def write(results: Results, out_dir: Path | str) -> list[Path]:
    """Write report.md and curves.png into `out_dir`: each appears complete or not at all."""
    from compare.curves import figure

    out_dir = Path(out_dir)
    written = [out_dir / "report.md", out_dir / "curves.png"]
    contents = [document(results).encode(), figure(results)]
    for path, content in zip(written, contents, strict=True):
        part = path.with_name(f".{path.name}.part")
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            os.replace(part, path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}; choose another folder.") from error
    return written


@command_line
def main(arguments: list[str] | None = None) -> int:
    """`python -m compare.report DIR...`"""
    parser = argparse.ArgumentParser(prog="python -m compare.report", description="Write report.md and curves.png.")
    parser.add_argument("directories", metavar="DIR", nargs="+", type=Path, help="a folder with a results.json")
    for directory in parser.parse_args(arguments).directories:
        results = read(directory)
        show(results)
        for path in write(results, directory if directory.is_dir() else directory.parent):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""From results.json to what people read: a table in the terminal, report.md and curves.png.

    python -m compare.report DIR...      writes both files again
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compare.errors import UserError
from compare.results import Results, groups, read
from compare.sections import COLUMNS, document, row

__all__ = ["main", "read", "show", "table", "write"]

WIDTH = 150  # of the table where no terminal says otherwise


def table(results: Results) -> Table:
    """Track x preset: what came out, how fast, at what cost, how far from NumPy."""
    made = Table(title="The same networks, by track", title_justify="left", header_style="bold")
    for name in COLUMNS:
        made.add_column(name, justify="left" if name in ("preset", "track", "largest gap to NumPy") else "right")
    for preset, tracks in groups(results).items():
        made.add_section()
        for track, runs in tracks.items():
            made.add_row(*row(results, preset, track, runs))
    return made


def show(results: Results, console: Console | None = None) -> None:
    """Print the table; a pipe or a file gets it unfolded."""
    console = console or Console()
    console.print(table(results), width=None if console.is_terminal else max(console.width, WIDTH), markup=False)


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


def main(arguments: list[str] | None = None) -> int:
    """`python -m compare.report DIR...`"""
    parser = argparse.ArgumentParser(prog="python -m compare.report", description="Write report.md and curves.png.")
    parser.add_argument("directories", metavar="DIR", nargs="+", type=Path, help="a folder with a results.json")
    try:
        for directory in parser.parse_args(arguments).directories:
            results = read(directory)
            show(results)
            for path in write(results, directory if directory.is_dir() else directory.parent):
                print(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

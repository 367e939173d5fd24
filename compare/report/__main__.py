"""Write report.html, report.md and curves.png of a comparison again, and print its table.

python -m compare.report DIR                       the three files of one comparison
python -m compare.report DIR DIR... [--out FILE]   also one page with all of the comparisons side by side

The folders of compare.benchmark, search, transfer and loaders are recognised: their own report is made again.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import cli
from compare.cli import command_line
from compare.report.figures import figures
from compare.report.write import show, write, write_together
from compare.results.reader import KIND, kind_of, read


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("report", __doc__, what="comparisons")
    options.add_argument("directories", metavar="DIR", nargs="+", type=cli.path, help="a folder with a results.json")
    cli.group(options, "output").add_argument(
        "--out", type=cli.output, metavar="FILE",
        help="page of several comparisons (default: side-by-side.html, above the folders)",
    )  # fmt: skip
    cli.add_json(options, "a list with the figures of each folder")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all files were written, 2 for invalid arguments."""
    options = parser().parse_args(arguments)
    with cli.figures(options.json) as tell:
        tell(again(options.directories, options.out), lambda: None)
    return 0


def again(paths: Sequence[Path], page: Path | None) -> list[dict[str, Any]]:
    """Write and print every report again, and ``page`` with all comparisons; returns the figures of each folder."""
    shown, found = [], {}
    for path in paths:
        folder, kind = path if path.is_dir() else path.parent, kind_of(path)
        if kind != KIND:
            shown.append({"folder": str(folder), **importlib.import_module(f"compare.{kind}.report").again(path)})
            continue
        results = found[folder] = read(path)
        show(results)
        for written in write(results, folder):
            print(written)
        shown.append(figures(results, folder))
    if len(found) > 1:
        print(write_together(found, page))
    return shown


if __name__ == "__main__":
    sys.exit(main())

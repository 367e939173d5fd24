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

from compare import cli
from compare.cli import command_line
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
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all files were written, 2 for invalid arguments."""
    options = parser().parse_args(arguments)
    kinds = {path: kind_of(path) for path in options.directories}
    for path, kind in kinds.items():
        if kind != KIND:
            importlib.import_module(f"compare.{kind}.report").again(path)
    comparisons = [path for path, kind in kinds.items() if kind == KIND]
    found = {path if path.is_dir() else path.parent: read(path) for path in comparisons}
    for directory, results in found.items():
        show(results)
        for path in write(results, directory):
            print(path)
    if len(found) > 1:
        print(write_together(found, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())

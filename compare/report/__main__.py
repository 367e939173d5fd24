"""From results.json to what people read: a table in the terminal, report.html, report.md and curves.png.

python -m compare.report DIR                       writes the three files again
python -m compare.report DIR DIR... [--out FILE]   and one page with all of the comparisons side by side
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compare.cli import command_line
from compare.report.write import show, write, write_together
from compare.results import read


@command_line
def main(arguments: list[str] | None = None) -> int:
    """`python -m compare.report DIR...`"""
    parser = argparse.ArgumentParser(
        prog="python -m compare.report", description="Write report.html, report.md and curves.png from results.json."
    )
    parser.add_argument("directories", metavar="DIR", nargs="+", type=Path, help="a folder with a results.json")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where the page of several goes (side-by-side.html, above the folders)"
    )
    options = parser.parse_args(arguments)
    found = {path if path.is_dir() else path.parent: read(path) for path in options.directories}
    for directory, results in found.items():
        show(results)
        for path in write(results, directory):
            print(path)
    if len(found) > 1:
        print(write_together(found, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Compare two implementations of a network, and name the line at which they first differ.

    python -m compare.ports FILE.py
    python -m compare.ports FILE.py:function --html report.html

The function, ``ports`` by default, takes nothing and returns the arguments of ``compare.ports.check``: a dictionary,
or a tuple (a, b, inputs). The report is printed, and written as a page with both sources side by side.
The exit status is 0 for the same, 1 for different, 2 for undecided and for invalid arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compare import cli
from compare.cli import command_line
from compare.errors import UserError
from compare.python_file import load_function, shortened

STATUS = {"same": 0, "different": 1, "undecided": 2}
FUNCTION = "ports"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("ports", __doc__, what="what to check")
    options.add_argument("file", metavar="FILE.py[:function]", help=f"returns the arguments (default: {FUNCTION})")
    options.add_argument("--html", metavar="PATH", type=Path, help="path of the page (default: FILE-report.html)")
    options.add_argument("--json", metavar="PATH", type=Path, help="also write the report as JSON")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 for the same, 1 for different, 2 for undecided or a wrong question."""
    options = parser().parse_args(arguments)
    name, _, function = options.file.partition(":") if ".py:" in options.file else (options.file, "", "")
    file = Path(name)
    given = arguments_of(load_function(file, function or FUNCTION), file)
    from compare.ports import check

    report = check(**given)
    print(report)
    page = report.to_html(options.html or Path(f"{file.stem}-report.html"))
    print(f"\nBoth sources side by side: {page}")
    if options.json:
        options.json.write_text(report.to_json(), encoding="utf-8")
    return STATUS[report.verdict]


def arguments_of(function: Callable[[], Any], file: Path) -> Mapping[str, Any]:
    """Call the function; its answer as keyword arguments of ``check``."""
    try:
        given = function()
    except Exception as error:
        raise UserError(f"{function.__name__}() of {file} raises:\n{shortened(error, file)}") from error
    if isinstance(given, tuple) and len(given) == 3:
        given = dict(zip(("a", "b", "inputs"), given, strict=True))
    if not isinstance(given, Mapping) or not {"a", "b", "inputs"} <= given.keys():
        raise UserError(f"{function.__name__}() of {file} must return (a, b, inputs) or a dict with these keys")
    return given


if __name__ == "__main__":
    sys.exit(main())

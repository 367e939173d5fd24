"""Check the entries of machines and records, and write the pages that are made of them.

python -m compare.entries check runs/today/entry.json     would it be accepted, and if not, why
python -m compare.entries write                           docs/machines.md and docs/records.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from compare import cli
from compare.cli import command_line


def parser() -> argparse.ArgumentParser:
    """``check`` and ``write``."""
    options = cli.parser("entries", __doc__)
    commands = options.add_subparsers(dest="command", required=True)
    text = "check whether entries are accepted; exit status 1 if one is not"
    check = commands.add_parser("check", help=text, description=text)
    check.add_argument(
        "files", nargs="+", type=cli.path, metavar="FILE", help="an entry, or the folder of its benchmark"
    )
    text = "write docs/machines.md and docs/records.md from the entries"
    commands.add_parser("write", help=text, description=text)
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, 1 if an entry is refused, 2 for a file that is no entry."""
    options = parser().parse_args(arguments)
    from compare.entries import pages
    from compare.files import write_atomically

    if options.command == "write":
        for path, text in pages.pages().items():
            print(cli.shown(write_atomically(path, text.encode())))
        return 0
    refused = 0
    for file in options.files:
        found = pages.refusals(file / "entry.json" if file.is_dir() else file)
        refused += bool(found)
        print(f"{cli.shown(file)}: {'refused' if found else 'accepted'}")
        for reason in found:
            print(f"  {reason}")
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main())

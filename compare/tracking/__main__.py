"""Open MLflow's page of the runs, log comparisons that were not tracked, or register their best networks."""

from __future__ import annotations

import argparse
import sys

from compare import cli
from compare.cli import command_line


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("tracking", __doc__)
    commands = options.add_subparsers(dest="command", required=True)
    text = "log an existing results.json with its report, curves, checkpoints and models; nothing is logged twice"
    to_log = commands.add_parser("log", help=text, description=text)
    to_log.add_argument("directories", metavar="DIR", nargs="+", type=cli.path, help="a folder with a results.json")
    to_log.add_argument("--experiment", default="compare", metavar="NAME", help="MLflow experiment (default: compare)")
    text = "register the network with the highest validation accuracy of each preset, with the alias best"
    to_register = commands.add_parser("best", help=text, description=text)
    to_register.add_argument("directory", metavar="DIR", type=cli.path, help="folder of a comparison that is in MLflow")
    to_register.add_argument("--name", metavar="NAME", help="name of the registered model (default: the preset's)")
    text = "serve MLflow's page on this machine, and print the address of the runs"
    to_open = commands.add_parser("ui", help=text, description=text)
    to_open.add_argument("--port", type=int, default=5000, help="port to listen on (default: 5000)")
    return options


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Return 0 if all was logged, 2 for invalid arguments or a store that does not work."""
    options = parser().parse_args(arguments)
    from compare.tracking import commands

    if options.command == "ui":
        commands.ui(options.port)
    elif options.command == "best":
        print(*commands.best(options.directory, name=options.name), sep="\n")
    else:
        for directory in options.directories:
            print(f"{directory}: logged as run {commands.log(directory, experiment=options.experiment)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

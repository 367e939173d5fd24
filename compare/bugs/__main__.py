"""Plant a classic bug in this project's own code, and find it.

python -m compare.bugs ls                 the bugs by name, and whether one is planted
python -m compare.bugs plant              plant a secret bug; plant NAME plants a given one
python -m compare.bugs hint               the symptom, then the file, then a failing test
python -m compare.bugs solve              name the bug and restore the right lines
python -m compare.bugs show NAME          compare with and without the bug, in a copy: accuracy, gradients, parity
python -m compare.bugs check NAME         check that a test passes without the bug and fails with it, in a copy
python -m compare.bugs mutate             make random small edits in a copy, and count those that no test notices
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from compare import cli
from compare.bugs.bug import RIGHT, Bug
from compare.bugs.mutate import MODULES, mutate
from compare.bugs.planting import BUGS, current, difference, plant, remember, solve
from compare.cli import command_line
from compare.errors import UserError, look_up

ROOT = Path(__file__).resolve().parents[2]


def parser() -> argparse.ArgumentParser:
    """``ls``, ``plant``, ``hint``, ``solve``, ``show``, ``check`` and ``mutate``."""
    options = cli.parser("bugs", __doc__)
    commands = options.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", help="list the bugs by name, and whether one is planted")
    planting = commands.add_parser("plant", help="plant a bug in the code: a random one, or the one named")
    planting.add_argument("name", nargs="?", metavar="NAME", help="default: a random one, whose name is not shown")
    planting.add_argument("--seed", type=cli.number(int, 0), metavar="N", help="seed of the random choice")
    commands.add_parser("hint", help="show one more hint: the symptom, then the file, then a failing test")
    solving = commands.add_parser("solve", help="name the bug, and remove it if it is still there")
    solving.add_argument(
        "--keep", action="store_true", help="leave the file as it is, if you have fixed it in another way"
    )
    showing = commands.add_parser("show", help="train with and without the bug, in a copy, and compare (a minute)")
    showing.add_argument("name", metavar="NAME", help="see ls")
    checking = commands.add_parser(
        "check", help="check that a test fails with the bug, in a copy; exit status 1 if it passes"
    )
    checking.add_argument("name", nargs="?", metavar="NAME", help="see ls")
    checking.add_argument("--all", action="store_true", help="check every bug (some minutes)")
    mutating = commands.add_parser("mutate", help="make random small edits in a copy, and count those that survive")
    mutating.add_argument("--module", choices=MODULES, action="append", help="module to edit (default: all in turn)")
    mutating.add_argument(
        "--limit", type=cli.number(int, 1), default=20, metavar="N", help="number of edits (default: 20)"
    )
    mutating.add_argument("--seed", type=cli.number(int, 0), default=0, metavar="N", help="seed of the random choice")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, 1 if a check finds that a bug is not caught, 2 for a usage error."""
    options = parser().parse_args(arguments)
    if not (ROOT / "tests").is_dir():
        raise UserError(f"{ROOT} has no tests: the bug zoo needs a clone of the whole project")
    if options.command == "ls":
        return listing()
    if options.command == "plant":
        return planted(options.name, options.seed)
    if options.command == "hint":
        return hint()
    if options.command == "solve":
        return solved(keep=options.keep)
    if options.command == "show":
        return shown(named(options.name))
    if options.command == "mutate":
        return mutate(ROOT, options.module or list(MODULES), limit=options.limit, seed=options.seed)
    if bool(options.name) == options.all:
        raise UserError("nothing to check: give the NAME of a bug, or --all")
    return checked(list(BUGS.values()) if options.all else [named(options.name)])


def named(name: str) -> Bug:
    """Return a bug by name; UserError lists the known names."""
    return look_up("bug", name, BUGS)


# --- the game ---------------------------------------------------------------------------------------------------------


def listing() -> int:
    """Print a line for each bug, and whether one is planted; a secret name is not shown."""
    for bug in BUGS.values():
        print(f"{bug.name:<20} {bug.file}")
    game = current(ROOT)
    if game is None:
        print("\nNo bug is planted.")
    else:
        print(f"\nPlanted: {'one of them (secret)' if game.secret else game.name}")
    return 0


def planted(name: str | None, seed: int | None) -> int:
    """Plant a bug in the working tree."""
    bug = named(name) if name else random.Random(seed).choice(list(BUGS.values()))
    plant(bug, ROOT, secret=name is None)
    print(f"{bug.name}: {bug.story}" if name else "A bug is planted. (To play fair, do not look at git diff.)")
    print("Find it with curves, tests and `python -m compare.parity`. `hint` gives a hint, `solve` ends the game.")
    return 0


def hint() -> int:
    """Print the hints given so far and the next one."""
    game = current(ROOT)
    if game is None:
        raise UserError("no bug is planted: plant one with `python -m compare.bugs plant`")
    hints = (
        game.bug.symptom,
        f"It is in {game.bug.file}.",
        f"This test fails: python -m pytest -n 0 '{game.bug.caught_by}'",
    )
    print(*hints[: game.hints + 1], sep="\n")
    remember(ROOT, dataclasses.replace(game, hints=min(game.hints + 1, len(hints) - 1)))
    return 0


def solved(*, keep: bool) -> int:
    """Name and explain the bug, and remove it."""
    bug, stood = solve(ROOT, keep=keep)
    print(
        f"It was {bug.name}.\n\n{difference(bug, ROOT)}\n\n{bug.story}\n\nSymptom: {bug.symptom}\n\n"
        f"How to find it: {bug.lesson}\n"
    )
    if stood == RIGHT:
        print("You have already fixed it. Well done!")
    elif keep:
        print(f"{bug.file} was left as it is.")
    else:
        print(f"The right lines of {bug.file} are restored.")
    return 0


# --- in a copy --------------------------------------------------------------------------------------------------------


def shown(bug: Bug) -> int:
    """Measure with and without the bug, and print a table of both."""
    from rich.console import Console

    from compare.bugs.showing import measured, table

    print(f"{bug.name}: {bug.story}\n")
    Console().print(table(bug, *measured(bug, ROOT)))
    print(f"\n{bug.symptom}\n\n{bug.lesson}\n{bug.caught_by}")
    return 0


def checked(bugs: Sequence[Bug]) -> int:
    """Print for each bug whether its test passes without and fails with it; return 1 if not."""
    from compare.bugs.copies import check

    missed = 0
    for bug in bugs:
        without, broken = check(bug, ROOT)
        caught = without.passed and broken.failed
        missed += not caught
        words = broken.words if without.passed else f"fails without the bug: {without.words}"
        print(f"{bug.name:<20} {'caught' if caught else 'MISSED'} by {bug.caught_by}\n{'':<20} {words}", flush=True)
    print(f"{len(bugs) - missed} of {len(bugs)} caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

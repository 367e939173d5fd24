"""Play with the bug zoo: plant a classic bug in this project's own code, and find it.

python -m compare.bugs ls                 the bugs by name, and whether one is planted
python -m compare.bugs plant              one that you do not know; plant NAME takes a certain one
python -m compare.bugs hint               what one sees, then which file, then which test
python -m compare.bugs solve              which it was, and the right lines back in their place
python -m compare.bugs show NAME          trained with and without, in a copy: curve, accuracy, gradient check, proof
python -m compare.bugs check NAME         a test of ours is green without the bug, and red with it (in a copy)
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
from compare.bugs.planting import BUGS, current, difference, plant, remember, solve
from compare.cli import command_line
from compare.errors import UserError, look_up

ROOT = Path(__file__).resolve().parents[2]


def parser() -> argparse.ArgumentParser:
    """``ls``, ``plant``, ``hint``, ``solve``, ``show`` and ``check``."""
    options = cli.parser("bugs", __doc__)
    commands = options.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", help="the bugs by name, and whether one is planted")
    planting = commands.add_parser("plant", help="put a bug into the code: a secret one, or the one that is named")
    planting.add_argument("name", nargs="?", metavar="NAME", help="default: one drawn for you, and not told")
    planting.add_argument("--seed", type=cli.number(int, 0), metavar="N", help="draw the one of this seed")
    commands.add_parser("hint", help="one hint more: what one sees, then the file, then a test that is red")
    solving = commands.add_parser("solve", help="tell which it was, and take it out if it is still there")
    solving.add_argument("--keep", action="store_true", help="leave the file as it is: mended in other words")
    showing = commands.add_parser("show", help="train with the bug and without, in a copy, and compare (a minute)")
    showing.add_argument("name", metavar="NAME", help="see ls")
    checking = commands.add_parser("check", help="see a test turn red, in a copy; exit status 1 if it stays green")
    checking.add_argument("name", nargs="?", metavar="NAME", help="see ls")
    checking.add_argument("--all", action="store_true", help="every bug, one after the other (some minutes)")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, 1 where a check finds that a bug is not caught, 2 for what you can mend."""
    options = parser().parse_args(arguments)
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
    if bool(options.name) == options.all:
        raise UserError("check what? Give the NAME of a bug, or --all")
    return checked(list(BUGS.values()) if options.all else [named(options.name)])


def named(name: str) -> Bug:
    """Look up a bug; an unknown name is answered with the known ones."""
    return look_up("bug", name, BUGS)


# --- the game ---------------------------------------------------------------------------------------------------------


def listing() -> int:
    """Print a line for each bug, and what is planted; a secret stays one."""
    for bug in BUGS.values():
        print(f"{bug.name:<20} {bug.file}")
    game = current(ROOT)
    if game is None:
        print("\nNone is planted.")
    else:
        print(f"\nPlanted: {'one of them. Which?' if game.secret else game.name}")
    return 0


def planted(name: str | None, seed: int | None) -> int:
    """Put a bug into the working tree."""
    bug = named(name) if name else random.Random(seed).choice(list(BUGS.values()))
    plant(bug, ROOT, secret=name is None)
    print(f"{bug.name}: {bug.story}" if name else "A bug is planted, somewhere. (git diff would tell: do not look.)")
    print("Hunt it by curves, by tests, by `python -m compare.parity`; `hint` helps, `solve` ends it.")
    return 0


def hint() -> int:
    """Print what is known so far, and one thing more at each call."""
    game = current(ROOT)
    if game is None:
        raise UserError("no bug is planted: `python -m compare.bugs plant` chooses one for you")
    hints = (
        game.bug.symptom,
        f"It is in {game.bug.file}.",
        f"This test is red: python -m pytest -n 0 '{game.bug.caught_by}'",
    )
    print(*hints[: game.hints + 1], sep="\n")
    remember(ROOT, dataclasses.replace(game, hints=min(game.hints + 1, len(hints) - 1)))
    return 0


def solved(*, keep: bool) -> int:
    """Name the bug, explain it, and see that it is gone."""
    bug, stood = solve(ROOT, keep=keep)
    print(
        f"It was {bug.name}.\n\n{difference(bug, ROOT)}\n\n{bug.story}\n\nSeen: {bug.symptom}\n\nFound: {bug.lesson}\n"
    )
    if stood == RIGHT:
        print("The right lines stood there already: you have mended it yourself. Well done!")
    elif keep:
        print(f"{bug.file} was left as it is.")
    else:
        print(f"{bug.file} has the right lines again.")
    return 0


# --- in a copy --------------------------------------------------------------------------------------------------------


def shown(bug: Bug) -> int:
    """Measure with and without the bug, and print both side by side."""
    from rich.console import Console

    from compare.bugs.showing import measured, table

    print(f"{bug.name}: {bug.story}\n")
    Console().print(table(bug, *measured(bug, ROOT)))
    print(f"\n{bug.symptom}\n\n{bug.lesson}\n{bug.caught_by}")
    return 0


def checked(bugs: Sequence[Bug]) -> int:
    """Print for each bug whether its test tells the broken code from the right one."""
    from compare.bugs.copies import check

    missed = 0
    for bug in bugs:
        without, broken = check(bug, ROOT)
        caught = without.passed and broken.failed
        missed += not caught
        words = broken.words if without.passed else f"not green without the bug: {without.words}"
        print(f"{bug.name:<20} {'caught' if caught else 'MISSED'} by {bug.caught_by}\n{'':<20} {words}", flush=True)
    print(f"{len(bugs) - missed} of {len(bugs)} caught")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""Errors that the person at the keyboard can mend, and how a command line tells of them."""

from __future__ import annotations

import difflib
import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Thing = TypeVar("Thing")


class UserError(Exception):
    """Something outside the code is wrong: a file, a flag, a name, a server.

    The message names the thing and says what to do about it; the command line
    prints it without a traceback and exits with status 2.
    """


def look_up(kind: str, name: str, table: Mapping[str, Thing]) -> Thing:
    """What has this name; UserError answers an unknown one with the known ones."""
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        guess = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"unknown {kind} {name!r}.{guess} Known: {', '.join(table)}")
    return table[name]


def told(error: UserError) -> int:
    """Print what is wrong; returns the exit status for it, 2."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def command_line(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """A ``main`` that ends without a traceback where none would help.

    Status 2 for what the user can mend, 130 after Ctrl-C, and 141, as other programs have it, where whoever reads has
    seen enough (``| head``).
    """

    @functools.wraps(main)
    def ending_well(*arguments: Arguments.args, **options: Arguments.kwargs) -> int:
        try:
            status = main(*arguments, **options)
            sys.stdout.flush()
            return status
        except UserError as error:
            return told(error)
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more when it ends
            return 141

    return ending_well

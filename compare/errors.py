"""Errors that the user can fix: the message names the thing, the reason and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

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

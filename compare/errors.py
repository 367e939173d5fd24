"""Errors that the user can fix, and what decides whether a value is valid.

A message names the thing, the reason and the remedy: ``invalid device 'x': expected auto, cpu, gpu or gpu:N``.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Thing = TypeVar("Thing")


class UserError(Exception):
    """Something outside the code is wrong: a file, a flag, a name, a server.

    The message names the thing and says what to do about it; the command line
    prints it without a traceback and exits with status 2.
    """


def look_up(kind: str, name: str, table: Mapping[str, Thing]) -> Thing:
    """The entry of this name; UserError answers an unknown one with the names that are close, and with all of them."""
    if name not in table:
        raise UserError(f"unknown {kind} {name!r}.{suggestion(name, table)} Known: {', '.join(table)}")
    return table[name]


def suggestion(name: str, known: Iterable[str]) -> str:
    """`` Did you mean ...?``: names that have this one as a part, or are a part of it, or else the closest.

    Of many the three shortest. Empty if there is none.
    """
    known, parts = list(known), name.lower().split("-")
    related = [
        each
        for each in known
        if each.lower() in parts or (name and any(part.startswith(name.lower()) for part in each.lower().split("-")))
    ]
    close = sorted(related, key=len)[:3] or difflib.get_close_matches(name, known, n=1)
    words = " or ".join(filter(None, [", ".join(close[:-1]), *close[-1:]]))
    return f" Did you mean {words}?" if close else ""


def require_packages(what: str, *packages: str, extra: str) -> None:
    """Raise UserError, which names the extra that installs them, unless all packages are there; nothing is imported."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(f"{what} needs {' and '.join(missing)}: pip install 'nn-three-ways[{extra}]'")


# --- valid values -----------------------------------------------------------------------------------------------------

LARGEST = sys.float_info.max  # so that infinity and NaN are outside of every range


@dataclass(frozen=True)
class Valid:
    """The values that a setting may have, beside its type; a bound holds for each number of a list."""

    low: float = -LARGEST
    high: float = LARGEST
    above: bool = False  # low itself is not valid
    below: bool = False  # high itself is not valid
    length: int | None = None  # of a list
    choices: tuple[str, ...] = ()
    pattern: str = ""  # of a whole text
    shown: str = ""  # what the error says is expected, where the rest does not say it

    def expected(self, kind: Any) -> str:
        """What is valid, in words: ``a whole number from 1 to 64``."""
        if self.shown or self.choices:
            return self.shown or f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        base, inside = base_of(kind), typing.get_args(_required(kind))
        some = "" if self.length is None else f"{self.length} "
        if base is tuple:
            return f"a list of {some}{self._many(inside[0])}"
        if base is dict:
            return "names with values" + ("" if inside[1] is Any else f", {self._many(inside[1])}")
        return {bool: "true or false", str: "text"}.get(base) or f"a {self._many(base)}".replace("numbers", "number", 1)

    def _many(self, kind: Any) -> str:
        if kind is str:
            return "texts"
        low, high = f"{self.low:,}", f"{self.high:,}"
        if self.low > -LARGEST and self.high < LARGEST and not (self.above or self.below):
            limits = [f"from {low} to {high}"]
        else:
            limits = [f"above {low}" if self.above else f"of at least {low}"] * (self.low > -LARGEST)
            limits += [f"below {high}" if self.below else f"at most {high}"] * (self.high < LARGEST)
        return " ".join(filter(None, ["whole" if kind is int else "", "numbers", " and ".join(limits)]))

    def fits(self, value: Any, kind: Any) -> bool:
        """Is the value of this type (a type hint), and valid?"""
        if value is None:
            return _required(kind) is not kind or kind is Any
        kind = _required(kind)
        base, inside = base_of(kind), typing.get_args(kind)
        if base is bool:
            return isinstance(value, bool)
        if base in (int, float):
            number = isinstance(value, int if base is int else int | float) and not isinstance(value, bool)
            return number and self._holds(value)
        if base is str:
            known = not self.choices or value in self.choices
            return isinstance(value, str) and known and re.fullmatch(self.pattern or "(?s:.*)", value) is not None
        if base is tuple:
            right = isinstance(value, list | tuple) and self.length in (None, len(value))
            return right and all(self.fits(each, inside[0]) for each in value)
        if base is dict:
            right = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
            return right and all(self.fits(each, inside[1]) for each in value.values())
        return True

    def _holds(self, number: float) -> bool:
        above = self.low < number if self.above else self.low <= number
        return above and (number < self.high if self.below else number <= self.high)


def _required(kind: Any) -> Any:
    """``X`` of ``X | None``; any other type hint as it is."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    return kind


def base_of(kind: Any) -> Any:
    """``tuple`` of ``tuple[int, ...] | None`` and of ``Sequence[int]``."""
    base = typing.get_origin(_required(kind)) or _required(kind)
    return tuple if base is Sequence else base


def require_valid(name: str, value: Any, kind: Any, valid: Valid, *, given: Any = None) -> None:
    """Raise UserError, which says what is expected, for a value that ``name`` cannot have; it was ``given`` so."""
    if not valid.fits(value, kind):
        shown = short(value if given is None else given)
        raise UserError(f"invalid {name} {shown}: expected {valid.expected(kind)}")


def short(value: Any) -> str:
    """The value as Python writes it, in at most 60 characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."

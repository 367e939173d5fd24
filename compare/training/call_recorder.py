"""Functions seen at work: what chosen ones were given, and what they returned, while something else calls them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

Seen = Callable[[str, Mapping[str, Any], Any], None]


@contextlib.contextmanager
def watching(functions: Mapping[str, str], seen: Seen, *, on: str = "return") -> Iterator[None]:
    """Tell ``seen`` of each return of a function in this thread: its name, its variables by name, its answer.

    ``functions`` are names and the modules they stand in; an answer is None where an exception was raised. With
    ``on="call"``, tell of each call instead: the variables are the arguments, and the answer is None.
    """

    def watch(frame: FrameType, event: str, answer: Any) -> None:
        name = frame.f_code.co_name
        # the module tells it from what checks its arguments in the tests, which has the same name
        if event == on and name in functions and frame.f_globals.get("__name__") == functions[name]:
            seen(name, frame.f_locals, answer if on == "return" else None)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)

"""Two recordings as graphs of values: which of them lead to a difference, and where one side parts from the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

from compare.ports.align import Layout
from compare.ports.frames import Frame
from compare.ports.recording import Recording, Value

TRIED = 40  # values of a region that are compared with those of the other side
VIEWS = (
    "view",
    "_unsafe_view",
    "reshape",
    "clone",
    "unsqueeze",
    "squeeze",
    "expand",
    "transpose",
    "permute",
    "t",
    "copy",
    "broadcast_in_dim",
)
ROOTS = ("parameter", "input", "constant", "cotangent")


@dataclasses.dataclass(frozen=True)
class Parting:
    """The two values at which the sides part; one of them is None if a side has nothing to show."""

    direction: str  # "forward", "backward", "statistics" or "update"
    a: Value | None
    b: Value | None
    layout: Layout | None = None  # of a in b's order, where the two are versions of one value
    note: str = ""
    before: Value | None = None  # what an operation that only one side has should act on, of the side without it
    goes_on: tuple[Frame, ...] = ()  # where that side goes on


def untwinned(recording: Recording, ok: Collection[int], sinks: Iterable[int]) -> list[int]:
    """Values that reach a sink through values without twins only, the sinks included; in the order of making."""
    found: set[int] = set()
    open_ = list(sinks)
    while open_:
        number = open_.pop()
        if number not in found:
            found.add(number)
            open_ += [i for i in recording.values[number].inputs if i not in ok and not is_root(recording, i)]
    return sorted(found)


def is_root(recording: Recording, number: int) -> bool:
    """Whether a value was there before the first operation."""
    return recording.values[number].op in ROOTS


def frontier(recording: Recording, region: list[int]) -> list[int]:
    """The values of a region whose inputs all lie outside it."""
    inside = set(region)
    return [i for i in region if not inside.intersection(recording.values[i].inputs)]


def has_weights(recording: Recording, number: int) -> bool:
    """Whether a value is made of a parameter, or of a view of one."""
    for i in recording.values[number].inputs:
        while recording.values[i].op in VIEWS and len(recording.values[i].inputs) == 1:
            (i,) = recording.values[i].inputs
        if recording.values[i].op == "parameter":
            return True
    return False


def users(recording: Recording, number: int) -> list[int]:
    """The values that are computed from this one, and from mere views of it."""
    consumers, found, open_ = recording.consumers(), [], [number]
    while open_:
        for i in consumers[open_.pop()]:
            found.append(i)
            if recording.values[i].op in VIEWS:
                open_.append(i)
    return found

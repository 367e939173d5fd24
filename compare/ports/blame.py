"""Where two recordings part: the first value without a twin although its inputs have twins."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from compare.ports.align import Layout, Twins, distance, layouts, squeezed
from compare.ports.patterns import pattern
from compare.ports.recording import Recording, Stored, Value

NEAR = 0.3  # relative distance below which two values are taken for two versions of one
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
WHOLE = (
    "constant",
    "the sign is",
    "transposed",
    "permutation",
    "shift by a vector",
    "factor that",
)  # patterns of all of it
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


def forward(a: Recording, b: Recording, of_a: Twins, of_b: Twins, wrong: Mapping[str, str]) -> Parting:
    """Where the forward passes part; ``wrong``: outputs of a and of b that differ."""
    region_a = untwinned(a, of_a.keys(), [a.outputs[name] for name in wrong])
    region_b = untwinned(b, of_b.keys(), [b.outputs[name] for name in wrong.values()])
    first_a, first_b = frontier(a, region_a), frontier(b, region_b)
    firsts = [(i, j) for i in first_a[:TRIED] for j in first_b[:TRIED]]
    drawn = [
        next((v for v in r.values if v.random and v.id in set(g)), None) for r, g in ((a, region_a), (b, region_b))
    ]
    if (drawn[0] is None) != (drawn[1] is None):  # dropout on one side: of the other only what comes next is known
        return Parting("forward", drawn[0] or a.values[first_a[0]], drawn[1] or b.values[first_b[0]])
    for i, j in firsts:
        if (k := passed_over(a, b, i, j, of_a)) is not None:
            return without("b", a, b, i, j, k)
        if (k := passed_over(b, a, j, i, of_b)) is not None:
            return without("a", b, a, j, i, k)
        if (k := skipped(a, b, i, j, of_a)) is not None:
            return without("b", a, b, i, j, k)
        if (k := skipped(b, a, j, i, of_b)) is not None:
            return without("a", b, a, j, i, k)
        if (inputs := disordered(a, b, i, j)) is not None:
            return Parting(
                "forward", a.values[inputs[0]], b.values[inputs[1]], note="the same numbers in another order"
            )
    for i, j in firsts:
        if (found := version(a.values[i], b.values[j])) is not None and found[1]:
            return Parting("forward", a.values[i], b.values[j], found[0])
    if (extra := extra_operation(b, a, region_b, first_b, first_a, of_b)) is not None:
        return without("a", b, a, *extra)
    if (extra := extra_operation(a, b, region_a, first_a, first_b, of_a)) is not None:
        return without("b", a, b, *extra)
    for i, j in firsts:
        if (layout := near(a.values[i].stored, b.values[j].stored)) is not None:
            return Parting("forward", a.values[i], b.values[j], layout)
    return Parting("forward", a.values[first_a[0]], b.values[first_b[0]])


def without(name: str, one: Recording, other: Recording, extra: int, consumer: int, before: int) -> Parting:
    """An operation of one side, and the line on which the other side, called ``name``, goes on without it.

    That is the consumer's line. It is the line before where a parameter is not added, or where an operation stands that
    changes nothing.
    """
    values = other.values
    given = values[before]
    sources = [values[i].stored for i in given.inputs]
    idle = any((each.shape, each.summary) == (given.stored.shape, given.stored.summary) for each in sources)
    stays = has_weights(one, extra) or (idle and given.op not in VIEWS)
    place = given if stays else values[consumer]
    left, right = (place, one.values[extra]) if name == "a" else (one.values[extra], place)
    return Parting("forward", left, right, note=f"{name} goes on without it", before=given)


def version(a: Value, b: Value) -> tuple[Layout, str] | None:
    """The layout in which b is nearest to a, and the pattern that then fits; None if their sizes differ."""
    layout = near(a.stored, b.stored, most=float("inf"))
    return None if layout is None else (layout, pattern(layout.apply(a.stored.load()), b.stored.load(), []))


def passed_over(one: Recording, other: Recording, left: int, right: int, twins: Twins) -> int | None:
    """The value with which the other side goes on where this side first computes ``left``; None if it does not.

    It does if ``right`` takes some of what ``left`` takes, but not all, and otherwise only what a consumer of ``left``
    takes: right = f(x) where there should be f(x + bias).
    """
    taken = set(other.values[right].inputs)
    sources = [[j for j in twins.get(i, []) if not is_root(other, j)] for i in one.values[left].inputs]
    sources = [each for each in sources if each]
    shared = {j for each in sources for j in each if j in taken}
    whole = [i for i in one.values[left].inputs if one.values[i].op != "constant"]
    if not shared or sum(not taken.isdisjoint(twins.get(i, [])) for i in whole) == len(whole):
        return None
    size = other.values[right].stored.summary.size
    consumers = users(one, left)
    lines = {one.values[c].line for c in consumers}
    if not any(v.stored.summary.size == size and v.line in lines for v in one.values[left:]):
        return None
    rest = {j for j in taken - shared if other.values[j].op != "constant"}
    allowed: set[int] = set()
    for consumer in consumers:
        allowed |= {j for i in one.values[consumer].inputs if i != left for j in twins.get(i, [])}
    return max(shared) if rest <= allowed else None


def skipped(one: Recording, other: Recording, left: int, right: int, twins: Twins) -> int | None:
    """The input of ``left`` if the other side uses it where this side uses ``left``; None if it does not.

    It does if ``right`` takes that input and the parameters of a consumer of ``left``: f(x, w) for f(relu(x), w).
    """
    taken = set(other.values[right].inputs)
    inputs = [i for i in one.values[left].inputs if one.values[i].op != "constant" and not one.values[i].inner]
    if len(inputs) != 1 or is_root(one, inputs[0]) or has_weights(one, left):
        return None
    shared = taken.intersection(twins.get(inputs[0], []))
    if not shared or all(is_root(other, j) for j in shared):
        return None
    consumers, same, open_ = one.consumers(), {left}, [left]
    while open_:
        for consumer in consumers[open_.pop()]:
            value = one.values[consumer]
            if value.op in VIEWS or value.stored.summary == one.values[left].stored.summary:
                same.add(consumer)
                open_.append(consumer)
                continue
            rest = [i for i in value.inputs if i not in same and one.values[i].op != "constant"]
            same_size = value.stored.summary.size == other.values[right].stored.summary.size
            if same_size and has_weights(one, consumer) and all(taken.intersection(twins.get(i, [])) for i in rest):
                return max(shared)
    return None


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


def disordered(a: Recording, b: Recording, left: int, right: int) -> tuple[int, int] | None:
    """Inputs of the two that hold the same numbers in another order, though they have one shape: a wrong flatten."""
    if has_weights(a, left) != has_weights(b, right):  # one of them is another operation
        return None
    found = []
    for i in sources_of(a, left):
        for j in sources_of(b, right):
            x, y = a.values[i].stored, b.values[j].stored
            if x.shape != y.shape or not 1 < len(squeezed(x.shape)) < 4 or not x.summary.near(y.summary, 1e-9):
                continue
            one, other = x.load(), y.load()
            if distance(one, other) > 1e-6 and distance(np.sort(one.ravel()), np.sort(other.ravel())) < 1e-9:
                found.append((i, j))
    return min(found, key=sum, default=None)


def sources_of(recording: Recording, number: int) -> list[int]:
    """The inputs of a value that were computed, and what these are mere views of."""
    found = []
    for i in recording.values[number].inputs:
        while not is_root(recording, i):
            found.append(i)
            value = recording.values[i]
            if value.op not in VIEWS or len(value.inputs) != 1:
                break
            (i,) = value.inputs
    return found


def extra_operation(
    one: Recording, other: Recording, region: list[int], firsts: list[int], others: list[int], twins: Twins
) -> tuple[int, int, int] | None:
    """An operation that only one side has, the value that the other side makes without it, and of which.

    The first values differ by a pattern from what comes later on this side: other = f(x), here f(c x).
    """
    for first in firsts:
        inputs = [i for i in one.values[first].inputs if not is_root(one, i) and i in twins]
        inputs = [i for i in inputs if not all(is_root(other, j) for j in twins[i])]
        if len(inputs) != 1 or one.values[inputs[0]].stored.summary.size != one.values[first].stored.summary.size:
            continue
        change = version(one.values[inputs[0]], one.values[first])
        if change is None or not change[1].startswith(WHOLE):
            continue
        for later in [k for k in region[:TRIED] if k not in firsts]:
            for number in others:
                found = version(one.values[later], other.values[number])
                if found is not None and found[1].startswith(WHOLE):
                    taken = set(other.values[number].inputs).intersection(twins[inputs[0]])
                    return first, number, max(taken or twins[inputs[0]])
    return None


def near(a: Stored, b: Stored, most: float = NEAR) -> Layout | None:
    """The layout in which b is most like a, up to a factor and a shift; None if it is not like it in any."""
    if a.summary.size != b.summary.size or not (a.finite and b.finite):
        return None
    x, y = a.load(), b.load()
    best: tuple[float, Layout] | None = None
    for layout in layouts(a.shape, b.shape):
        try:
            far = unlike(layout.apply(x), y)
        except ValueError:
            continue
        if best is None or far < best[0]:
            best = far, layout
    return best[1] if best and best[0] < most else None


def unlike(x: np.ndarray, y: np.ndarray) -> float:
    """The smaller of the relative distance and that which a factor and a shift leave."""
    direct = distance(x, y)
    if x.size < 4:
        return direct
    centred, other = x - x.mean(), y - y.mean()
    norms = float(np.linalg.norm(centred) * np.linalg.norm(other))
    if norms == 0:
        return direct
    return min(direct, float(np.sqrt(max(0.0, 1 - (np.vdot(centred, other) / norms) ** 2))))

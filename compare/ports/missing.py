"""An operation that only one side has, and the line on which the other side goes on without it."""

from __future__ import annotations

from compare.ports.align import Layout, Twins, near
from compare.ports.parting import TRIED, VIEWS, Parting, has_weights, is_root, users
from compare.ports.patterns import pattern
from compare.ports.recording import Recording, Value

WHOLE = (
    "constant",
    "the sign is",
    "transposed",
    "permutation",
    "shift by a vector",
    "factor that",
)  # patterns of all of it


def without(name: str, one: Recording, other: Recording, extra: int, consumer: int, before: int) -> Parting:
    """An operation of one side, and the line on which the other side, called ``name``, goes on without it.

    That is the consumer's line, in the function that made the value before. Where a parameter is not added, or where an
    operation changes nothing, it is the line before.
    """
    values = other.values
    given = values[before]
    sources = [values[i].stored for i in given.inputs if not values[i].inner]
    idle = any((each.shape, each.summary) == (given.stored.shape, given.stored.summary) for each in sources)
    stays = has_weights(one, extra) or (idle and given.op not in VIEWS)
    place = given if stays else values[consumer]
    left, right = (place, one.values[extra]) if name == "a" else (one.values[extra], place)
    functions = [(frame.file, frame.function) for frame in given.frames[:1]]
    inside = next((k for k, f in enumerate(place.frames) if (f.file, f.function) in functions), 0)
    note = f"{name} goes on without it"
    return Parting("forward", left, right, note=note, before=given, goes_on=place.frames[inside:])


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
    if one.values[inputs[0]].stored.summary.size != one.values[left].stored.summary.size:
        return None  # a padding, which the other side's convolution may do itself
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

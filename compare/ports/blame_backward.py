"""Where two backward passes part: the first wrong gradient whose consumers have the right ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from compare.ports.align import Index, Twins, match
from compare.ports.parting import Parting, frontier, is_root, untwinned
from compare.ports.recording import Recording, Stored, Value

BLOCKING = ("detach", "stop_gradient")


@dataclasses.dataclass(frozen=True)
class Flow:
    """The gradients of one side as a graph: each value's gradient is made of those of its consumers."""

    recording: Recording
    consumers: Mapping[int, list[int]]
    ok: set[int]  # values whose gradients have twins
    expected: set[int]  # values whose twins have a gradient

    def is_wrong(self, number: int) -> bool:
        """Whether a value has a gradient that is not the other side's, or none where the other has one."""
        return number not in self.ok and (number in self.recording.totals or number in self.expected)


def consumers(recording: Recording) -> dict[int, list[int]]:
    """Values computed from each value, those included that contribute to its gradient from further away."""
    found = recording.consumers()
    for edge in recording.edges:
        if edge.consumer not in found[edge.value]:
            found[edge.value].append(edge.consumer)
    return found


def expected(one: Recording, other: Recording, twins: Twins) -> set[int]:
    """Values of which a twin on the other side has a gradient; steps inside an operation have none of their own."""
    used = {i for value in one.values for i in value.inputs} | set(one.outputs.values())
    wanted = (i for i, same in twins.items() if any(j in other.totals for j in same))
    return {i for i in wanted if i in used and not one.values[i].inner}


def gradient_twins(one: Recording, other: Recording, twins: Twins, tolerance: float, floor: float) -> set[int]:
    """Values of one side whose gradient is that of a twin on the other side."""
    found = set()
    for number, total in one.totals.items():
        for candidate in twins.get(number, []):
            theirs = other.totals.get(candidate)
            if theirs is None or not total.summary.near(theirs.summary, tolerance, floor):
                continue
            if match(total.load(), theirs.load(), tolerance, floor) is not None:
                found.add(number)
                break
    # A value that the other side does not compute, such as a product before its bias: its gradient may be there.
    pool = Index([*other.totals.items(), *((edge.value, edge.stored) for edge in other.edges)])
    alone = [(i, total) for i, total in one.totals.items() if not any(j in other.totals for j in twins.get(i, []))]
    return found | any_twins(alone, pool, tolerance, floor)


def any_twins(arrays: Iterable[tuple[int, Stored]], pool: Index, tol: float, floor: float) -> set[int]:
    """Values of one side whose gradient is found anywhere on the other."""
    found = set()
    for number, stored in arrays:
        if any(match(stored.load(), y.load(), tol, floor) is not None for _, y in pool.candidates(stored, tol, floor)):
            found.add(number)
    return found


def backward_region(flow: Flow, wrong: Iterable[int]) -> list[int]:
    """Values whose wrong gradients reach a wrong gradient of a parameter, nearest to the output first."""
    found: set[int] = set()
    open_ = list(wrong)
    while open_:
        number = open_.pop()
        if number not in found:
            found.add(number)
            open_ += [c for c in flow.consumers[number] if flow.is_wrong(c)]
    return sorted(found, reverse=True)


def first_wrong(flow: Flow, region: list[int]) -> int:
    """The value nearest to the output whose gradient is wrong although those of its consumers are right."""
    inside = set(region)
    for number in region:
        if not inside.intersection(flow.consumers[number]):
            return number
    return region[0]


def culprit(flow: Flow, number: int, known: Callable[[Stored], bool], theirs: Sequence[Stored] = ()) -> Value:
    """The operation that gives a value a wrong gradient, or none where it should give one.

    ``theirs``: what flows into the twins of the value on the other side; ``known``: does it flow there anywhere?
    """
    recording = flow.recording
    values, totals = recording.values, recording.totals
    if number not in totals:
        above = upstream(flow, number)
        cut = next((i for i in above if values[i].op in BLOCKING), None)
        cut = downstream(flow, number) if cut is None else cut
        if cut is not None or above:
            return values[above[-1] if cut is None else cut]
    edges = [edge for edge in recording.edges if edge.value == number]
    strange = [edge.consumer for edge in edges if not known(edge.stored)]
    if not strange and theirs:
        strange = [edge.consumer for edge in edges if not any(equal(edge.stored, other) for other in theirs)]
    giving = {edge.consumer for edge in edges}
    silent = [
        c
        for c in flow.consumers[number]
        if c not in giving and c not in totals and flow.consumers[c] and not values[c].inner
        and values[c].dtype.startswith(("float", "bfloat"))
    ]  # fmt: skip
    cuts = [cut for c in silent if (cut := downstream(flow, c)) is not None]
    for group in ([c for c in strange if values[c].rule], cuts, strange, silent, flow.consumers[number]):
        if group:
            return values[max(group)]
    return values[number]


def equal(a: Stored, b: Stored) -> bool:
    """Whether two gradients are the same up to layout."""
    return a.summary.near(b.summary, 1e-8) and match(a.load(), b.load(), 1e-8) is not None


def upstream(flow: Flow, number: int) -> list[int]:
    """The values without a gradient that lead to this one, the last first."""
    recording = flow.recording
    open_, seen = [number], {number}
    while open_:
        for i in recording.values[open_.pop()].inputs:
            if i not in recording.totals and i not in seen and not is_root(recording, i):
                seen.add(i)
                open_.append(i)
    return sorted((i for i in seen if not is_root(recording, i)), reverse=True)


def downstream(flow: Flow, number: int) -> int | None:
    """The ``detach`` that a value without a gradient runs into."""
    open_, seen = [number], {number}
    while open_:
        each = open_.pop()
        if flow.recording.values[each].op in BLOCKING and flow.consumers[each]:
            return each
        fresh = [c for c in flow.consumers[each] if c not in flow.recording.totals and c not in seen]
        seen.update(fresh)
        open_ += fresh
    return None


def backward(
    a: Recording, b: Recording, of_a: Twins, of_b: Twins, wrong: list[tuple[int, int]], tolerance: float, floor: float
) -> Parting:
    """Where the backward passes part, of two sides whose gradients flow along the recorded forward pass.

    ``wrong``: parameters of a and of b, as values, whose gradients differ.
    """
    flows = (
        Flow(a, consumers(a), gradient_twins(a, b, of_a, tolerance, floor), expected(a, b, of_a)),
        Flow(b, consumers(b), gradient_twins(b, a, of_b, tolerance, floor), expected(b, a, of_b)),
    )
    found: list[Value] = []
    sides = zip(flows, flows[::-1], ([i for i, _ in wrong], [j for _, j in wrong]), (of_a, of_b), strict=True)
    for flow, other, ends, twins in sides:
        number = first_wrong(flow, backward_region(flow, ends))
        pool = Index((edge.consumer, edge.stored) for edge in other.recording.edges)

        def known(stored: Stored, pool: Index = pool) -> bool:
            near_ = pool.candidates(stored, tolerance, floor)
            return any(match(stored.load(), y.load(), tolerance, floor) is not None for _, y in near_)

        same = set(twins.get(number, []))
        theirs = [edge.stored for edge in other.recording.edges if edge.value in same]
        found.append(culprit(flow, number, known, theirs))
    return Parting("backward", found[0], found[1])


def by_hand(
    hand: Recording, graph: Recording, wrong: list[tuple[int, int]], tolerance: float, floor: float
) -> tuple[Value, Value | None]:
    """Where a backward pass written by hand (``hand``) parts from the gradients of the other side.

    ``wrong``: the gradients as values of the hand-written pass, and the parameters as values of the other.
    """
    pool = [*graph.totals.items(), *((edge.value, edge.stored) for edge in graph.edges)]
    pool += [(value.id, value.stored) for value in graph.values if value.backward]
    mine = [(value.id, value.stored) for value in hand.values]
    forward_too = [(value.id, value.stored) for value in graph.values if not value.backward]
    ok = any_twins([(i, x) for i, x in mine if hand.values[i].backward], Index([*pool, *forward_too]), tolerance, floor)
    # the forward passes agree, whatever each keeps for backward; and zeros are there to be added to
    ok |= {value.id for value in hand.values if not value.backward or not value.stored.summary.norm}
    region = untwinned(hand, ok, [i for i, _ in wrong])
    first = hand.values[frontier(hand, region)[0]]
    if graph.made_gradients:
        return first, None
    known = Index(mine)
    flow = Flow(graph, consumers(graph), any_twins(graph.totals.items(), known, tolerance, floor), set())
    number = first_wrong(flow, backward_region(flow, [j for _, j in wrong]))

    def seen(stored: Stored) -> bool:
        return any(
            match(stored.load(), y.load(), tolerance, floor) is not None
            for _, y in known.candidates(stored, tolerance, floor)
        )

    return first, culprit(flow, number, seen)

"""Where two recordings part: the first value without a twin although its inputs have twins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from compare.ports.align import Index, Layout, Twins, distance, layouts, match
from compare.ports.recording import Recording, Stored, Value

NEAR = 0.5  # relative distance below which two values are taken for two versions of one
TRIED = 40  # values beyond the frontier of one side that are compared with the frontier of the other
ROOTS = ("parameter", "input", "constant", "cotangent")


@dataclasses.dataclass(frozen=True)
class Parting:
    """The two values at which the sides part; one of them is None if a side has nothing to show."""

    direction: str  # "forward", "backward", "statistics" or "update"
    a: Value | None
    b: Value | None
    layout: Layout | None = None  # of a in b's order, where the two are versions of one value
    note: str = ""


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
    pair = nearest(a, b, first_a, first_b, region_a, region_b)
    if pair is None:
        return Parting("forward", a.values[first_a[0]], b.values[first_b[0]])
    left, right, layout = pair
    left, right, note = disordered(a, b, left, right, of_a)
    if not note:
        left, right, note = left_out(a, b, left, right, of_a, of_b)
    return Parting("forward", a.values[left], b.values[right], None if note else layout, note)


def nearest(
    a: Recording, b: Recording, first_a: list[int], first_b: list[int], region_a: list[int], region_b: list[int]
) -> tuple[int, int, Layout | None] | None:
    """The earliest two values that are versions of one; without such, the earliest of both frontiers."""
    pairs = {(i, j) for i in first_a for j in region_b[:TRIED]} | {(i, j) for i in region_a[:TRIED] for j in first_b}
    place_a, place_b = ({i: k for k, i in enumerate(region)} for region in (region_a, region_b))
    both = set(first_a), set(first_b)

    def rank(pair: tuple[int, int]) -> tuple[bool, int, int]:
        i, j = pair
        return not (i in both[0] and j in both[1]), place_a[i] + place_b[j], place_a[i]

    for i, j in sorted(pairs, key=rank):
        layout = near(a.values[i].stored, b.values[j].stored)
        if layout is not None:
            return i, j, layout
    return (first_a[0], first_b[0], None) if first_a and first_b else None


def near(a: Stored, b: Stored) -> Layout | None:
    """The layout in which b is a version of a: scaled, shifted, or almost equal; None if it is none in any."""
    if a.summary.size != b.summary.size or not (a.finite and b.finite):
        return None
    x, y = a.load(), b.load()
    best: tuple[float, Layout] | None = None
    for layout in layouts(a.shape, b.shape):
        try:
            moved = layout.apply(x)
        except ValueError:
            continue
        far = unlike(moved, y)
        if best is None or far < best[0]:
            best = far, layout
    return best[1] if best and best[0] < NEAR else None


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


def disordered(a: Recording, b: Recording, left: int, right: int, of_a: Twins) -> tuple[int, int, str]:
    """Blame the inputs instead if they hold the same numbers, but in another order."""
    for i in a.values[left].inputs:
        for j in b.values[right].inputs:
            x, y = a.values[i], b.values[j]
            if is_root(a, i) or is_root(b, j) or x.stored.shape != y.stored.shape or j in of_a.get(i, []):
                continue
            if x.stored.summary.near(y.stored.summary, 1e-9):
                one, other = np.sort(x.stored.load().ravel()), np.sort(y.stored.load().ravel())
                if distance(one, other) < 1e-9:
                    return i, j, "the same numbers in another order"
    return left, right, ""


def left_out(a: Recording, b: Recording, left: int, right: int, of_a: Twins, of_b: Twins) -> tuple[int, int, str]:
    """Blame the line before if one side goes on with the input of what the other side computes first."""
    if near(a.values[left].stored, b.values[right].stored) is not None:
        return left, right, ""
    found = _skipped(a, b, left, right, of_a)
    if found is not None:
        return left, found, "b goes on without it"
    found = _skipped(b, a, right, left, of_b)
    if found is not None:
        return found, right, "a goes on without it"
    return left, right, ""


def _skipped(one: Recording, other: Recording, left: int, right: int, twins: Twins) -> int | None:
    consumed = set(other.values[right].inputs)
    before = [j for i in one.values[left].inputs if not is_root(one, i) for j in twins.get(i, []) if j in consumed]
    return max(before) if before else None


# --- backward ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Flow:
    """The gradients of one side as a graph: each value's gradient is made of those of its consumers."""

    recording: Recording
    consumers: Mapping[int, list[int]]
    ok: set[int]  # values whose gradients have twins


def consumers(recording: Recording) -> dict[int, list[int]]:
    """Values computed from each value, those included that contribute to its gradient from further away."""
    found = recording.consumers()
    for edge in recording.edges:
        if edge.consumer not in found[edge.value]:
            found[edge.value].append(edge.consumer)
    return found


def gradient_twins(one: Recording, other: Recording, twins: Twins, tolerance: float, floor: float) -> set[int]:
    """Values of one side whose gradient is that of a twin on the other side."""
    found = set()
    for number, total in one.totals.items():
        for candidate in twins.get(number, []):
            theirs = other.totals.get(candidate)
            if theirs is not None and total.summary.near(theirs.summary, tolerance, floor):
                if match(total.load(), theirs.load(), tolerance, floor) is not None:
                    found.add(number)
                    break
    return found


def any_twins(recording: Recording, arrays: Iterable[tuple[int, Stored]], pool: Index, tol: float, floor: float) -> set[int]:
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
    totals = flow.recording.totals
    while open_:
        number = open_.pop()
        if number not in found:
            found.add(number)
            open_ += [c for c in flow.consumers[number] if c in totals and c not in flow.ok]
    return sorted(found, reverse=True)


def first_wrong(flow: Flow, region: list[int]) -> int:
    """The value nearest to the output whose gradient is wrong although those of its consumers are right."""
    inside = set(region)
    totals = flow.recording.totals
    for number in region:
        if not inside.intersection(c for c in flow.consumers[number] if c in totals):
            return number
    return region[0]


def culprit(flow: Flow, number: int, known: Callable[[Stored], bool]) -> Value:
    """The consumer that contributes a wrong gradient to a value, or none where others do."""
    recording = flow.recording
    edges = [edge for edge in recording.edges if edge.value == number]
    strange = [edge.consumer for edge in edges if not known(edge.stored)]
    silent = [
        c for c in flow.consumers[number]
        if c not in {edge.consumer for edge in edges} and c not in recording.totals and flow.consumers[c]
        and recording.values[c].dtype.startswith(("float", "bfloat")) and not recording.values[c].inner
    ]
    ruled = [c for c in [*strange, *silent] if recording.values[c].rule]
    blocking = [c for c in silent if recording.values[c].op in ("detach", "stop_gradient")]
    for group in (ruled, blocking, strange, silent, flow.consumers[number]):
        if group:
            return recording.values[max(group)]
    return recording.values[number]


def backward(
    a: Recording, b: Recording, of_a: Twins, of_b: Twins, wrong: list[tuple[int, int]], tolerance: float, floor: float
) -> Parting:
    """Where the backward passes part, of two sides whose gradients flow along the recorded forward pass.

    ``wrong``: parameters of a and of b, as values, whose gradients differ.
    """
    flows = (
        Flow(a, consumers(a), gradient_twins(a, b, of_a, tolerance, floor)),
        Flow(b, consumers(b), gradient_twins(b, a, of_b, tolerance, floor)),
    )
    found: list[Value] = []
    for flow, other, ends in zip(flows, flows[::-1], ([i for i, _ in wrong], [j for _, j in wrong]), strict=True):
        number = first_wrong(flow, backward_region(flow, ends))
        pool = Index((edge.consumer, edge.stored) for edge in other.recording.edges)

        def known(stored: Stored, pool: Index = pool) -> bool:
            near_ = pool.candidates(stored, tolerance, floor)
            return any(match(stored.load(), y.load(), tolerance, floor) is not None for _, y in near_)

        found.append(culprit(flow, number, known))
    return Parting("backward", *found)


def by_hand(hand: Recording, graph: Recording, wrong: list[tuple[int, int]], tolerance: float, floor: float) -> tuple[Value, Value | None]:
    """Where a backward pass written by hand (``hand``) parts from the gradients of the other side.

    ``wrong``: the gradients as values of the hand-written pass, and the parameters as values of the other.
    """
    pool = [*graph.totals.items(), *((edge.value, edge.stored) for edge in graph.edges)]
    pool += [(value.id, value.stored) for value in graph.values if value.backward]
    mine = [(value.id, value.stored) for value in hand.values]
    forward_too = [(value.id, value.stored) for value in graph.values if not value.backward]
    ok = any_twins(hand, mine, Index([*pool, *forward_too]), tolerance, floor)
    region = untwinned(hand, ok, [i for i, _ in wrong])
    first = hand.values[frontier(hand, region)[0]]
    if graph.made_gradients:
        return first, None
    known = Index(mine)
    flow = Flow(graph, consumers(graph), any_twins(graph, graph.totals.items(), known, tolerance, floor))
    number = first_wrong(flow, backward_region(flow, [j for _, j in wrong]))

    def seen(stored: Stored) -> bool:
        return any(match(stored.load(), y.load(), tolerance, floor) is not None for _, y in known.candidates(stored, tolerance, floor))

    return first, culprit(flow, number, seen)

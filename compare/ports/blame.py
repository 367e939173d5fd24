"""Where two recordings part: the first value without a twin although its inputs have twins."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compare.ports.align import Twins, distance, near, squeezed
from compare.ports.missing import extra_operation, passed_over, skipped, version, without
from compare.ports.parting import TRIED, VIEWS, Parting, frontier, has_weights, is_root, untwinned
from compare.ports.recording import Recording


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

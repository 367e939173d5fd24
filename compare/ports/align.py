"""Twins: values of the two sides that are equal up to the order of their axes and to reshaping."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np

from compare.ports.recording import Recording, Stored

MOST = 16  # twins of one value that are looked at: zeros and ones have many
NEAR = 0.3  # relative distance below which two values are taken for two versions of one


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """How to make an array of b out of one of a: squeeze, transpose by ``axes``, reshape; ``inverse`` the other way."""

    axes: tuple[int, ...]
    shape: tuple[int, ...]
    inverse: bool = False

    def apply(self, a: np.ndarray) -> np.ndarray:
        """The array in b's layout."""
        if self.inverse:  # a is a reshaped transpose of b
            shape = squeezed(self.shape)
            given = a.reshape([shape[axis] for axis in self.axes])
            return given.transpose(np.argsort(self.axes)).reshape(self.shape)
        return a.reshape(squeezed(a.shape)).transpose(self.axes).reshape(self.shape)


def squeezed(shape: Iterable[int]) -> tuple[int, ...]:
    """A shape without its axes of length 1."""
    return tuple(size for size in shape if size != 1)


def layouts(a: tuple[int, ...], b: tuple[int, ...]) -> Iterable[Layout]:
    """Every way to make shape b of shape a by moving whole axes, and by splitting and merging them in order."""
    short_a, short_b = squeezed(a), squeezed(b)
    if max(len(short_a), len(short_b)) > 6:
        yield from [Layout(tuple(range(len(short_a))), b)]
        return
    if sorted(short_a) == sorted(short_b):
        for axes in itertools.permutations(range(len(short_a))):
            if tuple(short_a[axis] for axis in axes) == short_b:
                yield Layout(axes, b)
        return
    for axes in itertools.permutations(range(len(short_a))):
        yield Layout(axes, b)
    for axes in itertools.permutations(range(len(short_b))):
        if axes != tuple(range(len(short_b))):
            yield Layout(axes, b, inverse=True)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """‖a - b‖/max(‖a‖, ‖b‖): 0 where both are 0, infinite where either is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        gap, norm = np.linalg.norm((a - b).ravel()), max(np.linalg.norm(a.ravel()), np.linalg.norm(b.ravel()))
    if not np.isfinite(gap):
        same = np.array_equal(np.isfinite(a), np.isfinite(b))
        finite = np.isfinite(a) & np.isfinite(b)
        return distance(a[finite], b[finite]) if same else float("inf")
    return float(gap / norm) if gap > 0 else 0.0


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """‖a - b‖, where an infinity is equal to the same infinity."""
    with np.errstate(invalid="ignore"):
        gap = a - b
    return float(np.linalg.norm((gap if np.isfinite(gap).all() else np.where(a == b, 0.0, gap)).ravel()))


def match(a: np.ndarray, b: np.ndarray, tolerance: float, floor: float = 0.0) -> Layout | None:
    """The first layout in which the two are equal: ‖a - b‖ <= tolerance·‖b‖ + floor·√n, ‖b‖ of what is finite."""
    if a.size != b.size:
        return None
    norm = max(float(np.linalg.norm(x[np.isfinite(x)])) for x in (a, b))
    slack = tolerance * norm + floor * a.size**0.5
    for layout in layouts(a.shape, b.shape):
        try:
            moved = layout.apply(a)
        except ValueError:  # axes that cannot be merged so
            continue
        if difference(moved, b) <= slack:
            return layout
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


class Index:
    """Arrays of one side, found again by their summaries."""

    def __init__(self, arrays: Iterable[tuple[int, Stored]]) -> None:
        self.by_size: dict[int, list[tuple[float, int, Stored]]] = {}
        for number, stored in arrays:
            if stored.summary.size and not stored.summary.nans:
                self.by_size.setdefault(stored.summary.size, []).append((stored.summary.norm, number, stored))
        for bucket in self.by_size.values():
            bucket.sort(key=lambda entry: entry[:2])

    def candidates(self, stored: Stored, tolerance: float, floor: float = 0.0) -> list[tuple[int, Stored]]:
        """Arrays whose summaries are those of this one, at most ``MOST``; those of the same shape first."""
        bucket = self.by_size.get(stored.summary.size, [])
        norm = stored.summary.norm
        slack = 2 * tolerance * norm + floor * stored.summary.size**0.5
        start = bisect.bisect_left(bucket, norm - slack, key=lambda entry: entry[0])
        found = []
        for near, number, other in bucket[start:]:
            if near > norm + slack:
                break
            if stored.summary.near(other.summary, tolerance, floor):
                found.append((number, other))
        found.sort(key=lambda entry: (entry[1].shape != stored.shape, entry[0]))
        return found[:MOST]


Twins = dict[int, list[int]]


def twins(a: Recording, b: Recording, tolerance: float) -> tuple[Twins, Twins]:
    """For each value of a forward pass those of the other side that are equal to it up to layout."""
    index = Index((value.id, value.stored) for value in b.values if not value.backward)
    of_a: Twins = {}
    of_b: Twins = {}
    for value in a.values:
        if value.backward or value.stored.summary.nans:
            continue
        x = None
        for number, stored in index.candidates(value.stored, tolerance):
            x = value.stored.load() if x is None else x
            if match(x, stored.load(), tolerance) is not None:
                of_a.setdefault(value.id, []).append(number)
                of_b.setdefault(number, []).append(value.id)
    return of_a, of_b

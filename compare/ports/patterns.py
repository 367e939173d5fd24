"""What kind of difference it is, tested by fitting: y of b against x of a, in one layout.

Each pattern is a formula; it is named only if the formula leaves nothing of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

EXACT = 1e-7  # relative distance that a fit may leave
SMALL = 1e-3  # part of the difference that a fit may leave


def fits(y: np.ndarray, guess: np.ndarray, limit: float = EXACT) -> bool:
    """Whether ‖y - guess‖ <= limit · ‖y‖."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.linalg.norm(np.ravel(y - guess)) <= limit * np.linalg.norm(np.ravel(y)))


def pattern(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """The first pattern that fits, "" if none does; ``inputs`` are arrays that x was made from."""
    if x.shape != y.shape or x.size == 0 or np.array_equal(x, y) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return ""
    tests = (sign, factor, shift, order, bias, scale, negatives, borders, channels)
    return next((found for test in tests if (found := test(x, y, inputs))), "")


def sign(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """y = -x."""
    return "the sign is flipped" if x.size > 1 and fits(y, -x) else ""


def factor(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """y = c x, c = ⟨x, y⟩/⟨x, x⟩."""
    norm = float(np.vdot(x, x))
    if norm == 0:
        return ""
    c = float(np.vdot(x, y)) / norm
    name = name_of(c, x, inputs)
    left = np.linalg.norm(np.ravel(y - c * x)) / max(np.linalg.norm(np.ravel(y - x)), np.finfo(float).tiny)
    if c == 0 or not fits(y, c * x) or left > SMALL or (x.size == 1 and not name):
        return ""
    return f"constant factor {c:.6g}{name}"


def name_of(c: float, x: np.ndarray, inputs: list[np.ndarray]) -> str:
    """What a factor is, of the lengths of axes: d, √d, n/(n - 1) and the like."""
    sizes = sorted({size for array in (x, *inputs) for size in array.shape if size > 1})
    counts = {f"{i.size // x.size} averaged elements": i.size // x.size for i in inputs if i.size > x.size > 0}
    for text, value in named_factors(sizes, counts):
        if math.isclose(c, value, rel_tol=1e-7):
            return f" = {text}"
    return ""


def named_factors(sizes: list[int], counts: dict[str, int]) -> Iterator[tuple[str, float]]:
    """Candidates with their names."""
    for text, n in counts.items():
        if n > 1:
            yield f"n/(n - 1) with n = {text}", n / (n - 1)
            yield f"(n - 1)/n with n = {text}", (n - 1) / n
    for d in sizes:
        yield f"√{d}", d**0.5
        yield f"1/√{d}", d**-0.5
        yield f"{d}, the length of an axis", float(d)
        yield f"1/{d}, of the length of an axis", 1 / d
        yield f"{d}/{d - 1}", d / (d - 1)
        yield f"{d - 1}/{d}", (d - 1) / d
    for count in counts.values():
        yield f"{count}, the number of summed elements", float(count)
        yield f"1/{count}, of the number of summed elements", 1 / count


def shift(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """y = x + c, c = mean(y - x)."""
    c = float(np.mean(y - x))
    moved = np.linalg.norm((y - x - c).ravel()) <= 1e-6 * np.linalg.norm((y - x).ravel())
    return f"constant shift {c:.6g}" if x.size > 1 and moved else ""


def order(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """y is x with its axes exchanged, or with its elements in another order."""
    if x.size < 3:
        return ""
    if x.ndim > 1 and x.shape == x.shape[::-1] and fits(y, x.T):
        return "transposed"
    if not fits(np.sort(y.ravel()), np.sort(x.ravel())):
        return ""
    for axis in range(x.ndim):
        if x.shape[axis] > 1 and fits(np.sort(y, axis=axis), np.sort(x, axis=axis)):
            if fits(y, np.flip(x, axis)):
                return f"axis {axis} is reversed"
            return f"permutation along axis {axis}"
    return "permutation of the elements"


def bias(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """y - x is the same for all but one axis: a vector is added, or missing."""
    gap = y - x
    for axis in range(x.ndim):
        others = tuple(k for k in range(x.ndim) if k != axis)
        if x.shape[axis] > 1 and math.prod(x.shape[k] for k in others) > 1:
            mean = gap.mean(axis=others, keepdims=True)
            if np.linalg.norm((gap - mean).ravel()) <= 1e-6 * np.linalg.norm(gap.ravel()):
                return f"shift by a vector along axis {axis}"
    return ""


def scale(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """y/x is the same for all but one axis: another factor for each row or channel."""
    for axis in range(x.ndim):
        others = tuple(k for k in range(x.ndim) if k != axis)
        if x.shape[axis] > 1 and math.prod(x.shape[k] for k in others) > 1:
            norm = (x * x).sum(axis=others, keepdims=True)
            c = (x * y).sum(axis=others, keepdims=True) / np.where(norm == 0, 1, norm)
            if fits(y, c * x):
                return f"factor that varies along axis {axis}"
    return ""


def different(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the two differ by more than rounding."""
    return np.abs(y - x) > 1e-9 * max(float(np.abs(x).max()), float(np.abs(y).max()))


def negatives(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """The two differ only where what came in is negative."""
    wrong = different(x, y)
    for given in inputs:
        if given.shape == x.shape and wrong.any() and (given < 0).any() and not wrong[given >= 0].any():
            return "only where the input is negative"
    return ""


def channels(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """Along one axis some indices are right in full."""
    wrong = different(x, y)
    for axis in reversed(range(x.ndim)):
        others = tuple(k for k in range(x.ndim) if k != axis)
        bad = wrong.any(axis=others)
        if 2 * bad.sum() <= bad.size and bad.any():
            listed = ", ".join(map(str, np.flatnonzero(bad)[:6]))
            return f"only at some indices of axis {axis}: {listed}{', …' if bad.sum() > 6 else ''}"
    return ""


def borders(x: np.ndarray, y: np.ndarray, inputs: list[np.ndarray]) -> str:
    """Only the edges of two axes differ: the padding of an image."""
    wrong = different(x, y)
    for first in range(x.ndim):
        for second in range(first + 1, x.ndim):
            moved = np.moveaxis(wrong, (first, second), (0, 1))
            height, width = moved.shape[:2]
            for edge in range(1, min(height, width) // 3 + 1):
                inner = slice(edge, -edge)
                sides = (
                    moved[:edge, inner].any() or moved[-edge:, inner].any(),
                    moved[inner, :edge].any() or moved[inner, -edge:].any(),
                )
                if all(sides) and not moved[inner, inner].any():
                    return "only at the borders"
    return ""

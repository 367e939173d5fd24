"""One set of NumPy inputs for both sides, images in the layout that each side takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compare.ports.align import distance, match
from compare.ports.side import PortError, Side

MOVES = {"as given": (0, 1, 2, 3), "NHWC": (0, 2, 3, 1), "NCHW": (0, 3, 1, 2)}
CHANNELS = {"NCHW": 1, "NHWC": 3}


def moved(inputs: Sequence[np.ndarray], axes: tuple[int, ...]) -> list[np.ndarray]:
    """The inputs, those that look like images with their axes moved."""
    return [x.transpose(axes) if is_image(x) else x for x in inputs]


def is_image(x: np.ndarray) -> bool:
    """Four axes of numbers that are no class labels."""
    return x.ndim == 4


def stated(inputs: Sequence[np.ndarray], given: str, wanted: str) -> list[np.ndarray]:
    """Inputs in layout ``given`` brought to layout ``wanted``."""
    for name in (given, wanted):
        if name not in CHANNELS:
            raise PortError(f"unknown layout {name!r}: expected NCHW or NHWC")
    return list(inputs) if given == wanted else moved(inputs, MOVES[wanted])


def arrange(
    a: Side, b: Side, inputs: Sequence[np.ndarray], layouts: tuple[str, str] | None
) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    """The inputs for a, those for b, and a line about it.

    The first image axis order that a side accepts is taken; where several are accepted, the two whose outputs are
    closest. ``layouts``: those of a and b, the inputs being given in a's.
    """
    if layouts is not None:
        return list(inputs), stated(inputs, *layouts), f"images: {layouts[0]} for a, {layouts[1]} for b, as stated"
    if not any(is_image(x) for x in inputs):
        run(a, inputs, "a")
        run(b, inputs, "b")
        return list(inputs), list(inputs), ""
    of_a, of_b = accepted(a, inputs, "a"), accepted(b, inputs, "b")
    best = min(
        ((gap(y, z), i, j) for i, (_, y) in enumerate(of_a.items()) for j, (_, z) in enumerate(of_b.items())),
        key=lambda entry: (round(entry[0], 9), entry[1] + entry[2]),
    )
    first, second = list(of_a)[best[1]], list(of_b)[best[2]]
    if first == second == "as given":
        return list(inputs), list(inputs), ""
    note = f"images: {first} for a, {second} for b, found by trying"
    return moved(inputs, MOVES[first]), moved(inputs, MOVES[second]), note


def run(side: Side, inputs: Sequence[np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Outputs of a side; an error that the model raises names the side."""
    try:
        return side.run(inputs)
    except PortError:
        raise
    except Exception as error:
        shapes = ", ".join(str(np.shape(x)) for x in inputs)
        raise PortError(f"{name} ({side.kind}) does not run on inputs of shape {shapes}: {type(error).__name__}: {error}") from error


def accepted(side: Side, inputs: Sequence[np.ndarray], name: str) -> dict[str, dict[str, np.ndarray]]:
    """Outputs for every layout that a side takes."""
    found, first = {}, None
    for move, axes in MOVES.items():
        try:
            found[move] = run(side, moved(inputs, axes), name)
        except PortError as error:
            first = first or error
    if not found and first:
        raise first
    return found


def gap(y: dict[str, np.ndarray], z: dict[str, np.ndarray]) -> float:
    """How far outputs are apart, the worst of them, up to layout."""
    worst = 0.0
    for one, other in zip(y.values(), z.values(), strict=False):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if one.size != other.size:
            return np.inf
        if match(one, other, 1e-9) is None:
            worst = max(worst, distance(one.ravel(), other.ravel()))
    return worst

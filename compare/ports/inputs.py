"""One set of NumPy inputs for both sides, images in the layout that each side takes."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from compare.ports.align import distance, match
from compare.ports.frames import is_own
from compare.ports.side import PortError, Side

MOVES = {"as given": (0, 1, 2, 3), "NHWC": (0, 2, 3, 1), "NCHW": (0, 3, 1, 2)}  # to NHWC from NCHW, and back


class Arranged(NamedTuple):
    """The inputs in one layout."""

    name: str
    inputs: list[np.ndarray]


def arranged(inputs: Sequence[np.ndarray], name: str) -> Arranged:
    """The inputs, those of four axes with their axes moved."""
    return Arranged(name, [x.transpose(MOVES[name]) if x.ndim == 4 else x for x in inputs])


def accepted(side: Side, inputs: Sequence[np.ndarray], name: str, layouts: tuple[str, str] | None) -> list[Arranged]:
    """The layouts of images in which a side runs; PortError if it runs in none.

    ``layouts`` are those of a and of b if the caller has stated them; the inputs are then given in a's.
    """
    if layouts is not None:
        for layout in layouts:
            if layout not in ("NCHW", "NHWC"):
                raise PortError(f"unknown layout {layout!r}: expected NCHW or NHWC")
        tried = ["as given" if name == "a" or layouts[0] == layouts[1] else layouts[1]]
    else:
        tried = list(MOVES) if any(x.ndim == 4 for x in inputs) else ["as given"]
    found: list[Arranged] = []
    errors: list[PortError] = []
    for move in tried:
        try:
            run(side, arranged(inputs, move), name)
            found.append(arranged(inputs, move))
        except PortError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def run(side: Side, given: Arranged, name: str) -> Mapping[str, np.ndarray]:
    """Outputs of a side; an error that the model raises names the side."""
    try:
        return side.run(given.inputs)
    except PortError:
        raise
    except Exception as error:
        shapes = ", ".join(str(np.shape(x)) for x in given.inputs)
        reason = f"{type(error).__name__}: {error}"
        if "dtype" in reason:
            reason += "; if the model converts to a dtype itself, use precision='float32' or 'as-is' with tolerances"
        elif "device" in reason or "CUDA" in reason:
            reason += "; the check runs on the CPU: take the device of what the model makes from its inputs"
        lines = [f for f in traceback.extract_tb(error.__traceback__) if is_own(f.filename)]
        where = f" at {Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else ""
        raise PortError(f"{name} ({side.kind}) does not run on inputs of shape {shapes}{where}: {reason}") from error


def arrange(
    a: Side, b: Side, of_a: list[Arranged], of_b: list[Arranged]
) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    """The inputs for a, those for b, and a line about it.

    Where a side takes several layouts, those two are chosen whose outputs are closest.
    """
    if len(of_a) == len(of_b) == 1:
        first, second = of_a[0], of_b[0]
    else:
        outputs_a = [run(a, each, "a") for each in of_a]
        outputs_b = [run(b, each, "b") for each in of_b]
        gaps = {(i, j): gap(y, z) for i, y in enumerate(outputs_a) for j, z in enumerate(outputs_b)}
        i, j = min(gaps, key=lambda pair: (round(gaps[pair], 9), sum(pair)))
        first, second = of_a[i], of_b[j]
    moved = first.name != "as given" or second.name != "as given"
    note = f"images: {first.name} for a, {second.name} for b" if moved else ""
    return first.inputs, second.inputs, note


def gap(y: Mapping[str, np.ndarray], z: Mapping[str, np.ndarray]) -> float:
    """How far outputs are apart, the worst of them, up to layout."""
    worst = 0.0
    for one, other in zip(y.values(), z.values(), strict=False):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if one.size != other.size:
            return np.inf
        if match(one, other, 1e-9) is None:
            worst = max(worst, distance(one.ravel(), other.ravel()))
    return worst

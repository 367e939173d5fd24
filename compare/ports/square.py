"""Square weights whose axes no shape tells: (in, out) or (out, in)?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from compare.ports import weights as matching
from compare.ports.inputs import gap
from compare.ports.links import Link
from compare.ports.side import Leaf, Side

BY_CONVENTION = ("JAX", "NumPy")  # functions may keep their weights either way


def transposed_squares(
    a: Side, b: Side, links: list[Link], inputs: tuple[Sequence[np.ndarray], Sequence[np.ndarray]], limit: float
) -> tuple[list[Link], list[str]]:
    """The links, with square weights the other way round if only so the outputs agree; and a note about it."""
    leaves = a.leaves(), b.leaves()
    unknown = [each for each in links if is_unknown(each, a, b, leaves[0][each.a], leaves[1][each.b])]
    open_ = [each for each in unknown if len(set(leaves[0][each.a].array.shape)) == 1]
    if not open_ or open_ != unknown or gap(a.run(inputs[0]), b.run(inputs[1])) <= limit:
        return links, []  # shapes tell, or nothing is wrong
    turned = [dataclasses.replace(each, axes=each.axes[::-1]) if each in open_ else each for each in links]
    b.assign(matching.moved(*leaves, turned))
    if gap(a.run(inputs[0]), b.run(inputs[1])) <= limit:
        names = ", ".join(each.b for each in open_)
        return turned, [f"square weights are copied so that the outputs agree: {names}"]
    b.assign(matching.moved(*leaves, links))
    return links, []


def is_unknown(link: Link, a: Side, b: Side, one: Leaf, other: Leaf) -> bool:
    """Whether a link is about matrices whose axes only names tell, or nothing."""
    unknown = None in (one.axes, other.axes) or not {a.kind, b.kind}.isdisjoint(BY_CONVENTION)
    matrices = one.array.ndim == other.array.ndim == 2 and "vd" not in (one.axes, other.axes)
    return unknown and matrices and link.how != "as stated"

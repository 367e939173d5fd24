"""The rows of a linear layer in the order in which the other side flattens an image: NCHW or NHWC."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from compare.ports.align import distance
from compare.ports.links import Link
from compare.ports.parting import VIEWS, is_root
from compare.ports.recording import Recording
from compare.ports.side import Leaf

Leaves = tuple[Mapping[str, Leaf], Mapping[str, Leaf]]  # of a and of b
Shape = tuple[int, ...]


def reordered(
    a: Recording, b: Recording, links: Sequence[Link], leaves: Leaves, limit: float
) -> tuple[list[Link], list[str]]:
    """The links, with the features of linear layers in b's order of the image, and a note about each that changed.

    What the caller's mapping states stays as stated.
    """
    found, notes = [], []
    for link in links:
        axes = leaves[0][link.a].axes, leaves[1][link.b].axes
        unset = link.order is None and link.how != "as stated"
        as_named = all(set(each or "") == {"i", "o"} for each in axes)
        if unset and as_named and "".join(str(axes[0])[k] for k in link.axes) == axes[1]:
            axis = str(axes[1]).index("i")
            change = order_of(a, b, link, leaves[1][link.b].array.shape[axis], limit)
            if change is not None:
                order, shapes = change
                found.append(dataclasses.replace(link, order=order, order_axis=axis))
                notes.append(f"{link.b}: features reordered, as a flattens images of {shapes[0]} and b of {shapes[1]}")
                continue
        found.append(link)
    return found, notes


def order_of(
    a: Recording, b: Recording, link: Link, d: int, limit: float
) -> tuple[tuple[int, ...], tuple[Shape, Shape]] | None:
    """For each of the d features of b its place in a, and the shapes that are flattened; None if nothing moves."""
    for i, j in itertools.product(features(a, link.a, d), features(b, link.b, d)):
        x, y = a.array(i), b.array(j)
        if x.shape != y.shape or distance(x, y) <= limit:
            continue
        for shape in image_shapes(a, i, d):
            places = np.arange(d).reshape(shape)
            for axes in itertools.permutations(range(3)):
                order = places.transpose(axes).ravel()
                if distance(x[:, order], y) <= limit:
                    return tuple(order.tolist()), (shape, tuple(shape[axis] for axis in axes))
    return None


def features(recording: Recording, leaf: str, d: int) -> Iterator[int]:
    """The values (n, d) that are multiplied by a leaf."""
    consumers = recording.consumers()
    open_ = [recording.parameters[leaf]]
    while open_:
        for number in consumers[open_.pop()]:
            value = recording.values[number]
            if value.op in VIEWS:
                open_.append(number)
                continue
            for i in value.inputs:
                shape = recording.values[i].stored.shape
                if len(shape) == 2 and shape[1] == d and not is_root(recording, i):
                    yield i


def image_shapes(recording: Recording, number: int, d: int) -> Iterator[Shape]:
    """The shapes of the images (without n) of which a value (n, d) is a view."""
    open_, seen = [number], {number}
    while open_:
        for i in recording.values[open_.pop()].inputs:
            shape = recording.values[i].stored.shape
            if i not in seen and not is_root(recording, i) and int(np.prod(shape[1:])) == d:
                seen.add(i)
                open_.append(i)
                if len(shape) == 4:
                    yield shape[1:]

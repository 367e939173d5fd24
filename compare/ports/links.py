"""A link between a leaf of one model and a leaf of the other, and what the names of leaves say."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from compare.ports.side import Leaf

# What the frameworks and papers call the same thing.
SYNONYMS = {
    "weight": ("weight", "kernel", "scale", "embedding", "gamma", "w"),
    "bias": ("bias", "beta", "b"),
    "mean": ("mean", "running_mean", "moving_mean"),
    "var": ("var", "running_var", "moving_variance"),
    "query": ("query", "q", "q_proj", "wq", "to_q"),
    "key": ("key", "k", "k_proj", "wk", "to_k"),
    "value": ("value", "v", "v_proj", "wv", "to_v"),
}


CANONICAL = {name: word for word, names in SYNONYMS.items() for name in names}


WRAPPERS = ("params", "batch_stats", "module", "model", "_orig_mod", "stats")


ATTENTION = ("query", "key", "value")


@dataclasses.dataclass(frozen=True)
class Link:
    """b[part] += factor · transpose(a[part]): one leaf of b, or a part of it, from one of a.

    Parts are rows of the first axis in PyTorch's layout ("o"), of the last in the others'; ``axes`` brings a's
    axes into b's order, and ``order`` the elements along one of b's. Gradients go the same way, whatever the factor.
    """

    a: str
    b: str
    axes: tuple[int, ...]
    part_a: tuple[int, int, int] | None = None  # axis, start, end
    part_b: tuple[int, int, int] | None = None
    factor: float = 1.0
    how: str = "by name"
    order: tuple[int, ...] | None = None  # for each element along b's ``order_axis`` its place in a
    order_axis: int = 0
    flip: tuple[int, ...] = ()  # axes of b along which the elements are reversed

    def move(self, array: np.ndarray) -> np.ndarray:
        """The array of a, or its gradient, as b has it."""
        moved = np.flip(cut(array, self.part_a).transpose(self.axes), self.flip)
        return moved if self.order is None else moved.take(self.order, self.order_axis)

    def of_b(self, array: np.ndarray) -> np.ndarray:
        """The part of b's leaf that this link is about."""
        return cut(array, self.part_b)

    def __str__(self) -> str:
        return f"{label(self.a, self.part_a)} -> {label(self.b, self.part_b)}"


def cut(array: np.ndarray, part: tuple[int, int, int] | None) -> np.ndarray:
    """A part of an array along one axis, as a view."""
    if part is None:
        return array
    axis, start, end = part
    return array[(slice(None),) * axis + (slice(start, end),)]


def label(name: str, part: tuple[int, int, int] | None) -> str:
    """``name`` or ``name[start:end]``."""
    return name if part is None else f"{name}[{part[1]}:{part[2]}]"


def tokens(name: str) -> tuple[str, ...]:
    """A leaf's name in words that all frameworks share."""
    words = [word for word in re.split(r"[./]", name) if word not in WRAPPERS]
    return tuple(CANONICAL.get(word, word) for word in words)


def role(name: str, leaf: Leaf, leaves: Mapping[str, Leaf]) -> str:
    """What a leaf is for: weight, bias, mean, var; with the attention projection that it belongs to.

    The bias of a norm and that of a convolution are told apart by the weight beside them.
    """
    words = tokens(name)
    kinds = ("weight", "bias", "mean", "var")
    stem = CANONICAL.get(words[-1].partition("_")[0], "")  # bias_hh_l0
    kind = (
        words[-1] if words[-1] in kinds else stem if stem in kinds else "weight" if leaf.array.ndim > 1 else words[-1]
    )
    if kind == "bias":
        owner = name[: len(name) - len(re.split(r"[./]", name)[-1])]
        beside = [each.array.ndim for other, each in leaves.items() if other.startswith(owner) and other != name]
        kind = "bias of a norm" if owner and beside and max(beside) == 1 else "bias"
    return " ".join([*(word for word in words[:-1] if word in ATTENTION), kind])


def permutation(a: Leaf, b: Leaf, shape_a: Sequence[int], shape_b: Sequence[int]) -> tuple[int, ...] | None:
    """The axes of a in b's order: by their names where both have them, else by their lengths; None if impossible."""
    if a.axes and b.axes and sorted(a.axes) == sorted(b.axes):
        axes = tuple(a.axes.index(name) for name in b.axes)
        if tuple(shape_a[axis] for axis in axes) == tuple(shape_b):
            return axes
    if tuple(shape_a) == tuple(shape_b):
        return tuple(range(len(shape_a)))
    fitting = [
        axes
        for axes in itertools.permutations(range(len(shape_a)))
        if tuple(shape_a[axis] for axis in axes) == tuple(shape_b)
    ]
    return fitting[0] if len(fitting) == 1 else None

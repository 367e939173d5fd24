"""Leaves that one side keeps in one piece and the other in several."""

from __future__ import annotations

from collections.abc import Mapping

from compare.ports.links import ATTENTION, Link, permutation, role, tokens
from compare.ports.recurrent import recurrent_links, two_biases
from compare.ports.side import Leaf


def fused_links(a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> list[Link]:
    """Recurrent layers with their gates and biases; fused query, key and value."""
    found = recurrent_links(a, b)
    rest_a = {name: leaf for name, leaf in a.items() if name not in {each.a for each in found}}
    rest_b = {name: leaf for name, leaf in b.items() if name not in {each.b for each in found}}
    return [*found, *two_biases(rest_a, rest_b), *split_projections(a, b), *joined_projections(a, b)]


def fused_names(leaves: Mapping[str, Leaf]) -> list[str]:
    """Leaves that may hold query, key and value, one below the other."""
    words = ("in_proj", "qkv", "c_attn")
    return [name for name in leaves if any(word in name for word in words)]


def kind_of(name: str) -> str:
    """Whether a fused leaf holds weights or biases."""
    return "bias" if name.endswith("bias") else "weight"


def triples(leaves: Mapping[str, Leaf], kind: str) -> list[dict[str, str]]:
    """Attention layers in order: the leaf of each projection that there is."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in sorted(leaves, key=lambda name: leaves[name].order):
        words = tokens(name)
        projection = next((word for word in words if word in ATTENTION), None)
        if projection and role(name, leaves[name], leaves) == f"{projection} {kind}":
            found.setdefault(tuple(word for word in words[:-1] if word != projection), {})[projection] = name
    return list(found.values())


def split_projections(a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> list[Link]:
    """a has query, key and value in one leaf, b in three; a key bias that b lacks has no effect on a softmax."""
    found = []
    for kind in ("weight", "bias"):
        names = [name for name in fused_names(a) if kind_of(name) == kind]
        for name, layer in zip(names, triples(b, kind), strict=False):
            for projection, target in layer.items():
                part, axes = third(a[name], b[target], ATTENTION.index(projection))
                if axes is not None:
                    found.append(Link(name, target, axes, part_a=part, how="fused projections"))
    return found


def joined_projections(a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> list[Link]:
    """a has query, key and value in three leaves, b in one."""
    found = []
    for kind in ("weight", "bias"):
        names = [name for name in fused_names(b) if kind_of(name) == kind]
        for name, layer in zip(names, triples(a, kind), strict=False):
            for projection, source in layer.items():
                part, axes = third(b[name], a[source], ATTENTION.index(projection))
                if axes is not None:
                    back = permutation(a[source], b[name], a[source].array.shape, part_shape(b[name], part))
                    if back is not None:
                        found.append(Link(source, name, back, part_b=part, how="fused projections"))
    return found


def part_shape(leaf: Leaf, part: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape of a part of a leaf."""
    axis, start, end = part
    shape = list(leaf.array.shape)
    shape[axis] = end - start
    return tuple(shape)


def third(whole: Leaf, single: Leaf, place: int) -> tuple[tuple[int, int, int], tuple[int, ...] | None]:
    """The part of a fused leaf that is one projection, and how its axes lie in the single leaf."""
    axis = whole.axes.index("o") if whole.axes and "o" in whole.axes else whole.array.ndim - 1
    size = whole.array.shape[axis] // 3
    part = axis, place * size, (place + 1) * size
    return part, permutation(whole, single, part_shape(whole, part), single.array.shape)

"""Leaves that one side keeps in one piece and the other in several."""

from __future__ import annotations

from collections.abc import Mapping

from compare.ports.links import ATTENTION, Link, permutation, role, tokens
from compare.ports.side import Leaf


def fused_links(a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> list[Link]:
    """Fused query, key and value; the two biases of PyTorch's recurrent layers."""
    return [*two_biases(a, b), *split_projections(a, b), *joined_projections(a, b)]


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


def two_biases(a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> list[Link]:
    """PyTorch's recurrent layers add two biases where others have one: the one is their sum."""

    def pairs(leaves: Mapping[str, Leaf]) -> list[tuple[str, str]]:
        firsts = [name for name in leaves if "bias_ih" in name]
        return [
            (name, name.replace("bias_ih", "bias_hh"))
            for name in firsts
            if name.replace("bias_ih", "bias_hh") in leaves
        ]

    def single(leaves: Mapping[str, Leaf], size: int) -> list[str]:
        return [name for name, leaf in leaves.items() if tokens(name)[-1] == "bias" and leaf.array.shape == (size,)]

    found: list[Link] = []
    if pairs(a) and not pairs(b):
        for first, second in pairs(a):
            targets = [name for name in single(b, a[first].array.size) if name not in {x.b for x in found}]
            if targets:
                found += [Link(name, targets[0], (0,), how="two biases, added") for name in (first, second)]
    if pairs(b) and not pairs(a):
        for first, second in pairs(b):
            sources = [name for name in single(a, b[first].array.size) if name not in {x.a for x in found}]
            if sources:
                found.append(Link(sources[0], second, (0,), how="two biases, one of them 0"))
                found.append(Link(sources[0], first, (0,), factor=0.0, how="two biases, one of them 0"))
    return found

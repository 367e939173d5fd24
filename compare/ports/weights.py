"""Weights from one side to the other: which leaf of a is which leaf of b, and how its axes lie there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compare.ports.fused import fused_links
from compare.ports.links import Link, cut, label, permutation, role, tokens
from compare.ports.side import Leaf, PortError

PART = re.compile(r"(?P<name>[^\[]+?)(\[(?P<start>\d*):(?P<end>\d*)\])?(?P<transposed>\.T)?")


def link(
    a: Mapping[str, Leaf],
    b: Mapping[str, Leaf],
    mapping: Mapping[str, str | None] | None = None,
    find_order: Callable[[], None] = lambda: None,
) -> list[Link]:
    """Match the leaves of two models; PortError lists everything ambiguous or left over at once.

    First what ``mapping`` (b's leaf: a's leaf, or None) says; then equal names; then fused projections and the two
    biases of PyTorch's recurrent layers; then, among leaves of one role and shape, the order in which they are used,
    which ``find_order`` writes into the leaves.
    """
    settle_axes(a, b)
    links = stated(a, b, mapping or {})
    dropped = {name for name, source in (mapping or {}).items() if source is None}
    open_a = {name: leaf for name, leaf in a.items() if name not in dropped and name not in {x.a for x in links}}
    open_b = {name: leaf for name, leaf in b.items() if name not in dropped and name not in {x.b for x in links}}

    def settle(found: list[Link]) -> None:
        links.extend(found)
        for each in found:
            open_a.pop(each.a, None)
            open_b.pop(each.b, None)

    settle(by_name(open_a, open_b))
    if open_a and open_b:
        find_order()
    settle(fused_links(open_a, open_b))
    settle(by_order(open_a, open_b, a, b))
    unused = {name: leaf for name, leaf in open_a.items() if np.any(leaf.array)}  # what is 0 adds nothing
    if unused or open_b:
        raise PortError(describe(unused, open_b, a, b))
    return [mirrored(each, a[each.a], b[each.b]) for each in links]


def mirrored(link: Link, one: Leaf, other: Leaf) -> Link:
    """The link; of transposed convolutions of which only one mirrors its kernel, with height and width reversed."""
    if one.mirrored == other.mirrored or None in (one.mirrored, other.mirrored):
        return link
    return dataclasses.replace(link, flip=tuple(k for k, axis in enumerate(str(other.axes)) if axis in "dhw"))


def settle_axes(a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> None:
    """Give a side the other's order of axes if leaves of one name have one shape that only so fits.

    A JAX or NumPy function may keep PyTorch's (out, in); then a square matrix, too, is copied as it is.
    """
    names = {tokens(name): leaf for name, leaf in a.items()}
    pairs = [(names[tokens(name)], leaf) for name, leaf in b.items() if tokens(name) in names]
    for kind in ("io", "wio", "hwio"):
        for leaves, mine, theirs in ((a, 0, 1), (b, 1, 0)):
            known = [pair for pair in pairs if pair[mine].axes == kind != pair[theirs].axes]
            known = [pair for pair in known if sorted(kind) == sorted(pair[theirs].axes or "")]
            alike = all(one.array.shape == other.array.shape for one, other in known)
            if alike and not all(fits_by_axes(*pair) for pair in known):
                for leaf in leaves.values():
                    leaf.axes = known[0][theirs].axes if leaf.axes == kind else leaf.axes


def fits_by_axes(a: Leaf, b: Leaf) -> bool:
    """Whether the names of the axes bring one shape into the other."""
    axes = str(a.axes)
    return tuple(a.array.shape[axes.index(name)] for name in str(b.axes)) == b.array.shape


def by_name(a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> list[Link]:
    """Leaves whose names are the same but for spelling."""
    names: dict[tuple[str, ...], list[str]] = {}
    for name in a:
        names.setdefault(tokens(name), []).append(name)
    found = []
    for name in b:
        same = names.get(tokens(name), [])
        if len(same) == 1:
            axes = permutation(a[same[0]], b[name], a[same[0]].array.shape, b[name].array.shape)
            if axes is not None:
                found.append(Link(same[0], name, axes))
    return found


def by_order(
    a: Mapping[str, Leaf], b: Mapping[str, Leaf], all_a: Mapping[str, Leaf], all_b: Mapping[str, Leaf]
) -> list[Link]:
    """Leaves of one role and one shape up to the order of axes, where both sides have equally many: in order."""

    def groups(leaves: Mapping[str, Leaf], whole: Mapping[str, Leaf]) -> dict[tuple[str, tuple[int, ...]], list[str]]:
        found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for name in sorted(leaves, key=lambda name: leaves[name].order):
            leaf = leaves[name]
            found.setdefault((role(name, leaf, whole), tuple(sorted(leaf.array.shape))), []).append(name)
        return found

    of_a, of_b, found = groups(a, all_a), groups(b, all_b), []
    for kind, names in of_b.items():
        others = of_a.get(kind, [])
        if len(others) == len(names):
            for one, other in zip(others, names, strict=True):
                axes = permutation(a[one], b[other], a[one].array.shape, b[other].array.shape)
                if axes is not None:
                    how = "the only one of its shape" if len(names) == 1 else "by order of use"
                    found.append(Link(one, other, axes, how=how))
    return found


def uncovered(
    leaves: Mapping[str, Leaf], links: Sequence[Link], side: str = "a"
) -> dict[str, tuple[str, tuple[int, int, int] | None]]:
    """What of a side no link is about, by label: a leaf, or the part of a fused leaf that the other has no use for."""
    found: dict[str, tuple[str, tuple[int, int, int] | None]] = {}
    ends = [(each.a, each.part_a) if side == "a" else (each.b, each.part_b) for each in links]
    for name, leaf in leaves.items():
        parts = [part for end, part in ends if end == name]
        if not parts:
            found[name] = name, None
        elif None not in parts:
            cuts = sorted(part for part in parts if part is not None)
            axis, at = cuts[0][0], 0
            for _, start, end in [*cuts, (axis, leaf.array.shape[axis], 0)]:
                if start > at:
                    found[label(name, (axis, at, start))] = name, (axis, at, start)
                at = max(at, end)
    return found


def stated(a: Mapping[str, Leaf], b: Mapping[str, Leaf], mapping: Mapping[str, str | None]) -> list[Link]:
    """What the caller has said: ``{"b/leaf": "a.leaf"}``, ``"a.leaf.T"``, ``"a.leaf[0:8]"``, ``"a.one + a.other"``.

    None leaves a leaf out.
    """
    found = []
    for target, source in mapping.items():
        if source is None:
            if target not in a and target not in b:
                raise PortError(f"mapping: {target!r} is a leaf of neither side")
            continue
        other, part_b, _ = parsed(target, b, "b")
        for each in source.split(" + "):
            one, part_a, transposed = parsed(each, a, "a")
            shapes = cut(a[one].array, part_a).shape, cut(b[other].array, part_b).shape
            axes = permutation(a[one], b[other], *shapes)
            if transposed:
                axes = tuple(range(len(shapes[0])))[::-1]
            if axes is None or tuple(shapes[0][axis] for axis in axes) != shapes[1]:
                raise PortError(f"mapping: {each!r} of shape {shapes[0]} does not fit {target!r} of shape {shapes[1]}")
            found.append(Link(one, other, axes, part_a, part_b, how="as stated"))
    return found


def parsed(text: str, leaves: Mapping[str, Leaf], side: str) -> tuple[str, tuple[int, int, int] | None, bool]:
    """The leaf, the part of it and whether it is transposed, of ``leaf``, ``leaf.T`` or ``leaf[0:8]``."""
    if text in leaves:
        return text, None, False
    match = PART.fullmatch(text)
    name = match["name"] if match else text
    if name not in leaves:
        raise PortError(f"mapping: {name!r} is not a leaf of {side}; known: {', '.join(leaves)}")
    assert match is not None
    part = None
    if match["end"] is not None:
        leaf = leaves[name]
        axis = leaf.axes.index("o") if leaf.axes and "o" in leaf.axes else 0
        part = axis, int(match["start"] or 0), int(match["end"] or leaf.array.shape[axis])
    return name, part, bool(match["transposed"])


def describe(
    unused: Mapping[str, Leaf], missing: Mapping[str, Leaf], a: Mapping[str, Leaf], b: Mapping[str, Leaf]
) -> str:
    """Everything that found no counterpart, with what could be one."""
    lines = [
        'weights cannot be copied: pass mapping={"leaf of b": "leaf of a"}, None to leave one out, or weights="as-is" '
        "if b has its weights already"
    ]
    for title, left, others in (("b has, and a does not", missing, a), ("a has, and b does not", unused, b)):
        for name, leaf in left.items():
            shape = sorted(leaf.array.shape)
            near = [other for other, each in others.items() if sorted(each.array.shape) == shape]
            lines.append(
                f"  {title}: {name} {leaf.array.shape}; candidates: {', '.join(near[:6]) or 'none of its shape'}"
            )
    return "\n".join(lines)


def moved(a: Mapping[str, Leaf], b: Mapping[str, Leaf], links: Sequence[Link]) -> dict[str, np.ndarray]:
    """The leaves of b with the values of a."""
    made = {each.b: np.zeros_like(b[each.b].array) for each in links}
    for each in links:
        target = each.of_b(made[each.b])
        target += each.factor * each.move(a[each.a].array)
    return made

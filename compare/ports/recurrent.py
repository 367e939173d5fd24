"""Recurrent layers: gates in one leaf as PyTorch has them, or in one leaf each as Flax; one bias or two."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from compare.ports.links import Link, permutation, role, tokens
from compare.ports.side import Leaf

ORDERS = ("ifgo", "rzn")  # of the gates in a fused leaf: LSTM, GRU
FUSED = re.compile(r"(?P<kind>weight|bias)_(?P<of>ih|hh)(?P<layer>_l\d+(_reverse)?)?")  # torch.nn.RNNBase, RNNCellBase
MODULE = re.compile(r"dense_(?P<fused>[ih])|(?P<of>[ih])(?P<gate>[ifgorzn])_?")  # flax: dense_h; hf, if_

Cell = dict[tuple[str, str], dict[str, str]]  # ("i" or "h", "weight" or "bias") -> leaf of each gate; "": of all gates


def cells(leaves: Mapping[str, Leaf]) -> list[Cell]:
    """The recurrent layers whose leaves are named as in PyTorch or Flax, in the order of use."""
    found: dict[tuple[str, ...], Cell] = {}
    for name in sorted(leaves, key=lambda name: leaves[name].order):
        words = re.split(r"[./]", name)
        if match := FUSED.fullmatch(words[-1]):
            layer, of, kind, gate = (*words[:-1], match["layer"] or ""), match["of"][0], match["kind"], ""
        elif len(words) > 1 and (match := MODULE.fullmatch(words[-2])):
            layer, of, kind = tuple(words[:-2]), match["fused"] or match["of"], tokens(name)[-1]
            gate = match["gate"] or ""
        else:
            continue
        found.setdefault(layer, {}).setdefault((of, kind), {})[gate] = name
    return [cell for cell in found.values() if {("i", "weight"), ("h", "weight")} <= cell.keys()]


def recurrent_links(a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> list[Link]:
    """The leaves of recurrent layers, layer by layer, where both sides have equally many."""
    of_a, of_b = cells(a), cells(b)
    found: list[Link] = []
    if len(of_a) == len(of_b):
        for one, other in zip(of_a, of_b, strict=True):
            found += cell_links(one, other, a, b)
    return found


def cell_links(one: Cell, other: Cell, a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> list[Link]:
    """The links of one layer; nothing if the two have different gates."""
    gates = [{gate for names in cell.values() for gate in names} - {""} for cell in (one, other)]
    order = next((order for order in ORDERS if all(each <= set(order) for each in gates)), None)
    if order is None:
        return []
    cut = order if any(gates) else ""  # whole leaves are linked whole
    found: list[Link] = []
    for of in "ih":
        found += pieces(one.get((of, "weight"), {}), other.get((of, "weight"), {}), cut, a, b, "by gate")
    for gate in cut or [""]:
        biases = [{of for of in "ih" if has(cell.get((of, "bias"), {}), gate)} for cell in (one, other)]
        for source, target, factor, how in bias_pairs(*biases):
            names = one[source, "bias"], other[target, "bias"]
            found += pieces(*names, cut, a, b, how, only=gate, factor=factor)
    return found


def has(names: Mapping[str, str], gate: str) -> bool:
    """Whether there is a leaf of this gate, or one of all."""
    return gate in names or "" in names


def bias_pairs(a: set[str], b: set[str]) -> Iterator[tuple[str, str, float, str]]:
    """Which bias goes where: of two in a and one in b the one is the sum; of one in a, a second one in b is 0."""
    if a == b:
        yield from ((of, of, 1.0, "by gate") for of in sorted(a))
    elif a and len(b) == 1:
        (target,) = b
        yield from ((of, target, 1.0, "two biases, added" if len(a) == 2 else "by gate") for of in sorted(a))
    elif len(a) == 1:
        (source,) = a
        for of in sorted(b):
            yield source, of, float(of == source), "two biases, one of them 0"


def pieces(
    one: Mapping[str, str],
    other: Mapping[str, str],
    order: str,
    a: Mapping[str, Leaf],
    b: Mapping[str, Leaf],
    how: str,
    only: str = "",
    factor: float = 1.0,
) -> Iterator[Link]:
    """Leaves of the same gates: whole, or part of a fused leaf against the leaf of a gate."""
    for place, gate in enumerate(order) if order else [(0, "")]:
        left, right = (one.get(gate, one.get("")), other.get(gate, other.get("")))
        if left is None or right is None or (only and gate != only):
            continue
        part_a = part(a[left], place, len(order)) if order and gate not in one else None
        part_b = part(b[right], place, len(order)) if order and gate not in other else None
        shapes = shape(a[left], part_a), shape(b[right], part_b)
        axes = permutation(a[left], b[right], *shapes)
        if axes is not None:
            yield Link(left, right, axes, part_a, part_b, factor, how)


def part(leaf: Leaf, place: int, count: int) -> tuple[int, int, int]:
    """The elements of one gate in a fused leaf: axis, start, end."""
    axis = leaf.axes.index("o") if leaf.axes and "o" in leaf.axes else leaf.array.ndim - 1
    size = leaf.array.shape[axis] // count
    return axis, place * size, (place + 1) * size


def shape(leaf: Leaf, part: tuple[int, int, int] | None) -> tuple[int, ...]:
    """The shape of a leaf, or of a part of it."""
    sizes = list(leaf.array.shape)
    if part is not None:
        sizes[part[0]] = part[2] - part[1]
    return tuple(sizes)


def two_biases(a: Mapping[str, Leaf], b: Mapping[str, Leaf]) -> list[Link]:
    """PyTorch's recurrent layers add two biases where others have one: the one is their sum.

    Nothing if the other side has two single biases for each pair: those are linked one by one.
    """
    found: list[Link] = []
    if pairs(a) and not pairs(b):
        for first, second in pairs(a):
            targets = [name for name in single(a, b, first) if name not in {x.b for x in found}]
            if targets:
                found += [Link(name, targets[0], (0,), how="two biases, added") for name in (first, second)]
    if pairs(b) and not pairs(a):
        for first, second in pairs(b):
            sources = [name for name in single(b, a, first) if name not in {x.a for x in found}]
            if sources:
                found.append(Link(sources[0], second, (0,), how="two biases, one of them 0"))
                found.append(Link(sources[0], first, (0,), factor=0.0, how="two biases, one of them 0"))
    return found


def pairs(leaves: Mapping[str, Leaf]) -> list[tuple[str, str]]:
    """The two biases of each recurrent layer."""
    both = ((name, name.replace("bias_ih", "bias_hh")) for name in leaves if "bias_ih" in name)
    return [(first, second) for first, second in both if second in leaves]


def single(paired: Mapping[str, Leaf], other: Mapping[str, Leaf], first: str) -> list[str]:
    """The other side's biases of this size; an empty list if there are as many as the pairs have in all."""
    shape = paired[first].array.shape
    count = sum(2 for name, _ in pairs(paired) if paired[name].array.shape == shape)
    fitting = [name for name, leaf in other.items() if role(name, leaf, other) == "bias" and leaf.array.shape == shape]
    return [] if len(fitting) >= count else fitting

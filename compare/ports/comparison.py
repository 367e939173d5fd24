"""Two sides with the same weights, and how far their outputs, losses, gradients and running statistics are apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from compare.ports import weights as matching
from compare.ports.align import Layout, distance, layouts, match, squeezed, twins
from compare.ports.links import Link, cut
from compare.ports.recording import Recording, Store
from compare.ports.report import Row
from compare.ports.side import PortError, Side

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "as-is": 1e-4}  # relative L2 distance of an array
TWIN_SLACK = 10  # intermediate values may be this many times further apart than outputs: rounding cancels later
FLOOR = 1e-13  # of the largest gradient: below it a gradient is the rounding of 0


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked, in checked form."""

    weights: str
    train: bool
    steps: int
    optimizer: Any
    precision: str
    outputs: float
    gradients: float
    stated: bool  # the caller set the tolerances

    @classmethod
    def of(cls, *, precision: str, tolerances: Any, weights: str, steps: int, optimizer: Any, train: bool) -> Request:
        """Refuse what is no question."""
        if precision not in TOLERANCES:
            raise PortError(f"unknown precision {precision!r}: expected {', '.join(TOLERANCES)}")
        if weights not in ("copy", "as-is"):
            raise PortError(f"weights is {weights!r}: expected 'copy' (from a to b) or 'as-is'")
        if bool(steps) != (optimizer is not None):
            raise PortError("steps and optimizer belong together: steps=3, optimizer=(for_a, for_b)")
        if steps and not (isinstance(optimizer, (tuple, list)) and len(optimizer) == 2):
            raise PortError("optimizer is a pair: for a PyTorch side a function of its parameters, else one of optax")
        usual = TOLERANCES[precision]
        if tolerances is None or isinstance(tolerances, (int, float)):
            limits = dict.fromkeys(("outputs", "gradients"), float(tolerances if tolerances is not None else usual))
        else:
            limits = {"outputs": usual, "gradients": usual, **tolerances}
            if unknown := sorted(limits.keys() - {"outputs", "gradients"}):
                raise PortError(f"unknown tolerance {unknown[0]!r}: expected outputs, gradients")
        return cls(weights, train, steps, optimizer, precision, **limits, stated=tolerances is not None)


@dataclasses.dataclass
class Comparison:
    """Two sides with the same weights, and how far they are apart."""

    a: Side
    b: Side
    links: list[Link]
    notes: list[str]
    request: Request
    store: Store

    def output_row(self, a: Recording, b: Recording, x: str, y: str) -> Row:
        """How far one output is apart, up to layout."""
        one, other = a.array(a.outputs[x]), b.array(b.outputs[y])
        if one.size != other.size:
            return Row("output", x, y, float("inf"), self.request.outputs, f"shapes {one.shape} and {other.shape}")
        layout = match_shape(one, other, self.request.outputs)
        rel = distance(one if layout is None else layout.apply(one), other) if layout else float("inf")
        finite = np.isfinite(one).all() and np.isfinite(other).all()
        shapes = "" if one.shape == other.shape else f"shapes {one.shape} and {other.shape}"
        return Row("output", x, y, rel, self.request.outputs, shapes if finite else "not finite")

    def loss_row(self, a: Recording, b: Recording, of_a: Any, of_b: Any, names: Mapping[str, str]) -> Row:
        """The scalar that is differentiated: the sum of outputs times random cotangents."""
        one = sum(float(np.vdot(of_a[x], a.array(a.outputs[x]))) for x in of_a)
        other = sum(float(np.vdot(of_b[names[x]], b.array(b.outputs[names[x]]))) for x in of_a)
        scale = sum(float(np.linalg.norm(of_a[x]) * np.linalg.norm(a.array(a.outputs[x]))) for x in of_a)
        rel = abs(one - other) / scale if scale else abs(one - other)
        return Row("loss", "Σ output · cotangent", "", rel, self.request.outputs)

    def floor(self, a: Recording, b: Recording) -> float:
        """Gradients smaller than this are the rounding of 0: a bias before a batch norm has such."""
        sizes = [np.abs(g).max() for r in (a, b) for g in r.gradients.values() if g is not None and g.size]
        finite = [float(size) for size in sizes if np.isfinite(size)]
        return FLOOR * max(finite, default=0.0) * (1 if self.request.precision == "float64" else 1e8)

    def gradient_rows(self, a: Recording, b: Recording) -> list[Row]:
        """How far the gradient of every linked parameter is apart."""
        rows, floor, leaves = [], self.floor(a, b), (self.a.leaves(), self.b.leaves())
        for link in self.links:
            x, y = a.gradients.get(link.a), b.gradients.get(link.b)
            statistic = not (leaves[0][link.a].trained or leaves[1][link.b].trained)
            by_name = self.a.kind == self.b.kind == "JAX"  # where only a name tells a statistic from a parameter
            if statistic and not by_name and (x is None or y is None):
                continue
            if x is None and y is None:
                rows.append(Row("gradient", link.a, link.b, 0.0, self.request.gradients, "no gradient on either side"))
                continue
            one = np.zeros(link.of_b(np.asarray(y)).shape) if x is None else link.move(np.asarray(x, np.float64))
            other = np.zeros(one.shape) if y is None else link.of_b(np.asarray(y, np.float64))
            rel = distance(one, other)
            if np.linalg.norm(one - other) <= floor * one.size**0.5:
                rel = min(rel, 0.0)
            said = "a has no gradient" if x is None else "b has no gradient" if y is None else ""
            said = said if np.isfinite(one).all() and np.isfinite(other).all() else "not finite"
            rows.append(Row("gradient", link.a, link.b, rel, self.request.gradients, said))
        for side, recording in (("a", a), ("b", b)):
            of_side = leaves[side == "b"]
            for label, (name, part) in matching.uncovered(of_side, self.links, side).items():
                if of_side[name].trained:  # it acts on nothing if its gradient is 0
                    g = recording.gradients.get(name)
                    size = 0.0 if g is None else float(np.abs(cut(np.asarray(g), part)).max(initial=0.0))
                    rel = 0.0 if size <= floor else float("inf")
                    names = (label, "") if side == "a" else ("", label)
                    rows.append(Row("gradient", *names, rel, self.request.gradients, f"only {side} has it"))
        return rows

    def statistic_rows(self, a: Recording, b: Recording) -> list[Row]:
        """How far the running statistics are apart after one pass in training mode."""
        rows = []
        for link in self.links:
            if link.a in a.statistics and link.b in b.statistics:
                rel = distance(link.move(a.statistics[link.a]), link.of_b(b.statistics[link.b]))
                rows.append(Row("statistic", link.a, link.b, rel, self.request.outputs))
        return rows

    def twins(self, a: Recording, b: Recording) -> Any:
        """Values of the two sides that are equal."""
        return twins(a, b, TWIN_SLACK * self.request.outputs)


def match_shape(a: np.ndarray, b: np.ndarray, tolerance: float) -> Layout | None:
    """The layout of an output: axes move only where the shapes differ, or where it is an image on both sides."""
    one, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if one.size != other.size:
        return None
    same = Layout(tuple(range(len(squeezed(one.shape)))), other.shape)
    if squeezed(one.shape) == squeezed(other.shape) and one.ndim < 4:
        return same
    return match(one, other, tolerance) or (
        same if one.shape == other.shape else next(iter(layouts(one.shape, other.shape)))
    )

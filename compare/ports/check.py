"""Compare two implementations of a network, and find the line where they part."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compare.ports import updates
from compare.ports import weights as matching
from compare.ports.align import Layout, distance, layouts, match, squeezed, twins
from compare.ports.explain import explain
from compare.ports.inputs import Arranged, accepted, arrange
from compare.ports.links import Link, cut
from compare.ports.recording import NoStore, Recording, Store
from compare.ports.report import First, Report, Row
from compare.ports.side import PortError, Side
from compare.ports.sides import open_side

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "as-is": 1e-4}  # relative L2 distance of an array
TWIN_SLACK = 10  # intermediate values may be this many times further apart than outputs: rounding cancels later
UPDATE_SLACK = 1000  # Adam divides small gradients by themselves, and their rounding with them
FLOOR = 1e-13  # of the largest gradient: below it a gradient is the rounding of 0


def check(
    a: Any,
    b: Any,
    inputs: Any,
    *,
    weights: str = "copy",
    mapping: Mapping[str, str | None] | None = None,
    layouts: tuple[str, str] | None = None,
    cotangent_seed: int = 0,
    train: bool = False,
    steps: int = 0,
    optimizer: Any = None,
    precision: str = "float64",
    tolerances: float | Mapping[str, float] | None = None,
) -> Report:
    """Compare outputs and gradients of ``b`` with those of ``a``, and find the first line where they part.

    ``a`` and ``b`` are each a PyTorch ``nn.Module``, a Flax NNX module, ``(Linen module, variables)``,
    ``(JAX function, params)``, ``(NumPy forward, params)``, ``(NumPy forward, backward, params)`` or the path of an
    ONNX file. ``inputs`` are NumPy arrays: one, or a list of them. ``weights`` is "copy" (from a to b) or "as-is";
    ``mapping`` names a's leaf for leaves of b where names and shapes do not tell. ``layouts`` are those of images, such
    as ("NCHW", "NHWC"), the inputs being given in the first. With ``steps``, ``optimizer`` is a pair: for a PyTorch
    side a function of its parameters, for any other an optax optimizer.

    Raises PortError for what cannot be compared, naming the remedy.
    """
    request = Request.of(
        weights=weights, train=train, steps=steps, optimizer=optimizer, precision=precision, tolerances=tolerances
    )
    given = [np.asarray(x) for x in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    require_numbers(given)
    left = open_side(a, "a", train=train, precision=precision)
    right = open_side(b, "b", train=train, precision=precision)
    moves = accepted(left, given, "a", layouts), accepted(right, given, "b", layouts)
    links, notes = matched(left, right, request, mapping, [moves[0][0], moves[1][0]])
    inputs_a, inputs_b, note = arrange(left, right, *moves)
    with Store() as store:
        comparison = Comparison(left, right, links, [*notes, *filter(None, [note])], request, store)
        report = comparison.report(inputs_a, inputs_b, np.random.default_rng(cotangent_seed))
    again = functools.partial(
        check, a, b, weights=weights, mapping=mapping, layouts=layouts, precision=precision, tolerances=tolerances
    )
    return with_circumstances(report, again, given, train)


def with_circumstances(report: Report, again: Callable[..., Report], inputs: list[np.ndarray], train: bool) -> Report:
    """Add to the pattern when the difference shows: only in training mode, or more in larger batches."""
    if report.first is None or report.first.direction not in ("forward", "backward"):
        return report
    said = [report.first.pattern] if report.first.pattern else []
    n = len(inputs[0]) if inputs[0].ndim else 0
    if train and again(inputs, train=False).first is None:
        said.append("only in training mode")
    elif not train and n > 2 and re.match(rf"constant factor \S+ = (1/)?{n}\b", report.first.pattern):
        fewer = again([x[: n - 1] for x in inputs], train=False).first
        if fewer is not None and re.match(rf"constant factor \S+ = (1/)?{n - 1}\b", fewer.pattern):
            said.append("grows with the batch size")
    return dataclasses.replace(report, first=dataclasses.replace(report.first, pattern=", ".join(said)))


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


def require_numbers(inputs: Sequence[np.ndarray]) -> None:
    """Refuse inputs that no network takes."""
    if not inputs:
        raise PortError("there are no inputs: pass one NumPy array or a list of them")
    for k, x in enumerate(inputs):
        if x.dtype.kind not in "fiub":
            raise PortError(f"input {k} has dtype {x.dtype}: expected floats, integers or booleans")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise PortError(f"input {k} has NaN or infinite elements: pass finite numbers")


def matched(
    a: Side, b: Side, request: Request, mapping: Mapping[str, str | None] | None, inputs: list[Arranged]
) -> tuple[list[Link], list[str]]:
    """Which leaves belong together; with "copy" b gets the values of a."""
    leaves_a, leaves_b = a.leaves(), b.leaves()

    def find_order() -> None:
        for side, leaves, arranged in ((a, leaves_a, inputs[0]), (b, leaves_b, inputs[1])):
            for place, leaf in enumerate(order_of_use(side, arranged.inputs)):
                leaves[leaf].order = place

    try:
        links = matching.link(leaves_a, leaves_b, mapping, find_order)
    except PortError as error:
        if request.weights == "copy":
            raise
        return [], [f"gradients of parameters are not compared: {error}"]
    if request.weights == "copy":
        b.assign(matching.moved(leaves_a, leaves_b, links))
    return links, [f"a's {name} has no counterpart in b" for name in matching.uncovered(leaves_a, links)]


def order_of_use(side: Side, inputs: list[np.ndarray]) -> list[str]:
    """The leaves of a side, sorted by when the forward pass first reads them."""
    recording = side.record(inputs, NoStore())
    parameters = set(recording.parameters.values())
    consumers = recording.consumers()

    def first_use(name: str) -> int:
        """The first value made of this leaf, of those made of the fewest: a line of NumPy may read the whole tree."""
        users = consumers[recording.parameters[name]]
        few = min((len(parameters.intersection(recording.values[c].inputs)) for c in users), default=0)
        fitting = (c for c in users if len(parameters.intersection(recording.values[c].inputs)) == few)
        return min(fitting, default=len(consumers))

    return sorted(recording.parameters, key=first_use)


@dataclasses.dataclass
class Comparison:
    """Two sides with the same weights, and how far they are apart."""

    a: Side
    b: Side
    links: list[Link]
    notes: list[str]
    request: Request
    store: Store

    def report(self, inputs_a: list[np.ndarray], inputs_b: list[np.ndarray], rng: np.random.Generator) -> Report:
        """Record both sides, compare, and explain the first difference."""
        differentiable = self.a.has_gradients and self.b.has_gradients
        outputs: dict[str, np.ndarray] = {}
        cotangents: dict[str, np.ndarray] = {}
        moved: dict[str, np.ndarray] = {}
        names: dict[str, str] = {}

        def of_a(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs.update(made)
            if all(np.asarray(x).dtype.kind == "f" for x in made.values()):
                cotangents.update({name: rng.standard_normal(np.shape(x)) for name, x in made.items()})
            return cotangents

        def of_b(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            names.update(pair_names(outputs, made))
            for x, y in names.items():
                layout = match_shape(outputs[x], made[y], self.request.outputs)
                if layout is not None and x in cotangents:
                    moved[y] = layout.apply(cotangents[x])
            return moved if len(moved) == len(names) else {}

        record_a = self.a.record(inputs_a, self.store, of_a if differentiable else None)
        record_b = self.b.record(inputs_b, self.store, of_b if differentiable else None)
        names = names or pair_names(record_a.outputs, record_b.outputs)
        differentiable = differentiable and 0 < len(moved) == len(names)
        rows = [self.output_row(record_a, record_b, x, y) for x, y in names.items()]
        if differentiable:
            rows.append(self.loss_row(record_a, record_b, cotangents, moved, names))
            rows += self.gradient_rows(record_a, record_b)
        if self.request.train:
            rows += self.statistic_rows(record_a, record_b)
        report = explain(self, record_a, record_b, rows, names)
        if self.request.steps and report.verdict == "same":
            histories = (
                self.a.train_steps(inputs_a, cotangents, self.request.steps, self.request.optimizer[0]),
                self.b.train_steps(inputs_b, moved, self.request.steps, self.request.optimizer[1]),
            )
            report = self.with_updates(report, record_a, self.floor(record_a, record_b), *histories)
        return report

    def with_updates(
        self, report: Report, a: Recording, floor: float, of_a: updates.History, of_b: updates.History
    ) -> Report:
        """The report of two sides with the same gradients, after both have taken steps.

        Where a gradient is the rounding of 0, an update that divides by its size is noise, and not compared.
        """
        gradients = {name: g for name, g in a.gradients.items() if g is not None and np.abs(g).max(initial=0) > floor}
        links = [link for link in self.links if link.a in gradients]
        rows = updates.update_rows(of_a, of_b, links, UPDATE_SLACK * self.request.gradients)
        quiet = [name for name, g in a.gradients.items() if name not in gradients and g is not None]
        notes = [f"updates of {name} are not compared: its gradient is 0" for name in quiet]
        report = dataclasses.replace(report, rows=[*report.rows, *rows], notes=[*report.notes, *notes])
        failed = next((row for row in rows if not row.passed), None)
        if failed is None:
            reason = f"{report.reason}, and {self.request.steps} updates"
            return dataclasses.replace(report, reason=reason)
        where = First(
            direction="update", a=f"the optimizer in {failed.note}", b=f"the optimizer in {failed.note}",
            path_a=failed.a, path_b=failed.b, op_a="", op_b="", inputs_rel=0.0, outputs_rel=failed.rel, pattern="",
            hint=updates.hint(of_a, of_b, gradients, links, rows),
        )  # fmt: skip
        return dataclasses.replace(report, verdict="different", reason="the updates differ", first=where)

    def output_row(self, a: Recording, b: Recording, x: str, y: str) -> Row:
        """How far one output is apart, up to layout."""
        one, other = a.array(a.outputs[x]), b.array(b.outputs[y])
        if one.size != other.size:
            return Row("output", x, y, float("inf"), self.request.outputs, f"shapes {one.shape} and {other.shape}")
        layout = match_shape(one, other, self.request.outputs)
        rel = distance(one if layout is None else layout.apply(one), other) if layout else float("inf")
        finite = np.isfinite(one).all() and np.isfinite(other).all()
        return Row("output", x, y, rel, self.request.outputs, "" if finite else "not finite")

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
        rows, floor, trained = [], self.floor(a, b), self.a.leaves()
        for link in self.links:
            if not trained[link.a].trained:
                continue
            x, y = a.gradients.get(link.a), b.gradients.get(link.b)
            if x is None and y is None:
                rows.append(Row("gradient", link.a, link.b, 0.0, self.request.gradients, "no gradient on either side"))
                continue
            one = np.zeros(link.of_b(np.asarray(y)).shape) if x is None else link.move(np.asarray(x, np.float64))
            other = np.zeros(one.shape) if y is None else link.of_b(np.asarray(y, np.float64))
            rel = distance(one, other)
            if np.linalg.norm(one - other) <= floor * one.size**0.5:
                rel = min(rel, 0.0)
            said = "a has no gradient" if x is None else "b has no gradient" if y is None else ""
            rows.append(Row("gradient", link.a, link.b, rel, self.request.gradients, said))
        for label, (name, part) in matching.uncovered(trained, self.links).items():
            if trained[name].trained:  # it acts on nothing if its gradient is 0
                x = a.gradients.get(name)
                size = 0.0 if x is None else float(np.abs(cut(np.asarray(x), part)).max(initial=0.0))
                rel = 0.0 if size <= floor else float("inf")
                rows.append(Row("gradient", label, "", rel, self.request.gradients, "only a has it"))
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


def pair_names(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, str]:
    """Which outputs belong together: those of one name if the names are the same, else in order."""
    if set(a) == set(b):
        return {name: name for name in a}
    if len(a) != len(b):
        raise PortError(
            f"a has {len(a)} outputs ({', '.join(a)}), b has {len(b)} ({', '.join(b)}): return the same ones"
        )
    return dict(zip(a, b, strict=True))


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


def assert_same(a: Any, b: Any, inputs: Any, **arguments: Any) -> Report:
    """``check`` for a test: AssertionError with the report unless the verdict is "same"."""
    __tracebackhide__ = True
    report = check(a, b, inputs, **arguments)
    if report.verdict != "same":
        raise AssertionError(f"\n{report}")
    return report

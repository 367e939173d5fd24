"""Compare two implementations of a network, and find the line where they part."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compare.ports import updates
from compare.ports import weights as matching
from compare.ports.comparison import Comparison, Request, match_shape
from compare.ports.explain import explain
from compare.ports.inputs import Arranged, accepted, arrange
from compare.ports.links import Link
from compare.ports.recording import NoStore, Recording, Store, release
from compare.ports.reorder import reordered
from compare.ports.report import First, Report
from compare.ports.side import PortError, Side
from compare.ports.sides import open_side
from compare.ports.square import transposed_squares

UPDATE_SLACK = 1000  # Adam divides small gradients by themselves, and their rounding with them


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
    given = [as_array(x) for x in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    require_numbers(given)
    left = open_side(a, "a", train=train, precision=precision)
    right = open_side(b, "b", train=train, precision=precision)
    moves = accepted(left, given, "a", layouts), accepted(right, given, "b", layouts)
    links, notes = matched(left, right, request, mapping, [moves[0][0], moves[1][0]])
    inputs_a, inputs_b, note = arrange(left, right, *moves)
    notes += filter(None, [note])
    if weights == "copy":
        links, more = transposed_squares(left, right, links, (inputs_a, inputs_b), request.outputs)
        notes += more
    with Store() as store:
        comparison = Comparison(left, right, links, notes, request, store)
        report = compare(comparison, inputs_a, inputs_b, np.random.default_rng(cotangent_seed))
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


def as_array(x: Any) -> np.ndarray:
    """An input as a NumPy array; a tensor without its graph, from whatever device it is on."""
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


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
    notes = [f"a's {name} has no counterpart in b" for name in matching.uncovered(leaves_a, links)]
    return links, notes + [f"b's {name} has no counterpart in a" for name in matching.uncovered(leaves_b, links, "b")]


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


def compare(
    comparison: Comparison, inputs_a: list[np.ndarray], inputs_b: list[np.ndarray], rng: np.random.Generator
) -> Report:
    """Record both sides, compare, and explain the first difference."""
    differentiable = comparison.a.has_gradients and comparison.b.has_gradients
    start = copy.deepcopy(rng)
    outputs: dict[str, np.ndarray] = {}
    cotangents: dict[str, np.ndarray] = {}
    moved: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}

    def of_a(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs.update(made)
        floats = [(name, x) for name, x in made.items() if np.asarray(x).dtype.kind == "f"]
        cotangents.update({name: rng.standard_normal(np.shape(x)) for name, x in floats})
        return cotangents

    def of_b(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names.update(pair_names(outputs, made))
        for x, y in names.items():
            layout = match_shape(outputs[x], made[y], comparison.request.outputs)
            if layout is not None and x in cotangents:
                moved[y] = layout.apply(cotangents[x])
        return moved if len(moved) == len(cotangents) else {}

    release()  # what weights were copied through
    record_a = comparison.a.record(inputs_a, comparison.store, of_a if differentiable else None)
    release()
    record_b = comparison.b.record(inputs_b, comparison.store, of_b if differentiable else None)
    release()
    names = names or pair_names(record_a.outputs, record_b.outputs)
    if comparison.request.weights == "copy" and reorder(comparison, record_a, record_b):
        return compare(comparison, inputs_a, inputs_b, start)
    differentiable = differentiable and 0 < len(moved) == len(cotangents)
    rows = [comparison.output_row(record_a, record_b, x, y) for x, y in names.items()]
    if differentiable:
        rows.append(comparison.loss_row(record_a, record_b, cotangents, moved, names))
        rows += comparison.gradient_rows(record_a, record_b)
    if comparison.request.train:
        rows += comparison.statistic_rows(record_a, record_b)
    report = explain(comparison, record_a, record_b, rows, names)
    if comparison.request.steps and report.verdict == "same":
        histories = (
            comparison.a.train_steps(inputs_a, cotangents, comparison.request.steps, comparison.request.optimizer[0]),
            comparison.b.train_steps(inputs_b, moved, comparison.request.steps, comparison.request.optimizer[1]),
        )
        report = with_updates(comparison, report, record_a, comparison.floor(record_a, record_b), *histories)
    return report


def reorder(comparison: Comparison, a: Recording, b: Recording) -> bool:
    """Give b the weights in the order in which it flattens images; returns whether that changed anything."""
    leaves = comparison.a.leaves(), comparison.b.leaves()
    links, notes = reordered(a, b, comparison.links, leaves, comparison.request.outputs)
    if notes:
        comparison.links, comparison.notes = links, [*comparison.notes, *notes]
        comparison.b.assign(matching.moved(*leaves, links))
    return bool(notes)


def with_updates(
    comparison: Comparison, report: Report, a: Recording, floor: float, of_a: updates.History, of_b: updates.History
) -> Report:
    """The report of two sides with the same gradients, after both have taken steps.

    Where a gradient is the rounding of 0, an update that divides by its size is noise, and not compared.
    """
    gradients = {name: g for name, g in a.gradients.items() if g is not None and np.abs(g).max(initial=0) > floor}
    links = [link for link in comparison.links if link.a in gradients]
    rows = updates.update_rows(of_a, of_b, links, UPDATE_SLACK * comparison.request.gradients)
    quiet = [name for name in a.gradients if name not in gradients]
    notes = [f"updates of {name} are not compared: its gradient is 0" for name in quiet]
    report = dataclasses.replace(report, rows=[*report.rows, *rows], notes=[*report.notes, *notes])
    failed = next((row for row in rows if not row.passed), None)
    if failed is None:
        reason = f"{report.reason}, and {comparison.request.steps} updates"
        return dataclasses.replace(report, reason=reason)
    where = First(
        direction="update", a=f"the optimizer in {failed.note}", b=f"the optimizer in {failed.note}",
        path_a=failed.a, path_b=failed.b, op_a="", op_b="", inputs_rel=0.0, outputs_rel=failed.rel, pattern="",
        hint=updates.hint(of_a, of_b, gradients, links, rows),
    )  # fmt: skip
    return dataclasses.replace(report, verdict="different", reason="the updates differ", first=where)


def pair_names(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, str]:
    """Which outputs belong together: those of one name if the names are the same, else in order."""
    if set(a) == set(b):
        return {name: name for name in a}
    if len(a) != len(b):
        raise PortError(
            f"a has {len(a)} outputs ({', '.join(a)}), b has {len(b)} ({', '.join(b)}): return the same ones"
        )
    return dict(zip(a, b, strict=True))


def assert_same(a: Any, b: Any, inputs: Any, **arguments: Any) -> Report:
    """``check`` for a test: AssertionError with the report unless the verdict is "same"."""
    __tracebackhide__ = True
    report = check(a, b, inputs, **arguments)
    if report.verdict != "same":
        raise AssertionError(f"\n{report}")
    return report

"""The pattern of a difference and the usual cause that fits it, each tested on the recorded numbers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from compare.ports import formulas
from compare.ports.align import Twins
from compare.ports.blame import Parting
from compare.ports.patterns import fits, pattern
from compare.ports.recording import Recording, Value
from compare.ports.report import Row

if TYPE_CHECKING:
    from compare.ports.check import Comparison

TRIED = 24  # values of one line that are held against a formula


@dataclasses.dataclass(frozen=True)
class Scene:
    """The two values at which the sides part, with what led to them."""

    a: Recording
    b: Recording
    left: Value
    right: Value
    x: np.ndarray  # left in the layout of right, where there is one
    y: np.ndarray
    inputs: list[np.ndarray]  # of left, those that are twins, in the layout of right if they have its size
    pattern: str
    note: str


def describe(
    comparison: Comparison, a: Recording, b: Recording, of_a: Twins, parting: Parting, rows: list[Row]
) -> tuple[str, str]:
    """The pattern and the hint, "" where nothing fits."""
    if parting.a is None or parting.b is None:
        return "", ""
    if parting.direction == "backward":
        return gradient_pattern(comparison, a, b, rows), backward_hint(parting.a, parting.b)
    if parting.direction == "statistics":
        return statistics(comparison, a, b, rows)
    scene = scene_of(a, b, of_a, parting)
    return scene.pattern, next((hint for test in HINTS if (hint := test(scene))), "")


def scene_of(a: Recording, b: Recording, of_a: Twins, parting: Parting) -> Scene:
    """Load what the hints look at."""
    assert parting.a is not None and parting.b is not None
    left, right = parting.a, parting.b
    x, y = left.stored.load(), right.stored.load()
    inputs = []
    for i in left.inputs:
        if i in of_a or not a.values[i].inputs:
            given = a.array(i)
            inputs.append(given)
    found = ""
    if parting.layout is not None:
        inputs = [parting.layout.apply(each) if each.shape == x.shape else each for each in inputs]
        x = parting.layout.apply(x)
        found = pattern(x, y, inputs)
    elif x.shape == y.shape and not parting.note.endswith("without it"):
        found = pattern(x, y, inputs)
    return Scene(a, b, left, right, x, y, inputs, found, parting.note)


# --- forward ----------------------------------------------------------------------------------------------------------


def same_line(recording: Recording, value: Value) -> list[Value]:
    """The values that the line of this one made in the same call, from this one on."""
    found = []
    for other in recording.values[value.id :]:
        if other.frames[:2] == value.frames[:2] and other.op != "constant":
            found.append(other)
        if len(found) == TRIED:
            break
    return found


def dropout(scene: Scene) -> str:
    """One side draws random numbers."""
    drawn = [any(v.random for v in same_line(r, v)) for r, v in ((scene.a, scene.left), (scene.b, scene.right))]
    if drawn[0] == drawn[1]:
        return ""
    return f"{'a' if drawn[0] else 'b'} draws random numbers here: dropout is active on one side only"


def epsilon(scene: Scene) -> str:
    """σ² + ε with two different ε, or 1/√(σ² + ε)."""
    base = next((i for i in scene.inputs if i.size == scene.x.size and i.size > 1), None)
    consumed = [
        recording.values[c].op
        for recording, value in ((scene.a, scene.left), (scene.b, scene.right))
        for c in recording.consumers()[value.id]
    ]
    roots = any("sqrt" in op or "pow" in op for op in [*consumed, scene.left.op, scene.right.op])
    if scene.pattern.startswith("constant shift") and base is not None and roots:
        values = [float(np.mean(each.ravel() - base.ravel())) for each in (scene.x, scene.y)]
        return f"ε differs: a adds {values[0]:.3g}, b adds {values[1]:.3g}"
    for left, right in itertools.product(same_line(scene.a, scene.left)[:6], same_line(scene.b, scene.right)[:6]):
        gap = formulas.epsilon_gap(left.stored.load().ravel(), right.stored.load().ravel()) if roots else None
        if gap is not None and abs(gap) < 0.1:
            return f"ε differs: that of b is larger by {gap:.3g}"
    return ""


def activation(scene: Scene) -> str:
    """Two different activation functions."""
    names = []
    for recording, value in ((scene.a, scene.left), (scene.b, scene.right)):
        given = [recording.array(i) for i in value.inputs if recording.values[i].op != "constant"]
        made = [v.stored.load() for v in same_line(recording, value)]
        pairs = ((x, y) for y in made for x in given if x.size == y.size)
        names.append(next((n for x, y in pairs if (n := formulas.activation_of(x.ravel(), y.ravel()))), ""))
    if all(names) and names[0] != names[1]:
        return f"a computes {names[0]}, b {names[1]}"
    return ""


def variance(scene: Scene) -> str:
    """Divided by n against n - 1."""
    if "n - 1" not in scene.pattern:
        return ""
    return "biased variance (divided by n) against unbiased (by n - 1)"


def nchw(recording: Recording, value: Value) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Image, kernel and result of a convolution in PyTorch's layout, if the value is one."""
    arrays = [recording.array(i) for i in value.inputs]
    y = value.stored.load()
    for x, kernel in itertools.permutations([each for each in arrays if each.ndim == 4], 2):
        if y.ndim == 4 and y.shape[1] == kernel.shape[0] and x.shape[1] % kernel.shape[1] == 0 and x.shape[0] == y.shape[0]:
            return x, kernel, y
        if y.ndim == 4 and y.shape[3] == kernel.shape[3] and x.shape[3] % kernel.shape[2] == 0 and x.shape[0] == y.shape[0]:
            return x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), y.transpose(0, 3, 1, 2)
    return None


def padding(scene: Scene) -> str:
    """The two convolutions pad differently."""
    found = []
    for recording, value in ((scene.a, scene.left), (scene.b, scene.right)):
        parts = nchw(recording, value)
        found.append(formulas.convolution_padding(*parts) if parts else None)
    if found[0] is not None and found[1] is not None and found[0] != found[1]:
        return f"padding differs: a pads {found[0]}, b {found[1]} (SAME at stride 2 pads (0, 1), padding=1 pads (1, 1))"
    if scene.pattern == "only at the borders":
        return "padding: SAME against an integer, or zeros against another filling"
    return ""


def resize(scene: Scene) -> str:
    """align_corners on one side only."""
    found = []
    for recording, value in ((scene.a, scene.left), (scene.b, scene.right)):
        images = [recording.array(i) for i in value.inputs if recording.values[i].stored.load().ndim == 4]
        outputs = [v.stored.load() for v in same_line(recording, value)]
        pairs = [(x, y) for x in images for y in outputs if y.ndim == 4]
        pairs += [(x.transpose(0, 3, 1, 2), y.transpose(0, 3, 1, 2)) for x, y in pairs]
        found.append(next((c for x, y in pairs if (c := formulas.resize_corners(x, y)) is not None), None))
    if None not in found and found[0] != found[1]:
        return f"align_corners is {found[0]} in a, {found[1]} in b"
    words = f"{scene.left.op} {scene.right.op}"
    return "align_corners, or another rule of the resize" if "upsample" in words and None in found else ""


def ordering(scene: Scene) -> str:
    """Axes in another order, as when an image is flattened."""
    reshaped = any(word in value.op for value in (scene.left, scene.right) for word in ("view", "reshape", "flatten", "clone"))
    if scene.note == "the same numbers in another order" or (scene.pattern.startswith("permutation") and reshaped):
        return "flatten order: NCHW and NHWC images flatten to different vectors"
    return ""


def missing_bias(scene: Scene) -> str:
    """What one side adds is a parameter of it."""
    goes_on = scene.note.endswith("without it")
    for name, recording, value in (("b", scene.a, scene.left), ("a", scene.b, scene.right)):
        if goes_on and not scene.note.startswith(name):
            continue
        y = value.stored.load()
        vectors = [(recording.values[i].path, recording.array(i)) for i in value.inputs if recording.values[i].op == "parameter"]
        others = [recording.array(i) for i in value.inputs if recording.values[i].stored.summary.size == y.size]
        for (path, vector), before in itertools.product(vectors, others if goes_on else [scene.y if name == "b" else scene.x]):
            gap = (y if before.shape == y.shape else y.reshape(before.shape)) - before if before.size == y.size else None
            if gap is not None and vector.ndim == 1 and any(
                gap.shape[k] == vector.size and fits(gap, along(vector, gap.ndim, k) + 0 * gap) for k in range(gap.ndim)
            ):
                return f"the bias {path} is missing in {name}"
    return ""


def along(vector: np.ndarray, ndim: int, axis: int) -> np.ndarray:
    """A vector as an array that broadcasts along one axis."""
    return vector.reshape([-1 if k == axis else 1 for k in range(ndim)])


def label_smoothing(scene: Scene) -> str:
    """The loss with labels that are smoothed on one side."""
    found = []
    for recording, value in ((scene.a, scene.left), (scene.b, scene.right)):
        labels = [recording.array(i) for i in recording.inputs if recording.values[i].dtype.startswith("int")]
        logs = [
            v.stored.load()
            for v in recording.values
            if len(v.stored.shape) == 2 and v.stored.finite and v.stored.summary.high <= 0
        ]
        logs = [each for each in logs if fits(np.exp(each).sum(axis=1), np.ones(len(each)))]
        ends = [float(v.stored.load().ravel()[0]) for v in recording.values if v.stored.summary.size == 1][-8:]
        tries = (formulas.smoothing(p, y, end) for p in logs[-1:] for y in labels for end in reversed(ends))
        found.append(next((each for each in tries if each is not None and near_round(each)), None))
    if None not in found and abs(found[0] - found[1]) > 1e-6:
        return f"label smoothing is {found[0]:.3g} in a, {found[1]:.3g} in b"
    return ""


def near_round(value: float) -> bool:
    """Whether a number has two decimals at most."""
    return abs(value * 100 - round(value * 100)) < 1e-5


def factor(scene: Scene) -> str:
    """A scale that one side lacks."""
    return "one side scales by this factor, the other does not" if "√" in scene.pattern else ""


HINTS: tuple[Callable[[Scene], str], ...] = (
    dropout, epsilon, variance, missing_bias, padding, resize, ordering, activation, label_smoothing, factor,
)  # fmt: skip


# --- backward and running statistics ----------------------------------------------------------------------------------


def gradient_pattern(comparison: Comparison, a: Recording, b: Recording, rows: list[Row]) -> str:
    """The pattern of the first gradient that differs."""
    for row in rows:
        link = next((each for each in comparison.links if (each.a, each.b) == (row.a, row.b)), None)
        if row.what == "gradient" and not row.passed and link is not None:
            x, y = a.gradients.get(row.a), b.gradients.get(row.b)
            if x is not None and y is not None:
                return pattern(link.move(np.asarray(x, np.float64)), link.of_b(np.asarray(y, np.float64)), [])
    return ""


def backward_hint(left: Value, right: Value) -> str:
    """What cuts or replaces a gradient."""
    for name, value in (("a", left), ("b", right)):
        if value.op in ("detach", "stop_gradient"):
            return f"{name} has a {value.op} here"
    for name, value in (("a", left), ("b", right)):
        if value.rule is not None:
            return f"{name} defines its own gradient at {value.rule}"
    return ""


def statistics(comparison: Comparison, a: Recording, b: Recording, rows: list[Row]) -> tuple[str, str]:
    """Momentum and bias of running statistics: new = m · old + (1 - m) · that of the batch."""
    row = next(row for row in rows if row.what == "statistic" and not row.passed)
    link = next(each for each in comparison.links if (each.a, each.b) == (row.a, row.b))
    old = link.move(np.asarray(a.array(a.parameters[row.a]), np.float64))
    x, y = link.move(a.statistics[row.a]), link.of_b(b.statistics[row.b])
    found = pattern(x - old, y - old, [])
    if found.startswith("constant factor"):
        c = float(np.vdot(x - old, y - old) / np.vdot(x - old, x - old))
        if abs(c - 1) > 0.5:
            return found, "momentum convention: the weight of the old value on one side is that of the new on the other"
    variance = next((r for r in rows if r.what == "statistic" and not r.passed and "var" in r.b), None)
    mean = next((r for r in rows if r.what == "statistic" and not r.passed and "mean" in r.b), None)
    if variance is not None and mean is None:
        return found, "the running variance: biased (divided by n) against unbiased (by n - 1)"
    return found, ""

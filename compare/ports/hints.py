"""The pattern of a difference and the usual cause that fits it, each tested on the recorded numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from compare.ports import formulas
from compare.ports.align import Layout, Twins, layouts, unlike
from compare.ports.comparison import Comparison
from compare.ports.hints_backward import backward_hint, gradient_pattern, statistics, tied
from compare.ports.parting import Parting
from compare.ports.patterns import fits, pattern
from compare.ports.recording import Recording, Value
from compare.ports.report import Row

TRIED = 150  # values before and after, among which those of one line are sought
NCHW = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # axes of image, kernel and result in PyTorch's order


@dataclasses.dataclass(frozen=True)
class Shot:
    """One side where the sides part: what the line takes in and what it makes."""

    recording: Recording
    value: Value
    inputs: list[np.ndarray]  # of the line that have a twin on the other side, or were there before
    made: list[np.ndarray]  # by the line, the last first
    parameters: dict[str, np.ndarray]  # that the line reads
    random: bool


@dataclasses.dataclass(frozen=True)
class Scene:
    """The two lines at which the sides part."""

    a: Shot
    b: Shot
    x: np.ndarray  # the value of a in the layout of b, where there is one
    y: np.ndarray
    pattern: str
    note: str

    @property
    def shots(self) -> tuple[Shot, Shot]:
        """Both sides."""
        return self.a, self.b


def describe(
    comparison: Comparison, a: Recording, b: Recording, twins: tuple[Twins, Twins], parting: Parting, rows: list[Row]
) -> tuple[str, str]:
    """The pattern and the hint, "" where nothing fits."""
    if parting.a is None or parting.b is None:
        return "", ""
    if parting.direction == "backward":
        hint = tied(comparison, a, b) or backward_hint(parting.a, parting.b)
        return gradient_pattern(comparison, a, b, rows), hint
    if parting.direction == "statistics":
        return statistics(comparison, a, b, rows)
    shots = shot(a, parting.a, twins[0]), shot(b, parting.b, twins[1])
    x, y, found = fitted(*shots, parting)
    scene = Scene(*shots, x, y, found, parting.note)
    return scene.pattern, next((hint for test in HINTS if (hint := test(scene))), "")


def shot(recording: Recording, value: Value, twins: Twins) -> Shot:
    """Gather what one line takes in and makes."""
    near = recording.values[max(0, value.id - TRIED) : value.id + TRIED]
    line = [v for v in near if v.line == value.line]
    numbers = {v.id for v in line}
    sources = [recording.values[i] for i in dict.fromkeys(i for v in line for i in v.inputs)]
    inputs = [s for s in sources if s.op != "constant" and (s.id in twins or s.op in ("parameter", "input"))]
    return Shot(
        recording,
        value,
        [s.stored.load() for s in inputs],
        [v.stored.load() for v in reversed(line) if v.op != "constant"],
        {s.path: s.stored.load() for s in sources if s.op == "parameter" and s.id not in numbers},
        any(v.random for v in line),
    )


def fitted(a: Shot, b: Shot, parting: Parting) -> tuple[np.ndarray, np.ndarray, str]:
    """The two values in one layout, and the pattern: of these, else of what the two lines make in the end."""
    goes_on = parting.note[:1] if parting.before is not None else ""  # the side that lacks an operation
    x = (parting.before if parting.before is not None and goes_on == "a" else a.value).stored.load()
    y = (parting.before if parting.before is not None and goes_on == "b" else b.value).stored.load()
    given = [a.recording.array(i) for i in a.value.inputs if a.recording.values[i].op != "constant"]
    pairs = [(x, y)]
    if not goes_on:  # otherwise the pattern is what the extra operation does to what came in
        pairs += [(x_, y_) for x_ in a.made[:3] for y_ in b.made[:3]]
    for one, other in pairs:
        layout = nearest_layout(one, other)
        if layout is not None:
            moved = [layout.apply(each) if each.shape == one.shape else each for each in given]
            found = pattern(layout.apply(one), other, moved)
            if found:
                return layout.apply(one), other, found
    layout = parting.layout
    return (x if layout is None else layout.apply(x)), y, ""


def nearest_layout(x: np.ndarray, y: np.ndarray) -> Layout | None:
    """The layout in which the two are closest; None if their sizes differ."""
    if x.size != y.size or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    found: list[tuple[float, int, Layout]] = []
    for layout in layouts(x.shape, y.shape):
        with contextlib.suppress(ValueError):
            found.append((unlike(layout.apply(x), y), len(found), layout))
    return min(found)[2] if found else None


# --- forward ----------------------------------------------------------------------------------------------------------


def dropout(scene: Scene) -> str:
    """One side draws random numbers."""
    if scene.a.random == scene.b.random:
        return ""
    return f"{'a' if scene.a.random else 'b'} draws random numbers here: dropout is active on one side only"


def epsilon(scene: Scene) -> str:
    """σ² + ε with two different ε, or 1/√(σ² + ε)."""
    ops = [
        v.op
        for s in scene.shots
        for v in (s.value, *(s.recording.values[c] for c in s.recording.consumers()[s.value.id]))
    ]
    if not any("sqrt" in op or "pow" in op for op in ops):
        return ""
    if scene.pattern.startswith("constant shift"):
        base = [s.recording.array(i) for s in scene.shots for i in s.value.inputs]
        for each in base:
            if each.size == scene.x.size > 1:
                values = [float(np.mean(end.ravel() - each.ravel())) for end in (scene.x, scene.y)]
                return f"ε differs: a adds {values[0]:.3g}, b adds {values[1]:.3g}"
        return f"ε differs: that of b is larger by {float(np.mean(scene.y - scene.x)):.3g}"
    for left, right in itertools.product(scene.a.made, scene.b.made):
        if left.size != right.size:
            continue
        for power in (1, -1):  # 1/√(σ² + ε), √(σ² + ε)
            with np.errstate(all="ignore"):
                gap = formulas.epsilon_gap(left.ravel() ** power, right.ravel() ** power)
            if gap is not None and abs(gap) < 0.1:
                return f"ε differs: that of b is larger by {gap:.3g}"
    return ""


def activation(scene: Scene) -> str:
    """Two different activation functions of the same input, or one that one side lacks."""
    if scene.note.endswith("without it"):
        extra, before = (scene.x, scene.y) if scene.note.startswith("b") else (scene.y, scene.x)
        name = formulas.activation_of(before.ravel(), extra.ravel())
        return f"{name} is missing in {scene.note[0]}" if name else ""
    found = []
    for each in scene.shots:
        pairs = ((x, y) for y in each.made for x in each.inputs if x.size == y.size)
        named = ((x, formulas.activation_of(x.ravel(), y.ravel())) for x, y in pairs)
        found.append(next(((x, name) for x, name in named if name), None))
    if found[0] is None or found[1] is None:
        return ""
    (x, name), (other, other_name) = found[0], found[1]
    alike = x.size == other.size and fits(np.sort(other.ravel()), np.sort(x.ravel()))
    return f"a computes {name}, b {other_name}" if alike and name != other_name else ""


def variance(scene: Scene) -> str:
    """Divided by n against n - 1."""
    if "n - 1" not in scene.pattern:
        return ""
    return "biased variance (divided by n) against unbiased (by n - 1)"


def padding(scene: Scene) -> str:
    """The two convolutions pad differently."""
    of_a, of_b = (convolution(each) for each in scene.shots)
    if of_a is not None and of_b is not None and of_a[0] == of_b[0] and of_a[1] != of_b[1]:
        return f"padding differs: a pads {of_a[1]}, b {of_b[1]} (SAME at stride 2 pads (0, 1), padding=1 pads (1, 1))"
    if scene.pattern == "only at the borders" and all(map(has_windows, scene.shots)):
        return "padding: SAME against an integer, or zeros against another filling"
    return ""


def has_windows(each: Shot) -> bool:
    """Whether a line has a kernel larger than 1, or pools or pads."""
    words = ("pool", "pad", "reduce_window", "conv", "col", "window")
    kernels = [p.shape for p in each.parameters.values() if p.ndim == 4]
    return any(word in each.value.op for word in words) or any(shape.count(1) < 2 for shape in kernels)


def convolution(each: Shot) -> tuple[tuple[int, ...], tuple[int, int]] | None:
    """The shape of the kernel, larger than 1, and the padding of the convolution on a line, if it is one of zeros."""
    kernels = [p for p in each.parameters.values() if p.ndim == 4]
    for x, kernel, y in itertools.product([i for i in each.inputs if i.ndim == 4], kernels, each.made):
        if y.ndim != 4 or x is kernel or x.shape[0] != y.shape[0]:
            continue
        if y.shape[1] == kernel.shape[0] and x.shape[1] % kernel.shape[1] == 0:
            order = (0, 1, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3)
        elif y.shape[3] == kernel.shape[3] and x.shape[3] % kernel.shape[2] == 0:
            order = NCHW
        else:
            continue
        x, kernel, y = (t.transpose(axes) for t, axes in zip((x, kernel, y), order, strict=True))
        pads = formulas.convolution_padding(x, kernel, y) if max(kernel.shape[2:]) > 1 else None
        if pads is not None:
            return kernel.shape, pads
    return None


def resize(scene: Scene) -> str:
    """align_corners on one side only."""
    found = []
    for each in scene.shots:
        pairs = [(x, y) for y in each.made for x in each.inputs if x.ndim == y.ndim == 4]
        pairs += [(x.transpose(0, 3, 1, 2), y.transpose(0, 3, 1, 2)) for x, y in pairs]
        found.append(next((c for x, y in pairs if (c := formulas.resize_corners(x, y)) is not None), None))
    if None not in found and found[0] != found[1]:
        return f"align_corners is {found[0]} in a, {found[1]} in b"
    if any("upsample" in each.value.op for each in scene.shots) and None in found:
        return "the rule of the resize: nearest, bilinear, bicubic, or align_corners"
    return ""


def ordering(scene: Scene) -> str:
    """Axes in another order, as when an image is flattened."""
    reshaped = any(word in each.value.op for each in scene.shots for word in ("view", "reshape", "flatten", "clone"))
    if scene.note == "the same numbers in another order" or (scene.pattern.startswith("permutation") and reshaped):
        return "flatten order: NCHW and NHWC images flatten to different vectors"
    return ""


def missing_bias(scene: Scene) -> str:
    """What one side adds is a parameter of it."""
    if not scene.pattern.startswith("shift by a vector"):
        return ""
    gap = scene.y - scene.x
    for name, each, sign in (("b", scene.a, -1), ("a", scene.b, 1)):
        for path, vector in each.parameters.items():
            fitting = (k for k in range(gap.ndim) if vector.ndim == 1 and gap.shape[k] == vector.size)
            if any(fits(gap, sign * along(vector, gap.ndim, k) + 0 * gap) for k in fitting):
                return f"the bias {path} is missing in {name}"
    return ""


def along(vector: np.ndarray, ndim: int, axis: int) -> np.ndarray:
    """A vector as an array that broadcasts along one axis."""
    return vector.reshape([-1 if k == axis else 1 for k in range(ndim)])


def label_smoothing(scene: Scene) -> str:
    """The loss with labels that are smoothed on one side."""
    found = []
    for recording in (scene.a.recording, scene.b.recording):
        labels = [recording.array(i) for i in recording.inputs if recording.values[i].dtype.startswith("int")]
        logs = [
            v.stored.load()
            for v in recording.values
            if len(v.stored.shape) == 2 and v.stored.shape[1] > 1 and v.stored.finite and v.stored.summary.high <= 0
        ]
        logs = [each for each in logs if fits(np.exp(each).sum(axis=1), np.ones(len(each)))]
        ends = [float(v.stored.load().ravel()[0]) for v in recording.values if v.stored.summary.size == 1][-8:]
        tries = (formulas.smoothing(p, y, end) for p in logs[-1:] for y in labels for end in reversed(ends))
        found.append(next((each for each in tries if each is not None and near_round(each)), None))
    first, second = found
    if first is not None and second is not None and abs(first - second) > 1e-6:
        return f"label smoothing is {abs(first):.3g} in a, {abs(second):.3g} in b"
    return ""


def near_round(value: float) -> bool:
    """Whether a number has two decimals at most."""
    return abs(value * 100 - round(value * 100)) < 1e-5


def softmax(scene: Scene) -> str:
    """Probabilities that sum to 1 along different axes."""
    a, b = (next((axis for made in each.made if (axis := formulas.normalised_axis(made))), 0) for each in scene.shots)
    return f"the softmax is over axis {a} in a, over axis {b} in b" if a and b and a != b else ""


def mask(scene: Scene) -> str:
    """Two masks: zeros and ones at different places."""
    x, y = (each.value.stored.load() for each in scene.shots)  # as they are: a layout would move the axes
    if x.shape != y.shape or not all(np.isin(each, (0, 1)).all() for each in (x, y)):
        return ""
    return f"the masks differ at {int((x != y).sum()):,} of {x.size:,} places"


def factor(scene: Scene) -> str:
    """A scale that one side lacks."""
    return "one side scales by this factor, the other does not" if "√" in scene.pattern else ""


HINTS: tuple[Callable[[Scene], str], ...] = (
    dropout, epsilon, variance, missing_bias, padding, resize, ordering, label_smoothing, activation, softmax, mask,
    factor,
)  # fmt: skip

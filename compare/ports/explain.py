"""From two recordings and their comparisons to the verdict and to where the sides part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compare.ports import blame, blame_backward
from compare.ports.align import Twins, distance
from compare.ports.comparison import Comparison
from compare.ports.frames import Frame
from compare.ports.hints import describe
from compare.ports.parting import Parting
from compare.ports.recording import Recording, Value
from compare.ports.report import First, Report, Row

ROUNDING = {"float32": 1e-6, "float16": 1e-2, "bfloat16": 1e-1}  # relative difference that a precision makes


def explain(comparison: Comparison, a: Recording, b: Recording, rows: list[Row], names: Mapping[str, str]) -> Report:
    """The report: same, different or undecided, with the first difference if there is one."""
    of_a, of_b = comparison.twins(a, b)
    verdict, reason = decide(comparison, a, b, of_a, of_b, rows)
    parting = None
    if any(not row.passed for row in rows):
        parting = find(comparison, a, b, of_a, of_b, rows, names)
    worst = max((row.rel for row in rows if not row.passed), default=0.0)
    if verdict == "different" and comparison.request.precision == "float64":
        rounded = narrow_value(a), narrow_value(b)
        found = max(filter(None, rounded), key=lambda value: ROUNDING[value.dtype], default=None)
        if found is not None and worst < ROUNDING[found.dtype]:
            verdict = "undecided"
            reason = f"{found.where} computes in {found.dtype}, and the difference is of its rounding"
            parting = Parting("forward", *rounded)
    first = None if parting is None else first_of(comparison, a, b, (of_a, of_b), parting, rows)
    return Report(
        verdict=verdict,
        reason=reason,
        first=first,
        rows=rows,
        kind_a=comparison.a.kind,
        kind_b=comparison.b.kind,
        precision=comparison.request.precision,
        values=(len(a.values), len(b.values)),
        matched=(len(of_a), len(of_b)),
        links=[f"{link} ({link.how})" for link in comparison.links],
        notes=[*comparison.notes, *a.notes, *b.notes],
    )


def decide(
    comparison: Comparison, a: Recording, b: Recording, of_a: Twins, of_b: Twins, rows: list[Row]
) -> tuple[str, str]:
    """The verdict and the reason for it."""
    failed = [row for row in rows if not row.passed]
    random = [random_value(a), random_value(b)]
    for side, recording, twins in (("a", a, of_a), ("b", b, of_b)):
        finite = all(recording.values[number].stored.finite for number in recording.outputs.values())
        bad = None if finite else recording.first_not_finite(twins)
        if bad is not None:
            apart = any(row.what == "output" for row in failed)
            verdict = "different" if apart else "undecided"
            return verdict, f"{side} has NaN or infinite values, first made at {bad.where}"
    strange = [row for row in rows if row.what == "gradient" and row.note == "not finite"]
    if strange and not any(row.what == "output" for row in failed):
        made = [(name, r.first_gradient_not_finite()) for name, r in (("a", a), ("b", b))]
        where = " and ".join(f"in {name} at {value.where}" for name, value in made if value is not None)
        verdict = "different" if failed else "undecided"
        name = strange[0].a or strange[0].b
        return verdict, f"the gradient of {name} is NaN or infinite, first made {where or 'in the backward pass'}"
    if failed:
        if all(random):
            where = " and ".join(value.where for value in random if value)
            return "undecided", f"both sides draw random numbers ({where}): switch them off, or hand in the same mask"
        kinds = ", ".join(
            dict.fromkeys({"output": "outputs", "loss": "loss"}.get(row.what, row.what + "s") for row in failed)
        )
        return "different", f"{kinds} differ"
    missing = [name for name, side in (("a", comparison.a), ("b", comparison.b)) if not side.has_gradients]
    if missing:
        kinds = " and ".join(f"{name} ({getattr(comparison, name).kind})" for name in missing)
        return "undecided", f"the outputs agree, but gradients are not compared: {kinds} has none"
    if not any(a.values[number].stored.summary.norm for number in a.outputs.values()):
        return "undecided", "all outputs are 0, which hides differences: give the model other weights than zeros"
    if not any(row.what == "gradient" for row in rows):
        return "undecided", "the outputs agree, but there is no gradient of a parameter to compare"
    if comparison.request.precision != "float64" and not comparison.request.stated:
        worst = max(row.rel for row in rows)
        return "undecided", (
            f"everything agrees within {worst:.0e}, which is all that {comparison.request.precision} shows: "
            "use precision='float64', or say with tolerances what is enough"
        )
    count = sum(row.what == "gradient" for row in rows)
    worst = max(row.rel for row in rows)
    return "same", f"outputs, loss and {count} gradients agree within {worst:.0e}"


def random_value(recording: Recording) -> Value | None:
    """The first value drawn at random that reaches an output."""
    return next((value for value in needed(recording) if value.random), None)


def narrow_value(recording: Recording) -> Value | None:
    """The first value rounded from float64 to a narrower precision that reaches an output."""
    values = recording.values
    for value in needed(recording):
        if value.dtype in ROUNDING and any(values[i].dtype == "float64" for i in value.inputs):
            return value
    return None


def needed(recording: Recording) -> list[Value]:
    """The values that reach an output, in the order of making."""
    found = set(recording.outputs.values())
    for value in reversed(recording.values):
        if value.id in found:
            found.update(value.inputs)
    return [value for value in recording.values if value.id in found]


def find(
    comparison: Comparison,
    a: Recording,
    b: Recording,
    of_a: Twins,
    of_b: Twins,
    rows: list[Row],
    names: Mapping[str, str],
) -> Parting | None:
    """The first difference: in the outputs, else in the gradients, else in the running statistics."""
    failed = [row for row in rows if not row.passed]
    wrong = {row.a: row.b for row in failed if row.what == "output"}
    if wrong:
        return first_not_finite(a, b, of_a, of_b, wrong, blame.forward(a, b, of_a, of_b, wrong))
    gradients = [row for row in failed if row.what == "gradient" and row.a and row.b]
    if gradients:
        return backward(comparison, a, b, of_a, of_b, gradients)
    alone = next((row for row in failed if row.what == "gradient"), None)
    if alone is not None:
        left = updater(a, whole(alone.a)) if alone.a else None
        right = updater(b, whole(alone.b)) if alone.b else None
        return Parting("backward", left, right, note=f"{alone.note}: {alone.a or alone.b}")
    statistics = [row for row in failed if row.what == "statistic"]
    if statistics:
        return Parting("statistics", updater(a, statistics[0].a), updater(b, statistics[0].b), note=statistics[0].b)
    return None


def first_not_finite(
    a: Recording, b: Recording, of_a: Twins, of_b: Twins, wrong: Mapping[str, str], parting: Parting
) -> Parting:
    """Where NaN or infinity is made if it reaches the outputs of one side only, and the two do not part before."""
    finite = [
        all(r.values[r.outputs[name]].stored.finite for name in names)
        for r, names in ((a, wrong.keys()), (b, wrong.values()))
    ]
    if finite[0] == finite[1]:
        return parting
    left = parting.a if finite[0] else a.first_not_finite(of_a)
    right = parting.b if finite[1] else b.first_not_finite(of_b)
    found, bad = (parting.b, right) if finite[0] else (parting.a, left)
    if not parting.note and found is not None and bad is not None and found.id < bad.id:
        return parting  # two versions of one value, of which the NaN comes
    return Parting("forward", left, right, note="the first NaN or infinity")


def whole(label: str) -> str:
    """The leaf of ``leaf[0:8]``."""
    return label.partition("[")[0]


def updater(recording: Recording, name: str) -> Value:
    """The last value that is made of a parameter or a running statistic."""
    number = recording.parameters[name]
    users = [value for value in recording.values if number in value.inputs]
    return users[-1] if users else recording.values[number]


def backward(comparison: Comparison, a: Recording, b: Recording, of_a: Twins, of_b: Twins, rows: list[Row]) -> Parting:
    """Where the gradients part."""
    tolerance, floor = 10 * comparison.request.gradients, comparison.floor(a, b)
    if not a.made_gradients and not b.made_gradients:
        wrong = [(a.parameters[row.a], b.parameters[row.b]) for row in rows]
        return blame_backward.backward(a, b, of_a, of_b, wrong, tolerance, floor)
    if a.made_gradients:
        ends = [(a.made_gradients[row.a], b.parameters[row.b]) for row in rows if row.a in a.made_gradients]
        if ends:
            left, right = blame_backward.by_hand(a, b, ends, tolerance, floor)
            back = [(b.made_gradients[row.b], 0) for row in rows if row.b in b.made_gradients]
            if right is None and back:
                right, _ = blame_backward.by_hand(b, a, back, tolerance, floor)
            return Parting("backward", left, right)
    ends = [(b.made_gradients[row.b], a.parameters[row.a]) for row in rows if row.b in b.made_gradients]
    if ends:
        by_b, by_a = blame_backward.by_hand(b, a, ends, tolerance, floor)
        return Parting("backward", by_a, by_b)
    absent = f"the backward of {'a' if a.made_gradients else 'b'} returns no gradient of {rows[0].b}"
    return Parting("backward", last_line(a, rows[0].a), last_line(b, rows[0].b), note=absent)


def last_line(recording: Recording, name: str) -> Value:
    """The last line of a backward pass written by hand; on another side the last value that is made of a parameter."""
    made = [value for value in recording.values if value.backward and value.frames]
    return made[-1] if made else updater(recording, name)


def first_of(
    comparison: Comparison,
    a: Recording,
    b: Recording,
    twins: tuple[Twins, Twins],
    parting: Parting,
    rows: list[Row],
) -> First:
    """The parting as the report shows it."""
    left, right = parting.a, parting.b
    pattern, hint = describe(comparison, a, b, twins, parting, rows)
    worst = max((row.rel for row in rows if not row.passed), default=0.0)
    rel = worst
    if parting.direction == "forward" and left and right and parting.layout is not None:
        rel = distance(parting.layout.apply(left.stored.load()), right.stored.load())
    before = inputs_apart(a, b, twins[0], parting) if parting.direction == "forward" else 0.0
    frames_a, frames_b = frames(left, parting, "a"), frames(right, parting, "b")
    return First(
        direction=parting.direction,
        a=place(left, frames_a),
        b=place(right, frames_b),
        path_a=left.path if left else "",
        path_b=right.path if right else "",
        op_a=left.op if left else "",
        op_b=right.op if right else "",
        inputs_rel=before,
        outputs_rel=rel,
        pattern=pattern,
        hint=hint,
        note=parting.note,
        frames_a=frames_a,
        frames_b=frames_b,
    )


def frames(value: Value | None, parting: Parting, side: str) -> tuple[Frame, ...]:
    """The lines of a value; of a gradient that the user defined, the line of that definition first."""
    if value is None:
        return ()
    if parting.goes_on and parting.note.startswith(f"{side} goes on"):
        return parting.goes_on
    return (value.rule, *value.frames) if parting.direction == "backward" and value.rule else value.frames


def place(value: Value | None, lines: tuple[Frame, ...]) -> str:
    """``file.py:41``."""
    return str(lines[0]) if lines else value.op if value else ""


def inputs_apart(a: Recording, b: Recording, of_a: Twins, parting: Parting) -> float:
    """The largest distance between inputs of the two values that are twins."""
    worst = 0.0
    if parting.a is None or parting.b is None:
        return worst
    for i in parting.a.inputs:
        for j in parting.b.inputs:
            if j in of_a.get(i, []):
                x, y = a.array(i), b.array(j)
                worst = max(worst, distance(np.sort(x.ravel()), np.sort(y.ravel())))
    return worst

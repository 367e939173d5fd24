"""What the parity and drift rows of a comparison say: the closest check, and whose speed may not be shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compare.results.runs import tested
from compare.results.schema import DriftRow, ParityCheck, ParityRow, Results, RunResult

NOT_CHECKED = "parity not checked"


def worst_check(row: ParityRow) -> ParityCheck | None:
    """The check of a pair that is nearest to its tolerance, or farthest beyond it."""
    return max(row["checks"], key=closeness, default=None)


def closeness(check: ParityCheck) -> float:
    """The difference as a fraction of its tolerance: above 1 the check failed; infinite if it is not finite."""
    value, tolerance = check["max_rel"], check["tolerance"]
    if value is None or not math.isfinite(value) or not tolerance:
        return 0.0 if check["passed"] else math.inf
    return max(value / tolerance, 0.0 if check["passed"] else 1.0)


def parity_rows(rows: Iterable[ParityRow], preset: str, precision: str) -> list[ParityRow]:
    """The rows of a preset in this precision, one for each pair of tracks."""
    return [row for row in rows if (row["preset"], row["precision"]) == (preset, precision)]


def parity_problem(rows: Iterable[ParityRow], run: Mapping[str, Any]) -> str | None:
    """Why the speed of a run (its preset, precision and track) may not be shown; None if it passed the parity check.

    A failed pair is blamed on one track where that is possible: a track fails if no pair with it passed, or if it
    disagrees with a track that agrees with another.
    """
    pairs = parity_rows(rows, run["preset"], run["precision"])
    own = [pair for pair in pairs if run["track"] in (pair["a"], pair["b"])]
    if not own:
        return NOT_CHECKED
    agreeing = {track for pair in pairs if pair["passed"] for track in (pair["a"], pair["b"])}
    blamed = [pair for pair in own if not pair["passed"]]
    if run["track"] in agreeing:
        blamed = [pair for pair in blamed if ({pair["a"], pair["b"]} - {run["track"]}) & agreeing]
    if not blamed:
        return None
    checks = [check for pair in blamed if (check := worst_check(pair))]
    worst = max(checks, key=closeness, default=None)
    return f"parity check failed: {describe(worst)}" if worst else "parity check failed"


def speed_withheld(results: Results, runs: Sequence[RunResult]) -> str | None:
    """Why no speed is shown for the runs of one track: no test accuracy, or no passed parity check.

    A comparison of a single track has no other to be compared with, and shows its speed with :func:`speed_remark`.
    """
    if not tested(runs):
        return "no test accuracy"
    if speed_remark(results):
        return None
    return next((problem for run in tested(runs) if (problem := parity_problem(results["parity"], run))), None)


def speed_remark(results: Results) -> str | None:
    """What stands beside the speeds of a single track, whose parity nothing was checked against."""
    alone = len({run["track"] for run in results["runs"]}) == 1 and not results["parity"]
    return NOT_CHECKED if alone else None


def describe(check: ParityCheck) -> str:
    """What a check found, e.g. ``gradients conv1/kernel 3.0e-02 > 1e-04``."""
    where = " ".join(dict.fromkeys(word for word in (check["what"], check["worst_leaf"]) if word))
    return f"{where} {difference(check['max_rel'])} {'≤' if check['passed'] else '>'} {check['tolerance']:.0e}"


def difference(value: float | None) -> str:
    """A difference, to two digits."""
    return "not finite" if value is None or not math.isfinite(value) else "0" if value == 0 else f"{value:.1e}"


def drift_from_numpy(results: Results, preset: str, track: str) -> DriftRow | None:
    """The drift row with the largest difference between `track` and NumPy, over all seeds."""
    rows = [row for row in results["drift"] if row["preset"] == preset and {row["a"], row["b"]} == {track, "numpy"}]
    return max(rows, key=lambda row: math.inf if row["max_abs"] is None else row["max_abs"], default=None)

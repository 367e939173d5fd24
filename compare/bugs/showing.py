"""A bug side by side with the right code: both measured now, in a copy of the project."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from compare.bugs.bug import RIGHT, Bug
from compare.bugs.copies import copy_of, run
from compare.bugs.planting import swap
from compare.errors import UserError

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24


def measured(bug: Bug, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``compare.bugs.probe`` answers of the right code, and of the code with the bug."""
    question = json.dumps({"track": bug.track, "training": bug.training})
    answers = []
    with copy_of(root) as copy:
        for broken in (False, True):  # one after the other: there is a clock among it
            if broken:
                swap(bug, copy, RIGHT)
            done = run(copy, "compare.bugs.probe", question=question)
            if done.returncode:
                raise UserError(f"the measurement of {bug.name!r} did not end well:\n{done.stderr.strip()[-500:]}")
            answers.append(json.loads(done.stdout.splitlines()[-1]))
    if "stopped" in answers[0]["curve"]:
        raise UserError(f"the training stops without the bug, too: {answers[0]['curve']['stopped']}; mend that first")
    return answers[0], answers[1]


def sparkline(values: Sequence[float], top: float) -> str:
    """Means of equal stretches as bars from 0 to ``top``; × is a number that is none."""
    parts = [float(np.mean(part)) for part in np.array_split(np.asarray(values), min(WIDTH, len(values)))]
    return "".join(BARS[min(int(8 * mean / top), 7)] if math.isfinite(mean) else "×" for mean in parts)


def column(answer: dict[str, Any], top: float) -> dict[str, str]:
    """Everything measured, as one reads it."""
    curve, gradients, proof = (answer[name] for name in ("curve", "gradients", "proof"))
    cells = {}
    if "loss" in curve:
        cells["loss"] = sparkline(curve["loss"], top)
        cells["first loss, last loss"] = f"{curve['loss'][0]:.2f}, {np.mean(curve['loss'][-20:]):.2f}"
        cells["milliseconds a step"] = f"{curve['step_ms']:.1f}"
    for name, label in (("val", "validation accuracy"), ("test", "test accuracy")):
        cells[label] = f"{curve[name]:.1%}" if name in curve else f"stops: {curve['stopped']}"
    cells["gradient check"] = f"{gradients:.0e}" if isinstance(gradients, float) else f"stops: {gradients['stopped']}"
    if "stopped" in proof:
        cells["proof, worst leaf"] = f"stops: {proof['stopped']}"
    else:
        cells["proof, worst leaf"] = f"{proof['max_rel']:.0e} {proof['what']} {proof['worst_leaf']}"
    return cells


def table(bug: Bug, without: dict[str, Any], broken: dict[str, Any]) -> Table:
    """Both columns, one scale for both curves."""
    top = 1.05 * max(without["curve"]["loss"])
    left, right = column(without, top), column(broken, top)
    rows = Table(
        "", "right", f"with {bug.name}", title=f"{bug.track}, {bug.training.get('model', 'mlp')} on 2,400 digits"
    )
    for label in left:
        rows.add_row(label, left[label], right.get(label, "-"))
    return rows

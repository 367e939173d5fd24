"""Compares a bug with the right code; both are measured in a copy of the project."""

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
    """Run ``compare.bugs.probe`` on the right code and on the code with the bug; return both results."""
    question = json.dumps({"track": bug.track, "training": bug.training})
    answers = []
    with copy_of(root) as copy:
        for broken in (False, True):  # not in parallel, because steps are timed
            if broken:
                swap(bug, copy, RIGHT)
            done = run(copy, "compare.bugs.probe", question=question)
            if done.returncode:
                raise UserError(f"the measurement of {bug.name!r} failed:\n{done.stderr.strip()[-500:]}")
            answers.append(json.loads(done.stdout.splitlines()[-1]))
    if "stopped" in answers[0]["curve"]:
        raise UserError(f"training fails without the bug too: {answers[0]['curve']['stopped']}; fix that first")
    return answers[0], answers[1]


def sparkline(values: Sequence[float], top: float) -> str:
    """Draw means over equal intervals as bars from 0 to ``top``; × marks NaN and infinity."""
    parts = [float(np.mean(part)) for part in np.array_split(np.asarray(values), min(WIDTH, len(values)))]
    return "".join(BARS[min(int(8 * mean / top), 7)] if math.isfinite(mean) else "×" for mean in parts)


def column(answer: dict[str, Any], top: float) -> dict[str, str]:
    """Format one column of the table."""
    curve, gradients, parity = (answer[name] for name in ("curve", "gradients", "parity"))
    cells = {}
    if "loss" in curve:
        cells["loss"] = sparkline(curve["loss"], top)
        cells["first loss, last loss"] = f"{curve['loss'][0]:.2f}, {np.mean(curve['loss'][-20:]):.2f}"
        cells["ms per step"] = f"{curve['step_ms']:.1f}"
    for name, label in (("val", "validation accuracy"), ("test", "test accuracy")):
        cells[label] = f"{curve[name]:.1%}" if name in curve else f"stops: {curve['stopped']}"
    cells["gradient check"] = f"{gradients:.0e}" if isinstance(gradients, float) else f"stops: {gradients['stopped']}"
    if "stopped" in parity:
        cells["parity, worst leaf"] = f"stops: {parity['stopped']}"
    else:
        cells["parity, worst leaf"] = f"{parity['max_rel']:.0e} {parity['what']} {parity['worst_leaf']}"
    return cells


def table(bug: Bug, without: dict[str, Any], broken: dict[str, Any]) -> Table:
    """Build the table, with the same scale for both curves."""
    top = 1.05 * max(without["curve"]["loss"])
    left, right = column(without, top), column(broken, top)
    rows = Table(
        "", "right", f"with {bug.name}", title=f"{bug.track}, {bug.training.get('model', 'mlp')} on 2,400 digits"
    )
    for label in left:
        rows.add_row(label, left[label], right.get(label, "-"))
    return rows

"""Drift: how far the networks of two tracks are apart at the end of training, from their checkpoints.

The parity check (``compare.parity``) holds the first steps to tight tolerances. Over
thousands of steps in float32 the tracks part: rounding differs, a relu takes its other
branch, and training amplifies it. The drift is measured and shown; it has no tolerance.

``python -m compare.parity.drift DIR`` prints rows of results.json's ``drift`` as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compare.checkpoint import store
from compare.files import finite
from compare.parity.check import distances
from compare.results.reader import read
from compare.results.schema import DriftRow, RunResult


def drift(runs: Sequence[RunResult], directory: Path) -> list[DriftRow]:
    """One row for each pair of finished runs with the same preset and seed; ``directory`` holds their checkpoints."""
    rows: list[DriftRow] = []
    done = [(run, run["checkpoint"]) for run in runs if run["status"] == "finished" and run["checkpoint"]]
    for (first, first_checkpoint), (second, second_checkpoint) in itertools.combinations(done, 2):
        if (first["preset"], first["seed"]) != (second["preset"], second["seed"]):
            continue
        losses = np.array(first["step_loss"], np.float64), np.array(second["step_loss"], np.float64)
        common = min(map(len, losses))  # one of them may have stopped early
        gaps = np.abs(losses[0][:common] - losses[1][:common])
        # checkpoints of the last step, or of the best if that is the result
        trees = [store.restore(directory / path)[0]["params"] for path in (first_checkpoint, second_checkpoint)]
        found = distances(*trees)
        worst = max(found, key=lambda path: found[path][1])
        rows.append(
            {
                "preset": first["preset"],
                "seed": first["seed"],
                "a": first["track"],
                "b": second["track"],
                "first_loss_gap": float(gaps[0]),
                "max_loss_gap": float(gaps.max()),
                "worst_leaf": worst,
                "max_abs": max(each[0] for each in found.values()),
                "max_rel": found[worst][1],
            }
        )
    return rows


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(json.dumps(finite(drift(read(folder)["runs"], folder))))

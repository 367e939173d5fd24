"""How far trained networks have drifted apart, from their checkpoints.

The proof (``compare.parity``) holds the first steps to tight tolerances. After
thousands of steps in float32 nothing is left to prove: rounding differs, a relu
somewhere falls to its other side, and from there on the tracks go their own,
equally good ways. That is measured here, and shown.

``python -m compare.parity.drift DIR`` prints rows of results.json's ``parity`` as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compare.checkpoint import store
from compare.parity.check import distances
from compare.results import read

Row = dict[str, Any]


def drift(runs: Sequence[Mapping[str, Any]], directory: Path) -> list[Row]:
    """Rows of results.json's ``parity``: how far finished runs of the same preset and seed have drifted apart."""
    rows = []
    done = [run for run in runs if run["status"] == "finished" and run["checkpoint"]]
    for first, second in itertools.combinations(done, 2):
        if (first["preset"], first["seed"]) != (second["preset"], second["seed"]):
            continue
        common = min(first["steps"], second["steps"])  # one of them may have stopped early
        gaps = np.abs(np.subtract(first["step_loss"][:common], second["step_loss"][:common]))
        trees = [  # of the last step, or of the best if that is the result
            store.restore(directory / run["checkpoint"])[0]["params"] for run in (first, second)
        ]
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
    print(json.dumps(drift(read(folder)["runs"], folder)))

"""The figures of a comparison, unrounded, for a program: what ``--json`` prints."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from compare.report import status
from compare.results.parity import speed_withheld
from compare.results.runs import cold_seconds, disturbed, groups, numbers, target_accuracy, tested
from compare.results.schema import Results, RunResult

SPEEDS = {"images_per_second": ("images_per_second",), "step_ms": ("step_ms", "median"), "gemm_share": ("gemm_share",)}
OTHERS = ("test_accuracy", "test_loss", "val_accuracy", "peak_rss_mb")


def figures(results: Results, folder: Path) -> dict[str, Any]:
    """The checks of the status strip, and the figures of every preset and track."""
    checks = [{"name": check.name, "text": check.text, "sentence": check.sentence} for check in status.strip(results)]
    tracks = []
    for preset, found in groups(results).items():
        target = target_accuracy(found)
        tracks += [
            {"preset": preset, "track": track, **_figures(results, runs, target)} for track, runs in found.items()
        ]
    kept = {"folder": str(folder), "kind": results["kind"], "status": results["status"]}
    return {**kept, "checks": checks, "tracks": tracks}


def _figures(results: Results, runs: list[RunResult], target: float | None) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds; no speed where the report shows none."""
    done, withheld = tested(runs), speed_withheld(results, runs)
    cold = [seconds for run in done if target and (seconds := cold_seconds(run, target)) is not None]
    return {
        "seeds": [run["seed"] for run in done],
        **{name: _spread(numbers(done, name)) for name in OTHERS},
        **{name: _spread([] if withheld else numbers(done, *path)) for name, path in SPEEDS.items()},
        "speed_withheld": withheld,
        "disturbed": disturbed(runs),
        "target_accuracy": target,
        "cold_seconds": _spread(cold),
    }


def _spread(values: list[float]) -> dict[str, float | None] | None:
    if not values:
        return None
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}

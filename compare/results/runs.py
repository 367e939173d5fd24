"""Figures of a comparison's runs: grouped by preset and track, averaged over seeds, as curves over steps."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from compare.data import text
from compare.report.style import order
from compare.results.schema import Results, RunResult

WARNING = "⚠"  # marks every figure of a disturbed run
Tracks = dict[str, list[RunResult]]  # the runs of a preset: for each track, one per seed


def groups(results: Results) -> dict[str, Tracks]:
    """Runs as {preset: {track: [one per seed]}}; presets in the order of the command, tracks in that of every table."""
    found: dict[str, Tracks] = {run["preset"]: {} for run in results["runs"]}
    for run in sorted(results["runs"], key=lambda run: order(run["track"])):
        found[run["preset"]].setdefault(run["track"], []).append(run)
    return found


def numbers(rows: Iterable[Mapping[str, Any]], *path: str) -> list[float]:
    """The finite values that the rows have at `path`: ("seconds", "compile") is row["seconds"]["compile"]."""
    found = []
    for row in rows:
        value: Any = row
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float) and math.isfinite(value):
            found.append(float(value))
    return found


def tested(runs: Iterable[RunResult]) -> list[RunResult]:
    """The runs that finished and were evaluated on the test set: only their figures are shown."""
    return [run for run in runs if run["status"] == "finished" and run["test_accuracy"] is not None]


def unit(run: Mapping[str, Any]) -> str:
    """What the accuracy of a run counts: "images", or "characters" or "tokens" of a text."""
    return text.unit(run["dataset"], run["config"].get("model_args", {}).get("input_shape", ()))


def examples(run: Mapping[str, Any]) -> str:
    """What a batch of a run consists of: "windows" of a text, or "images"."""
    return "images" if unit(run) == "images" else "windows"


def loss_in_bits(runs: Iterable[RunResult]) -> list[float]:
    """The test losses of the runs on texts in bits, the base-2 logarithm in place of the natural one."""
    return [loss / math.log(2) for loss in numbers((run for run in runs if unit(run) != "images"), "test_loss")]


def disturbed(runs: Iterable[RunResult]) -> str | None:
    """Why the times of these runs are in no ratio and no ranking: the first run that other programs disturbed."""
    return next((reason for run in tested(runs) if (reason := run["disturbed"])), None)


def spread(values: list[float], form: str = ".2f", *, unit: str = "") -> str:
    """Mean ± sample standard deviation; a single value has no deviation, no value is a dash."""
    if not values:
        return "-"
    text = format(statistics.fmean(values), form)
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):{form}}"
    return f"{text} {unit}".strip()


def target_accuracy(tracks: Tracks) -> float | None:
    """A validation accuracy that every tested run of a preset reached: 0.3 points below the lowest of their bests."""
    runs = [run for same in tracks.values() for run in tested(same)]
    best = [max(numbers(run["history"], "val_accuracy"), default=0.0) for run in runs]
    return math.floor(1000 * min(best) - 3) / 1000 if best and min(best) > 0.5 else None


def start_up(run: RunResult) -> float:
    """Seconds of import, data and compilation."""
    return sum(sum(numbers([run], "seconds", clock)) for clock in ("import", "data", "compile"))


def cold_seconds(run: RunResult, target: float) -> float | None:
    """Start-up plus training time until an evaluation first reached the validation accuracy `target`."""
    reached = [row["seconds"] for row in run["history"] if (row["val_accuracy"] or 0) >= target]
    return start_up(run) + reached[0] if reached else None


def confusions(runs: Iterable[RunResult]) -> list[tuple[list[str], list[list[int]]]]:
    """Class names and confusion counts of the runs that have them."""
    found = (run["error_analysis"] for run in runs)
    return [(known["classes"], known["confusion"]) for known in found if known and known["confusion"]]


def final_metrics(run: RunResult) -> dict[str, float | None]:
    """The metrics of a run that has ended, every clock included, by flat names: ``seconds_compile``."""
    found: dict[str, float | None] = {
        "test_accuracy": run["test_accuracy"],
        "test_loss": run["test_loss"],
        "val_accuracy": run["val_accuracy"],
        "val_loss": run["val_loss"],
        "images_per_second": run["images_per_second"],
        "gflops": run["gflops"],
        "gemm_share": run["gemm_share"],
        "peak_rss_mb": run["peak_rss_mb"],
    }
    clocks: dict[str, Mapping[str, Any]] = {"seconds": run["seconds"] or {}, "step_ms": run["step_ms"] or {}}
    return found | {f"{clock}_{name}": value for clock, values in clocks.items() for name, value in values.items()}


def trajectory(run: RunResult) -> list[tuple[int, dict[str, Any]]]:
    """(step, {name: value}): the mean loss of each chunk of steps, then each evaluation."""
    losses, k = run["step_loss"], run["chunk"] or 1
    chunks = [losses[start : start + k] for start in range(0, len(losses), k)]
    ends = itertools.accumulate(len(chunk) for chunk in chunks)
    known = [[loss for loss in chunk if loss is not None] for chunk in chunks]
    means = [
        sum(each) / len(each) if len(each) == len(chunk) else None for each, chunk in zip(known, chunks, strict=True)
    ]
    evaluations = [(row["step"], {"lr": row["lr"], **evaluation_metrics(row)}) for row in run["history"]]
    return [(step, {"train_loss": mean}) for step, mean in zip(ends, means, strict=True)] + evaluations


def evaluation_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation: those aside that the chunk of steps before it has under the same step."""
    return {name: value for name, value in row.items() if name not in ("event", "step", "train_loss", "lr")}

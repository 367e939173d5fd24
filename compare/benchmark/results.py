"""benchmark.json, the one truth of a benchmark, read back: checked, grouped into rows, and what of it may be shown."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from compare.benchmark.statistics import Interval, median
from compare.errors import UserError
from compare.results import proof_problem, proofs

SCHEMA = 1
SCRIPT = "tensorflow"  # in the place of a track
PARTS = ("input", "forward", "backward", "update")
CLOCKS = ("import", "data", "compile", "train", "eval")
SHOWN = 5  # first losses, by which rows prove to do the same; later ones may part at a kink of a relu
KINKED = 3  # of them, where the proof met kinks in every batch: each step makes ten times as much of a rounding
TOLERANCE = 1e-4  # of them, ‖a - b‖/‖b‖, unless the proof granted more; observed in float32: up to 2e-6

Results = dict[str, Any]
Trial = dict[str, Any]
Key = tuple[str, str, str]  # preset, track, variant


@dataclasses.dataclass(frozen=True)
class Row:
    """A (preset, track, variant) and the trials of it that went well."""

    preset: str
    track: str
    variant: str
    trials: list[Trial]
    problem: str | None  # why its speed may not be shown

    @property
    def label(self) -> str:
        """``jax scan``."""
        return f"{self.track} {self.variant}"

    @property
    def key(self) -> Key:
        """What makes it the same row in two benchmarks."""
        return self.preset, self.track, self.variant

    @property
    def times(self) -> list[float]:
        """A step in ms, one number for each process: the median of what it timed."""
        return [statistics.median(trial["step_ms"]) for trial in self.trials]

    @property
    def step(self) -> Interval:
        """A step in ms over the processes."""
        return median(self.times)

    def share(self, flops: float) -> float | None:
        """Speed of a step of so many ``flops``, as a share of large products' just before and after; the median."""
        pairs = [(ms, trial.get("gemm_gflops")) for ms, trial in zip(self.times, self.trials, strict=True)]
        shares = [flops / ms / 1e6 / gflops for ms, gflops in pairs if gflops]
        return statistics.median(shares) if shares else None

    def middle(self, *path: str) -> float | None:
        """Median over the trials of a figure, ``("seconds", "compile")``; None if no trial has it."""
        found = []
        for trial in self.trials:
            value: Any = trial
            for name in path:
                value = None if value is None else value.get(name)
            found += [] if value is None else [value]
        return statistics.median(found) if found else None


def read(path: Path) -> Results:
    """Load a benchmark.json, or the one in a folder."""
    path = path / "benchmark.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a benchmark.json, or the folder of one") from error
    found = (results.get("kind"), results.get("schema")) if isinstance(results, dict) else None
    if found != ("benchmark", SCHEMA):
        raise UserError(f"{path} is not a benchmark of schema {SCHEMA}: it says {found}; measure again")
    return dict(results)


def rows(results: Results, kind: str = "trials") -> list[Row]:
    """The rows of one kind of trials (``"cold"``: those that ran for a target), in the order of measuring."""
    found: dict[Key, list[Trial]] = {}
    for trial in results[kind]:
        found.setdefault((trial["preset"], trial["track"], trial["variant"]), []).append(trial)
    gaps = loss_gaps(results)
    return [
        Row(*key, [t for t in trials if "error" not in t], problem(results, key, trials, gaps))
        for key, trials in found.items()
    ]


def problem(results: Results, key: Key, trials: list[Trial], gaps: dict[Key, float]) -> str | None:
    """Why a row's speed may not be shown: it failed, is not proven, or its losses are not those of the others."""
    preset, track, _ = key
    if all("error" in trial for trial in trials):
        return f"failed: {trials[0]['error']}"
    found = unproven(results, preset, track)
    if found:
        return found
    if track == SCRIPT and not any(other[0] == preset and other[1] != SCRIPT for other in gaps):
        return "there is no track to hold it against"
    gap, limit = gaps.get(key, 0.0), granted(results, preset)
    if not gap <= limit:
        return f"its first losses are {gap:.0e} from those of the others, more than {limit:.0e}"
    return None


def granted(results: Results, preset: str) -> float:
    """How far losses of a preset may be apart: as far as in its proof, where kinks or bfloat16 part them early."""
    pairs = proofs(results, preset, results["presets"][preset]["precision"])
    losses = [check["tolerance"] for pair in pairs for check in pair["checks"] if check["what"] == "losses"]
    return max(losses, default=TOLERANCE)


def unproven(results: Results, preset: str, track: str) -> str | None:
    """What the proof says against a track; the TensorFlow script is none, and is held to the tracks by its losses."""
    if track == SCRIPT:
        return None
    return proof_problem(results, results["presets"][preset] | {"preset": preset, "track": track})


def loss_gaps(results: Results) -> dict[Key, float]:
    """How far each row's first losses are from the median of its preset, ‖a - b‖/‖b‖, in its worst process.

    All start from the same weights and see the same batches, in the very processes whose time is taken.
    """
    first: dict[str, list[tuple[Key, np.ndarray]]] = {}
    kinked = {pair["preset"] for pair in results["proof"] if pair.get("sensitivity")}
    shown = {preset: KINKED if preset in kinked else SHOWN for preset in results["presets"]}
    for trial in results["trials"]:
        if "error" not in trial:
            key = trial["preset"], trial["track"], trial["variant"]
            own = np.array([np.nan if loss is None else loss for loss in trial["losses"]])[: shown[trial["preset"]]]
            first.setdefault(trial["preset"], []).append((key, own))
    found: dict[Key, float] = {}
    for losses in first.values():
        middle = np.nanmedian([own for _, own in losses], axis=0)
        for key, own in losses:
            gap = float(np.linalg.norm(own - middle) / np.linalg.norm(middle))
            found[key] = max(found.get(key, 0.0), gap if np.isfinite(gap) else float("inf"))
    return found


def cold(trial: Trial) -> float:
    """Seconds from an empty process to the last step: import, data, compile, train. Evaluation is not counted."""
    return float(sum(trial["seconds"][part] for part in ("import", "data", "compile", "train")))

"""benchmark.json: its types, its reader, and which of its rows may be shown."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast

import numpy as np

from compare.files import read_json, require_kind
from compare.machine.disturbance import Disturbance
from compare.results import parity
from compare.results.schema import ParityRow

KIND, SCHEMA = "benchmark", 2
TENSORFLOW = "tensorflow"  # stands in the place of a track
PARTS = ("input", "forward", "backward", "update")
CLOCKS = ("import", "data", "compile", "train", "eval")
COMPARED = 5  # first losses by which rows are held to be the same model; later ones may diverge at a kink of a ReLU
COMPARED_KINKED = 3  # of them where the parity check met kinks in every batch: each step grows a rounding tenfold
EXTRA = 2  # disturbed trials of a variant that are repeated, at most
TOLERANCE = 1e-4  # of them, ‖a - b‖/‖b‖, unless parity allows more; observed in float32: up to 2e-6


class Plan(TypedDict):
    """What the trials of one preset train."""

    model: str
    model_args: dict[str, Any]
    dataset: str
    batch_size: int
    optimizer: str
    precision: str
    device: str
    flops_per_image: int  # forward and backward, analytic
    chunk: int  # steps per call
    steps: int  # of the learning-rate schedule: a trial takes no more
    evaluated_step: NotRequired[int]  # test accuracy is measured here, and at least so many steps are taken


class Trial(TypedDict):
    """One process: who was measured, and either its figures or the ``error`` that ended it."""

    preset: str
    track: str
    variant: str
    repeat: int
    error: NotRequired[str]
    seconds: NotRequired[dict[str, float]]  # by clock: CLOCKS and "total"
    step_ms: NotRequired[list[float]]  # of each timed call
    breakdown_ms: NotRequired[dict[str, float] | None]  # by part: PARTS
    input_share: NotRequired[float | None]
    losses: NotRequired[list[float | None]]  # of the first steps
    chunk: NotRequired[int]
    steps: NotRequired[int]
    test_accuracy: NotRequired[float | None]
    val_accuracy: NotRequired[float | None]
    reached: NotRequired[bool | None]  # the target accuracy; None without one
    import_rss_mb: NotRequired[float | None]
    peak_rss_mb: NotRequired[float | None]
    peak_device_mb: NotRequired[float | None]
    hardware: NotRequired[str]
    matmul_precision: NotRequired[str]
    matmul_gflops: NotRequired[dict[str, float] | None]  # of large ones just before and after, by library
    gemm_gflops: NotRequired[float | None]  # of the fastest library
    disturbance: NotRequired[Disturbance]  # what other programs did during the timed steps
    disturbed: NotRequired[str | None]  # why the figures are in no ratio, if so


class Layer(TypedDict):
    """One layer by itself on one core, forward and backward."""

    label: str
    op: str
    count: int  # calls in a step
    flops: int
    bytes: int
    ms: float


class LayerTimes(TypedDict):
    """The layers of a preset in one track, or the ``error`` that ended the process."""

    preset: str
    track: str
    layers: NotRequired[list[Layer]]
    error: NotRequired[str]


class SweepPoint(TypedDict):
    """One point of the sweep: what was varied, and the cost, or the ``error`` that ended the process."""

    preset: str
    track: str
    variant: str
    axis: Literal["batch", "width", "steps"]
    batch_size: int
    step_flops: int
    steps: int | None
    step_ms: NotRequired[float]
    peak_rss_mb: NotRequired[float | None]
    error: NotRequired[str]


class Benchmark(TypedDict):
    """The whole of benchmark.json."""

    schema: int
    kind: str
    created: str  # ISO 8601
    status: Literal["running", "finished", "interrupted"]
    command: str
    environment: dict[str, Any]
    repeats: int  # as planned
    min_seconds: float  # of timed steps in each trial
    target: float | None  # validation accuracy of the ``cold`` trials
    seconds: int | None  # that all of it took
    presets: dict[str, Plan]
    parity: list[ParityRow]  # as in results.json
    trials: list[Trial]
    cold: list[Trial]  # those that trained until they reached the target
    layers: list[LayerTimes]
    sweep: list[SweepPoint]


Key = tuple[str, str, str]  # preset, track, variant


@dataclasses.dataclass(frozen=True)
class Row:
    """A (preset, track, variant), its trials that finished, and why its speed may not be shown, if so.

    The figures are those of undisturbed trials. Where every trial was disturbed, they are marked and in no ratio.
    """

    preset: str
    track: str
    variant: str
    trials: list[Trial]
    problem: str | None
    left_out: int = 0  # disturbed trials that are in no figure

    @property
    def disturbed(self) -> str | None:
        """Why the figures are in no ratio and no verdict, if so."""
        return next((reason for trial in self.trials if (reason := trial.get("disturbed"))), None)

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
        """Milliseconds of a step, one number for each process: the median of what it timed."""
        return [statistics.median(trial["step_ms"]) for trial in self.trials]

    @property
    def step_ms(self) -> float:
        """Milliseconds of a step: the median over the processes."""
        return statistics.median(self.times)

    def images_per_second(self, plan: Plan) -> float:
        """The training speed at the median step time."""
        return 1000 * plan["batch_size"] / self.step_ms

    def gemm_share(self, step_flops: float) -> float | None:
        """FLOP/s of a step as a share of the GEMM peak around it; the median over the processes."""
        pairs = [(ms, trial.get("gemm_gflops")) for ms, trial in zip(self.times, self.trials, strict=True)]
        shares = [step_flops / ms / 1e6 / gflops for ms, gflops in pairs if gflops]
        return statistics.median(shares) if shares else None

    def median(self, *path: str) -> float | None:
        """Median over the processes of a figure, ``("seconds", "compile")``; None if none has it."""
        found = []
        for trial in self.trials:
            value: Any = trial
            for name in path:
                value = None if value is None else value.get(name)
            found += [] if value is None else [value]
        return statistics.median(found) if found else None


def read(path: Path) -> Benchmark:
    """Load a benchmark.json, or the one in a folder; UserError for a damaged file or one of another kind."""
    found = read_json(path, "benchmark.json")
    if (found.get("kind"), found.get("schema")) == (KIND, 1):
        found = _lifted(found)
    require_kind(found, path, kind=KIND, schema=SCHEMA, keys=Benchmark.__required_keys__)
    return cast(Benchmark, found)


def _lifted(old: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 as schema 2: other names for the same things."""
    names = {"split_ms": "breakdown_ms", "products": "matmul_precision", "proof": "parity"}

    def lift(value: Any) -> Any:
        if isinstance(value, list):
            return [lift(each) for each in value]
        if isinstance(value, dict):
            lifted = {names.get(name, name): lift(each) for name, each in value.items()}
            return lifted | ({"variant": "baseline"} if lifted.get("variant") == "reference" else {})
        return value

    lifted: dict[str, Any] = lift(old)
    presets = {name: {"device": "cpu", "precision": "float32"} | plan for name, plan in lifted["presets"].items()}
    finished = "interrupted" if lifted.get("seconds") is None else "finished"
    return lifted | {"schema": SCHEMA, "status": finished, "min_seconds": 0.0, "presets": presets}


def rows(results: Benchmark, kind: Literal["trials", "cold"] = "trials") -> list[Row]:
    """The rows of one kind of trials, in the order in which they were measured."""
    found: dict[Key, list[Trial]] = {}
    for trial in results[kind]:
        found.setdefault((trial["preset"], trial["track"], trial["variant"]), []).append(trial)
    gaps, made = loss_gaps(results), []
    for key, trials in found.items():
        finished = [trial for trial in trials if "error" not in trial]
        quiet = [trial for trial in finished if not trial.get("disturbed")]
        used = quiet or finished
        made.append(Row(*key, used, problem(results, key, trials, gaps), len(finished) - len(used)))
    return made


def problem(results: Benchmark, key: Key, trials: list[Trial], gaps: dict[Key, float]) -> str | None:
    """Why a row's speed may not be shown: it failed, is not at parity, or its first losses differ from the others'."""
    preset, track, _ = key
    if all("error" in trial for trial in trials):
        return f"failed: {trials[0]['error']}"
    found = parity_problem(results, preset, track)
    if found:
        return found
    if track == TENSORFLOW and not any(other[0] == preset and other[1] != TENSORFLOW for other in gaps):
        return "no track was measured whose losses it could be compared with"
    gap, tolerance = gaps.get(key, 0.0), loss_tolerance(results, preset)
    if not gap <= tolerance:
        return f"its first losses differ from the others' by {gap:.0e}, more than the tolerance of {tolerance:.0e}"
    return None


def loss_tolerance(results: Benchmark, preset: str) -> float:
    """How far first losses may be apart: as far as parity allows, where kinks or bfloat16 part them early."""
    pairs = parity.parity_rows(results["parity"], preset, results["presets"][preset]["precision"])
    losses = [check["tolerance"] for pair in pairs for check in pair["checks"] if check["what"] == "losses"]
    return max(losses, default=TOLERANCE)


def parity_problem(results: Benchmark, preset: str, track: str) -> str | None:
    """Why a track is not at parity, if so; the TensorFlow script is no track, and its losses alone are compared."""
    if track == TENSORFLOW:
        return None
    precision = results["presets"][preset]["precision"]
    run = {"preset": preset, "track": track, "precision": precision}
    return parity.parity_problem(results["parity"], run)


def loss_gaps(results: Benchmark) -> dict[Key, float]:
    """How far each row's first losses are from the median of its preset, ‖a - b‖/‖b‖, in its worst process.

    All start from the same weights and see the same batches, in the very processes that are timed.
    """
    first: dict[str, list[tuple[Key, np.ndarray]]] = {}
    kinked = {pair["preset"] for pair in results["parity"] if pair.get("sensitivity")}
    count = {preset: COMPARED_KINKED if preset in kinked else COMPARED for preset in results["presets"]}
    for trial in results["trials"]:
        if "error" not in trial:
            key = trial["preset"], trial["track"], trial["variant"]
            own = np.array([np.nan if loss is None else loss for loss in trial["losses"]])[: count[trial["preset"]]]
            first.setdefault(trial["preset"], []).append((key, own))
    found: dict[Key, float] = {}
    for losses in first.values():
        middle = np.nanmedian([own for _, own in losses], axis=0)
        for key, own in losses:
            gap = float(np.linalg.norm(own - middle) / np.linalg.norm(middle))
            found[key] = max(found.get(key, 0.0), gap if np.isfinite(gap) else float("inf"))
    return found


def cold_seconds(trial: Trial) -> float:
    """Seconds from an empty process to the last step: import, data, compile, train. Evaluation is not counted."""
    return float(sum(trial["seconds"][part] for part in ("import", "data", "compile", "train")))

"""The types of results.json, and the entry of a run before it starts. docs/results-json.md documents every key."""

from __future__ import annotations

from typing import Any, Literal, TypedDict, cast

from compare.config import Config
from compare.machine.disturbance import Disturbance

SCHEMA = 2
Status = Literal["not started", "interrupted", "failed", "finished"]


class Packed(TypedDict):
    """An array; see :mod:`compare.results.arrays`."""

    dtype: str
    shape: list[int]
    base64: str


class Misclassified(TypedDict):
    """A test image with a wrong prediction."""

    index: int
    label: int
    prediction: int
    probability: float
    image: Packed


class Filters(TypedDict):
    """Weights of some units of the first layer."""

    leaf: str
    units: list[int]
    values: Packed


class ErrorAnalysis(TypedDict):
    """What a trained network gets wrong on the test set."""

    classes: list[str]
    confusion: list[list[int]] | None
    misclassified: list[Misclassified]
    filters: Filters | None


class Evaluation(TypedDict):
    """One evaluation during training."""

    step: int
    epoch: float
    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    lr: float
    seconds: float


class Resumption(TypedDict):
    """Where a run continued from a checkpoint."""

    step: int
    checkpoint: str


class DataFacts(TypedDict):
    """The dataset that a run has seen."""

    name: str
    digest: str
    train: int
    val: int
    test: int


Seconds = TypedDict(
    "Seconds", {"import": float, "data": float, "compile": float, "train": float, "eval": float, "total": float}
)


class StepTime(TypedDict):
    """Distribution of the time of a step."""

    median: float
    p10: float
    p90: float


class Measured(TypedDict):
    """The part of a run's entry that is known only once it has started."""

    status: Status
    message: str | None
    steps: int | None
    best_step: int | None
    epochs: float | None
    parameters: int | None
    chunk: int | None
    test_accuracy: float | None
    test_count: int | None
    test_loss: float | None
    val_accuracy: float | None
    val_count: int | None
    val_loss: float | None
    seconds: Seconds | None
    step_ms: StepTime | None
    images_per_second: float | None
    input_share: float | None
    flops_per_image: int | None
    step_bytes: int | None
    gflops: float | None
    matmul_gflops: dict[str, float] | None
    gemm_gflops: float | None
    gemm_share: float | None
    peak_rss_mb: float | None
    import_rss_mb: float | None
    peak_device_mb: float | None
    hardware: str | None
    data: DataFacts | None
    matmul_precision: str | None
    checkpoint: str | None
    resumed: list[Resumption] | None
    history: list[Evaluation]
    step_loss: list[float | None]
    error_analysis: ErrorAnalysis | None
    disturbed: str | None
    disturbance: Disturbance | None


class RunResult(Measured):
    """One entry of ``runs``: a preset trained by a track with a seed."""

    preset: str
    track: str
    seed: int
    model: str
    dataset: str
    precision: str
    device: str
    devices: int
    batch_size: int
    config: dict[str, Any]


class ParityCheck(TypedDict):
    """The leaf of one quantity that is farthest apart in two tracks."""

    what: str
    worst_leaf: str
    max_abs: float | None
    max_rel: float | None
    tolerance: float
    passed: bool


class ParityRow(TypedDict):
    """The parity check of two tracks."""

    preset: str
    precision: str
    steps: int
    attempts: int
    a: str
    b: str
    passed: bool
    sensitivity: dict[str, float]
    checks: list[ParityCheck]
    leaves: dict[str, dict[str, float | None]]


class DriftRow(TypedDict):
    """How far two tracks are apart at the end of training."""

    preset: str
    seed: int
    a: str
    b: str
    first_loss_gap: float | None
    max_loss_gap: float | None
    worst_leaf: str
    max_abs: float | None
    max_rel: float | None


class Load(TypedDict):
    """One-minute load averages."""

    before: float | None
    after: float | None


class Machine(TypedDict):
    """The processor and the software."""

    python: str
    platform: str
    cpu: str
    cores: int
    threads: int
    versions: dict[str, str]
    git_commit: str | None


class Environment(Machine):
    """The machine and the software, and what was measured of it."""

    gemm_gflops: float | None
    memory_gbs: float | None
    load: Load
    disturbed: list[str]


class Settings(TypedDict):
    """The command's options that do not change what a run computes."""

    parity: bool
    mlflow: bool
    save_every: str
    keep: int
    resume_from: str | None


class Results(TypedDict):
    """The whole of results.json."""

    schema: int
    kind: Literal["comparison"]
    id: str
    created: str
    status: Literal["interrupted", "finished"]
    command: str
    settings: Settings
    environment: Environment
    runs: list[RunResult]
    parity: list[ParityRow]
    drift: list[DriftRow]


def not_measured() -> Measured:
    """Everything that is unknown before a run starts."""
    empty: dict[str, Any] = dict.fromkeys(Measured.__annotations__)
    return cast(Measured, empty | {"status": "not started", "history": [], "step_loss": []})


def new_run(config: Config, track: str) -> RunResult:
    """The entry of a run before it starts."""
    return {
        "preset": config.preset,
        "track": track,
        "seed": config.seed,
        "model": config.model,
        "dataset": config.dataset,
        "precision": config.precision,
        "device": "cpu" if track == "numpy" else config.device,
        "devices": config.devices,
        "batch_size": config.batch_size,
        "config": config.to_json(),
        **not_measured(),
    }

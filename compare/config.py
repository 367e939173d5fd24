"""What a run is: one frozen dataclass, and how its steps are cut into chunks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from compare.errors import UserError


@dataclass(frozen=True)
class Config:
    """One training: everything that decides its result, the track and the thread count excepted."""

    preset: str
    model: str
    dataset: str
    promise: str  # expected test accuracy and time, measured
    model_args: dict[str, Any] = field(default_factory=dict)
    data_dir: str | None = None  # where datasets are that do not ship
    augment: tuple[str, ...] = ()  # see compare.data.augment
    epochs: float = 10.0
    steps: int | None = None  # instead of epochs
    batch_size: int = 128
    accumulate: int = 1  # micro-batches whose gradients make one update
    ema: float | None = None  # decay of an average of the weights, which evaluation then uses
    loss: str = "cross_entropy"
    loss_args: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "nesterov"
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    schedule: str = "one_cycle"
    schedule_args: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.1
    patience: int | None = None  # stop after so many evaluations without a better validation accuracy
    keep_best: bool = False  # the result is the state of the best validation accuracy, not the last
    val_size: int | None = None  # 5,000, or a tenth of a small training set
    eval_batch_size: int = 500
    lr_scale: dict[str, float] | None = None  # path prefix -> factor of the learning rate, 0 freezes
    precision: str = "float32"  # or float64, or bfloat16 for the products (not in NumPy)
    numpy_threads: str = "batch"  # how NumPy uses several cores: a shard of the batch each, or inside its "blas"
    devices: int = 1
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Every field, as plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """How many steps a run takes, in chunks of how many, and after which steps it is evaluated."""

    steps: int
    chunk: int
    evaluations: frozenset[int]


CHUNK = 64  # steps per call at most: long enough to hide the call, short enough for progress to move


def plan(config: Config, train_size: int) -> Plan:
    """Cut a run into chunks of one length, so that one compiled program serves all of them.

    ``steps`` is kept exactly, its chunk being a divisor; ``epochs`` gives up to
    half a chunk at its end. Evaluated after each epoch, at a chunk's end, and at last.
    """
    if config.accumulate < 1 or config.batch_size % config.accumulate:
        raise UserError(
            f"accumulate {config.accumulate}: it is the number of equal micro-batches of a batch of "
            f"{config.batch_size:,}, and must divide it"
        )
    per_epoch = max(train_size // config.batch_size, 1)
    total = config.steps or max(round(config.epochs * per_epoch), 1)
    longest = min(max(total // 5, 1), CHUNK)  # five chunks at least: the first is warm-up, the others are timed
    if config.steps:
        chunk = max(k for k in range(1, longest + 1) if total % k == 0)
    else:
        chunk = max(range((longest + 1) // 2, longest + 1), key=lambda k: (total // k * k, k))
        total = total // chunk * chunk
    epochs = range(per_epoch, total, per_epoch)
    at_chunk_ends = {min(-(-step // chunk) * chunk, total) for step in epochs}
    return Plan(steps=total, chunk=chunk, evaluations=frozenset(at_chunk_ends | {total}))

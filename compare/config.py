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
    loader: str = "memory"  # see compare.data.loaders; all give the same batches
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
    device: str = "cpu"  # of JAX and PyTorch: cpu, gpu, gpu:1, or auto; NumPy has the CPU
    devices: int = 1  # a shard of each batch on each
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Every field, as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Config:
        """Undo :meth:`to_json`; what another version wrote may lack fields, but must not have unknown ones."""
        try:
            return cls(**{name: value for name, value in values.items() if name not in RETIRED})
        except TypeError as error:
            raise UserError(f"this configuration was written by another version of this project: {error}") from error


RETIRED = ("numpy_threads",)  # fields of earlier versions that said nothing about the result


@dataclass(frozen=True)
class Plan:
    """How many steps a run takes, in chunks of how many, and after which steps it is evaluated."""

    steps: int
    chunk: int
    evaluations: frozenset[int]


@dataclass(frozen=True)
class Interval:
    """How often something is done: after so many steps, or after so many seconds."""

    every: float
    unit: str = "s"  # or "" for steps

    @classmethod
    def parse(cls, text: str) -> Interval:
        """``"60s"`` is a minute, ``"500"`` are 500 steps."""
        number, unit = text.removesuffix("s"), "s" if text.endswith("s") else ""
        try:
            every = float(number) if unit else int(number)
        except ValueError:
            every = 0
        if not 0 < every < float("inf"):
            raise UserError(f"{text!r} is neither a number of steps, like 500, nor of seconds, like 60s")
        return cls(every, unit)

    def passed(self, *, steps: int, seconds: float) -> bool:
        """Have so many steps, or seconds, gone by?"""
        return (seconds if self.unit else steps) >= self.every

    def __str__(self) -> str:
        return f"{self.every}{self.unit}"


CHUNK = 64  # steps per call at most: long enough to hide the call, short enough for progress to move


def plan(config: Config, train_size: int, *, first: int = 0) -> Plan:
    """Cut a run into chunks of one length, so that one compiled program serves all of them.

    ``steps`` is kept exactly, its chunk being a divisor; ``epochs`` gives up to
    half a chunk at its end. Evaluated after each epoch, at a chunk's end, and at last.
    What goes on from step ``first`` keeps the chunks of the whole, or, if that step is
    no chunk's end, has its rest cut anew.
    """
    if config.accumulate < 1 or config.batch_size % config.accumulate:
        raise UserError(
            f"accumulate {config.accumulate}: it is the number of equal micro-batches of a batch of "
            f"{config.batch_size:,}, and must divide it"
        )
    per_epoch = max(train_size // config.batch_size, 1)
    total = config.steps or max(round(config.epochs * per_epoch), 1)
    longest = min(max(total // 5, 1), CHUNK)  # five chunks at least: the first is warm-up, the others are timed
    chunk, planned = _cut(total, longest, exactly=bool(config.steps))
    start = 0
    if first % chunk and first < planned:
        start = first
        chunk, planned = _cut(total - first, min(longest, total - first), exactly=bool(config.steps))
        planned += first
    epochs = range(per_epoch, planned, per_epoch)
    at_chunk_ends = {min(start - (start - step) // chunk * chunk, planned) for step in epochs if step > start}
    return Plan(steps=planned, chunk=chunk, evaluations=frozenset(at_chunk_ends | {planned}))


def _cut(steps: int, longest: int, *, exactly: bool) -> tuple[int, int]:
    """Length of the chunks, and how many steps they are together."""
    if exactly:
        chunk = max(k for k in range(1, longest + 1) if steps % k == 0)
    else:
        chunk = max(range((longest + 1) // 2, longest + 1), key=lambda k: (steps // k * k, k))
    return chunk, steps // chunk * chunk

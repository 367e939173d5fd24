"""How many steps a run takes, in chunks of how many, and after which of them it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compare.config import MAX_STEPS, Config
from compare.errors import UserError


@dataclass(frozen=True)
class Evaluations:
    """The steps after which a run is evaluated: where a chunk ends after the end of an epoch, and at last.

    A set of numbers that takes no memory for each: chunks of ``chunk`` steps begin at ``start``, epochs have
    ``per_epoch`` steps, and the last step is ``stop``.
    """

    start: int
    stop: int
    chunk: int
    per_epoch: int

    def __contains__(self, step: int) -> bool:
        ends_chunk = self.start < step < self.stop and (step - self.start) % self.chunk == 0
        return step == self.stop or (ends_chunk and step // self.per_epoch > (step - self.chunk) // self.per_epoch)

    def __iter__(self) -> Iterator[int]:
        step = self.start
        while step < self.stop:
            epoch_end = (step // self.per_epoch + 1) * self.per_epoch
            step = min(self.start - (self.start - epoch_end) // self.chunk * self.chunk, self.stop)
            yield step

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Plan:
    """How many steps a run takes, in chunks of how many, and after which steps it is evaluated."""

    steps: int
    chunk: int
    evaluations: Evaluations | frozenset[int]


CHUNK = 64  # steps per call at most: long enough to hide the call, short enough for progress to move


def plan(config: Config, train_size: int, *, first: int = 0, evaluations: int | None = None) -> Plan:
    """Cut a run into chunks of one length, so that one compiled program serves all of them.

    ``steps`` is kept exactly, its chunk being a divisor; ``epochs`` gives up to
    half a chunk at its end. Evaluated after each epoch, at a chunk's end, and at last,
    or, given ``evaluations``, that many times at equal distances of ``steps``.
    What goes on from step ``first`` keeps the chunks of the whole, or, if that step is
    no chunk's end, has its rest cut anew.
    """
    if config.batch_size % config.accumulate:
        raise UserError(
            f"invalid accumulate {config.accumulate}: it is the number of equal micro-batches of a batch, "
            f"expected a divisor of the batch size {config.batch_size:,}"
        )
    if evaluations:
        return _with_evaluations(config.steps or 0, evaluations)
    per_epoch = max(train_size // config.batch_size, 1)
    total = config.steps or max(round(config.epochs * per_epoch), 1)
    if total > MAX_STEPS:
        raise UserError(f"{config.epochs:g} epochs are {total:,} steps, and a run has at most {MAX_STEPS:,}")
    longest = longest_chunk(total)
    chunk, planned = _cut(total, longest, exactly=bool(config.steps))
    start = 0
    if first % chunk and first < planned:
        start = first
        chunk, planned = _cut(total - first, min(longest, total - first), exactly=bool(config.steps))
        planned += first
    return Plan(steps=planned, chunk=chunk, evaluations=Evaluations(start, planned, chunk, per_epoch))


def _with_evaluations(steps: int, evaluations: int) -> Plan:
    """So many evaluations at equal distances, and chunks that divide the distance."""
    if steps < 1 or steps % evaluations:
        raise UserError(f"{steps} steps cannot be divided into {evaluations} equal parts: choose a multiple")
    distance = steps // evaluations
    chunk, _ = _cut(distance, min(distance, CHUNK), exactly=True)
    return Plan(steps=steps, chunk=chunk, evaluations=Evaluations(0, steps, chunk, distance))


def longest_chunk(total: int) -> int:
    """Steps of a chunk at most; there are five chunks at least, as the first is warm-up and the others are timed."""
    return min(max(total // 5, 1), CHUNK)


def _cut(steps: int, longest: int, *, exactly: bool) -> tuple[int, int]:
    """Length of the chunks, and how many steps they are together."""
    if exactly:
        chunk = max(k for k in range(1, longest + 1) if steps % k == 0)
    else:
        chunk = max(range((longest + 1) // 2, longest + 1), key=lambda k: (steps // k * k, k))
    return chunk, steps // chunk * chunk


def short_chunks(steps: int) -> str:
    """A warning where a number of steps has no divisor that is a good length of a chunk; empty where it has one."""
    longest = longest_chunk(steps)
    chunk, _ = _cut(steps, longest, exactly=True)
    if chunk > longest // 4:
        return ""
    better = round(steps / longest) * longest
    return (
        f"{steps:,} steps can be cut into equal chunks of {chunk} only, and each has a cost of its own; "
        f"--steps {better} makes chunks of {longest}"
    )

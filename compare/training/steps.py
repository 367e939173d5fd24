"""Plans a run: number of steps, chunk length, and the steps after which it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compare.config import MAX_STEPS, Config
from compare.errors import UserError


@dataclass(frozen=True)
class Evaluations:
    """The steps after which a run is evaluated: the first end of a chunk after each epoch, and the last step.

    A set computed on demand: chunks of ``chunk`` steps begin at ``start``, epochs have
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
    """Number of steps of a run, chunk length, and the steps after which it is evaluated."""

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
            f"invalid accumulate {config.accumulate}: expected a divisor of the batch size {config.batch_size:,}"
        )
    if evaluations:
        return _with_evaluations(config.steps or 0, evaluations)
    per_epoch = max(train_size // config.batch_size, 1)
    total = config.steps or max(round(config.epochs * per_epoch), 1)
    if total > MAX_STEPS:
        raise UserError(f"{config.epochs:g} epochs are {total:,} steps, and at most {MAX_STEPS:,} are supported")
    longest = longest_chunk(total)
    chunk, planned = _cut(total, longest, exactly=bool(config.steps))
    start = 0
    if first % chunk and first < planned:
        start = first
        chunk, planned = _cut(total - first, min(longest, total - first), exactly=bool(config.steps))
        planned += first
    return Plan(steps=planned, chunk=chunk, evaluations=Evaluations(start, planned, chunk, per_epoch))


def _with_evaluations(steps: int, evaluations: int) -> Plan:
    """Plan equally spaced evaluations, and chunks that divide the interval."""
    if steps < 1 or steps % evaluations:
        raise UserError(f"{steps} steps cannot be divided into {evaluations} equal parts: choose a multiple")
    distance = steps // evaluations
    chunk, _ = _cut(distance, min(distance, CHUNK), exactly=True)
    return Plan(steps=steps, chunk=chunk, evaluations=Evaluations(0, steps, chunk, distance))


def longest_chunk(total: int) -> int:
    """Return the longest chunk that gives at least five chunks: the first is a warm-up, the others are timed."""
    return min(max(total // 5, 1), CHUNK)


def _cut(steps: int, longest: int, *, exactly: bool) -> tuple[int, int]:
    """Return the chunk length and the total number of steps."""
    if exactly:
        chunk = max(k for k in range(1, longest + 1) if steps % k == 0)
    else:
        chunk = max(range((longest + 1) // 2, longest + 1), key=lambda k: (steps // k * k, k))
    return chunk, steps // chunk * chunk


def short_chunks(steps: int) -> str:
    """Return a warning if the number of steps forces short chunks, else an empty text."""
    longest = longest_chunk(steps)
    chunk, _ = _cut(steps, longest, exactly=True)
    if chunk > longest // 4:
        return ""
    better = round(steps / longest) * longest
    return (
        f"{steps:,} steps can only be divided into chunks of {chunk}, which adds overhead per chunk; "
        f"--steps {better} gives chunks of {longest}"
    )

"""Clocks of a run, in seconds. Every clock stops at a synchronised device.

The first chunk and the first evaluation batch include compilation and lazy set-up: what they take beyond
the median of the others is compile time, and the others are the steady time. A resumed run adds up the set-up
and warm-up of each of its processes; steps that were lost with a killed process are not counted.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


@dataclasses.dataclass
class Stopwatch:
    """Durations of equal units of work; the first of each process is a warm-up."""

    laps: list[float] = dataclasses.field(default_factory=list)
    first: list[int] = dataclasses.field(default_factory=lambda: [0])  # indices of the first laps of each process

    @contextmanager
    def lap(self) -> Iterator[None]:
        """Time one unit of work."""
        start = time.perf_counter()
        yield
        self.laps.append(time.perf_counter() - start)

    @property
    def steady(self) -> list[float]:
        """Every lap but the first of each process."""
        return [lap for number, lap in enumerate(self.laps) if number not in self.first]

    @property
    def warm_up(self) -> float:
        """Seconds that the first laps took beyond the median of the others."""
        if not self.steady:
            return 0.0
        median = statistics.median(self.steady)
        return sum(max(self.laps[number] - median, 0.0) for number in self.first if number < len(self.laps))

    @property
    def work(self) -> float:
        """Seconds of all laps, without the warm-up."""
        return sum(self.laps) - self.warm_up


@dataclasses.dataclass
class Timings:
    """The clocks of one run."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    chunks: Stopwatch = dataclasses.field(default_factory=Stopwatch)
    input: Stopwatch = dataclasses.field(default_factory=Stopwatch)  # the part of each chunk that waits for its images
    evaluations: Stopwatch = dataclasses.field(default_factory=Stopwatch)

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Time something that happens once in a process."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def to_json(self) -> dict[str, Any]:
        """Every clock, for a checkpoint."""
        return dataclasses.asdict(self)

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Add the clocks of the previous process, as :meth:`to_json` returned them."""
        for name, seconds in saved["seconds"].items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        for name in ("chunks", "input", "evaluations"):
            watch, laps = (
                getattr(self, name),
                saved.get(name, {"laps": [], "first": [0]}),
            )  # old checkpoints have no "input"
            watch.laps, watch.first = list(laps["laps"]), sorted({*laps["first"], len(laps["laps"])})

    def figures(self, *, chunk: int, batch_size: int) -> dict[str, Any]:
        """``seconds``, ``step_ms``, ``images_per_second`` and ``input_share`` of results.json."""
        warm_up = self.chunks.warm_up + self.evaluations.warm_up
        seconds = self.seconds | {
            "compile": self.seconds["set-up"] + warm_up,
            "train": self.chunks.work,
            "eval": self.evaluations.work,
        }
        del seconds["set-up"]
        seconds["total"] = sum(seconds.values())
        step_ms = [1000 * lap / chunk for lap in self.chunks.steady]
        if not step_ms:
            return {"seconds": seconds, "step_ms": None, "images_per_second": None, "input_share": None}
        p10, median, p90 = np.percentile(step_ms, [10, 50, 90]).tolist()
        return {
            "seconds": seconds,
            "step_ms": {"median": median, "p10": p10, "p90": p90},
            "images_per_second": 1000 * batch_size / median,
            "input_share": 1000 * statistics.median(self.input.steady) / chunk / median if self.input.steady else None,
        }

"""Clocks of a run. Every clock stops at a synchronised device.

The first chunk and the first evaluation batch carry compilation and lazy set-up: what they take beyond
the median of the others is compile time, and the others are the steady time.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class Stopwatch:
    """Durations of equal pieces of work; the first of them also warms up."""

    def __init__(self) -> None:
        self.laps: list[float] = []

    @contextmanager
    def lap(self) -> Iterator[None]:
        """Time one piece."""
        start = time.perf_counter()
        yield
        self.laps.append(time.perf_counter() - start)

    @property
    def steady(self) -> list[float]:
        """Every lap but the first."""
        return self.laps[1:]

    @property
    def warm_up(self) -> float:
        """What the first lap took beyond the median of the others."""
        return max(self.laps[0] - statistics.median(self.steady), 0.0) if self.steady else 0.0

    @property
    def work(self) -> float:
        """All laps, the warm-up left out."""
        return sum(self.laps) - self.warm_up


@dataclasses.dataclass
class Timings:
    """The clocks of one run."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    chunks: Stopwatch = dataclasses.field(default_factory=Stopwatch)
    evaluations: Stopwatch = dataclasses.field(default_factory=Stopwatch)

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Time something that happens once."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def figures(self, *, chunk: int, batch_size: int) -> dict[str, Any]:
        """``seconds``, ``step_ms`` and ``images_per_second`` of results.json."""
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
            return {"seconds": seconds, "step_ms": None, "images_per_second": None}
        p10, median, p90 = np.percentile(step_ms, [10, 50, 90]).tolist()
        return {
            "seconds": seconds,
            "step_ms": {"median": median, "p10": p10, "p90": p90},
            "images_per_second": 1000 * batch_size / median,
        }

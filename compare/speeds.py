"""The statistics of the benchmark: medians with intervals, ratios that are called ratios only when they are sure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 4000


class Interval(NamedTuple):
    """A figure and where 95 % of the resamples lie."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"

    @property
    def sure(self) -> bool:
        """Does the interval of a ratio leave 1 out?"""
        return not self.low <= 1 <= self.high


def bootstrap(samples: Sequence[Sequence[float]], figure: Any, *, seed: int = 0) -> Interval:
    """Percentile interval of ``figure(sample, sample, …)``, each sample drawn anew with replacement (Efron 1979).

    Samples are repeats: one number for each process. Step times inside one process are not independent, and
    hundreds of them would feign a precision that the next process refutes.
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    rng = np.random.default_rng(seed)
    drawn = [array[rng.integers(len(array), size=(RESAMPLES, len(array)))] for array in arrays]
    figures = figure(*(np.median(draw, axis=1) for draw in drawn))
    low, high = np.percentile(figures, [2.5, 97.5]).tolist()
    return Interval(float(figure(*(np.median(array) for array in arrays))), low, high)


def times_as_fast(a: Sequence[float], b: Sequence[float]) -> Interval:
    """How many times as fast a is as b, given the times that each took."""
    return bootstrap([a, b], lambda a, b: b / a)


def median(sample: Sequence[float]) -> Interval:
    """The median of a sample and its interval."""
    return bootstrap([sample], lambda a: a)


def steps_to_pay_off(cold: tuple[float, float], step_ms: tuple[float, float]) -> float:
    """Steps after which (compile seconds, step ms) of the second have beaten the first; infinite if never.

    c₁ + s t₁ = c₂ + s t₂,  s = (c₂ - c₁) / (t₁ - t₂).
    """
    later, saved = cold[1] - cold[0], (step_ms[0] - step_ms[1]) / 1000
    if later <= 0:
        return 0.0 if saved >= 0 else math.inf
    return later / saved if saved > 0 else math.inf

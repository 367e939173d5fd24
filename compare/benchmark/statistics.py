"""The statistics of the benchmark: medians and ratios with their intervals, what they are worth, and exponents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

RESAMPLES, FEWEST = 4000, 3


class Interval(NamedTuple):
    """A figure and where 95 % of the resamples lie; NaN where there are too few repeats to tell."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if math.isnan(self.low) else f" ({self.low:.2f} to {self.high:.2f})")

    @property
    def sure(self) -> bool:
        """Does the interval of a ratio leave 1 out?"""
        return self.low > 1 or self.high < 1


def bootstrap(samples: Sequence[Sequence[float]], figure: Callable[..., np.ndarray], *, seed: int = 0) -> Interval:
    """Percentile interval of ``figure(median, median, …)``, each sample drawn anew with replacement (Efron 1979).

    Samples are repeats: one number for each process. Step times inside one process are not independent, and
    hundreds of them would feign a precision that the next process refutes. Fewer than ``FEWEST`` have no interval.
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    value = float(figure(*(np.median(array) for array in arrays)))
    if min(map(len, arrays)) < FEWEST:
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = [array[rng.integers(len(array), size=(RESAMPLES, len(array)))] for array in arrays]
    figures = figure(*(np.median(draw, axis=1) for draw in drawn))
    low, high = np.percentile(figures, [2.5, 97.5]).tolist()
    return Interval(value, low, high)


def times_as_fast(a: Sequence[float], b: Sequence[float]) -> Interval:
    """How many times as fast a is as b, given the times that each took."""
    return bootstrap([a, b], lambda a, b: b / a)


def median(sample: Sequence[float]) -> Interval:
    """The median of a sample and its interval."""
    return bootstrap([sample], lambda a: a)


@cache
def false_alarms(repeats: int) -> float:
    """How often two samples of equal systems are called different: of 2,000 pairs of normal samples.

    No interval of three numbers is one of 95 %: this is what it is worth.
    """
    rng = np.random.default_rng(0)
    pairs = rng.normal(10, 1, (2000, 2, repeats))
    index = rng.integers(repeats, size=(2, 400, repeats))
    a, b = (np.median(pairs[:, which][:, index[which]], axis=2) for which in (0, 1))  # (2000, 400)
    low, high = np.percentile(b / a, [2.5, 97.5], axis=1)
    return float(np.mean((low > 1) | (high < 1)))


def steps_to_pay_off(cold: tuple[float, float], step_ms: tuple[float, float]) -> float:
    """Steps after which (compile seconds, step ms) of the second have beaten the first; infinite if never.

    c₁ + s t₁ = c₂ + s t₂,  s = (c₂ - c₁) / (t₁ - t₂).
    """
    later, saved = cold[1] - cold[0], (step_ms[0] - step_ms[1]) / 1000
    if later <= 0:
        return 0.0 if saved >= 0 else math.inf
    return later / saved if saved > 0 else math.inf


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """b of y = a xᵇ, by least squares of the logarithms; 1 is in proportion, 0 is flat."""
    log_x, log_y = np.log(x), np.log(y)
    log_x -= log_x.mean()
    return float(log_x @ log_y / (log_x @ log_x))

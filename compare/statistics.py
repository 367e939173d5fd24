"""The statistics of every report: ratios of medians with confidence intervals, and the words that claim a difference.

A sample holds one number for each process or seed. Steps inside one process are not independent: hundreds of them
would feign a precision that the next process refutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

# 97.5 % quantiles of Student's t for 1 to 19 degrees of freedom; more use the last, which is slightly too wide
STUDENT_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
)  # fmt: skip

Outcome = Literal["faster", "slower", "no significant difference", "not ranked"]


class ConfidenceInterval(NamedTuple):
    """A ratio of two speeds and its 95 % confidence interval, 0 to infinity where one of the two has a single run."""

    value: float
    low: float
    high: float
    counts: tuple[int, int]  # runs in each sample

    @property
    def outcome(self) -> Outcome:
        """What may be claimed: a difference only if the interval, as it is written to two digits, excludes 1."""
        if min(self.counts) < 2:
            return "not ranked"
        low, high = round(self.low, 2), round(self.high, 2)
        return "faster" if low > 1 else "slower" if high < 1 else "no significant difference"

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 1."""
        return self.outcome in ("faster", "slower")

    @property
    def bounds(self) -> str:
        """``0.88–1.21``; bounds that say nothing are not written out."""
        low = f"{self.low:.2f}" if self.low >= 0.01 else "<0.01"
        high = f"{self.high:.2f}" if self.high <= 100 else ">100"
        return f"{low}–{high}"

    @property
    def evidence(self) -> str:
        """``95 % CI 0.88–1.21, n = 3``."""
        return f"95 % CI {self.bounds}, n = {' and '.join(map(str, dict.fromkeys(self.counts)))}"

    def describe(self, *, add: str = "--seeds 0 1 2") -> str:
        """``1.98× (95 % CI 1.90–2.05, n = 3)``, or that no difference is shown, or which flag would ``add`` runs."""
        if self.outcome == "not ranked":
            return f"one run each: not ranked; add {add}"
        if self.significant:
            return f"{self.value:.2f}× ({self.evidence})"
        return f"no significant difference ({self.value:.2f}×, {self.evidence})"

    def sentence(self, first: str, second: str, *, add: str = "--seeds 0 1 2") -> str:
        """The same about two names: ``JAX is 1.98× as fast as NumPy (95 % CI 1.90–2.05, n = 3)``."""
        if self.significant:
            return f"{first} is {self.value:.2f}× as fast as {second} ({self.evidence})"
        between = f"no significant difference between {first} and {second}"
        return self.describe(add=add).replace("no significant difference", between)


def ratio_of_medians(a: Sequence[float], b: Sequence[float]) -> ConfidenceInterval:
    """median(a) / median(b) of two samples of positive numbers, with a 95 % confidence interval.

    The interval is Student's t on the logarithms, widened to hold the ratio where it does not:

        mean(log a) - mean(log b) ± t √(var(log a) / n_a + var(log b) / n_b),   min(n_a, n_b) - 1 degrees of freedom

    Welch's (1947) degrees of freedom lie between min(n_a, n_b) - 1 and n_a + n_b - 2. The smallest is used: with
    Welch's own, the interval is too short where the noisier sample is also skewed; a percentile bootstrap of the
    medians is too short for three or four runs. How often each holds the true ratio, in percent of 40,000 pairs
    (bootstrap: 6,000):

        noise of log a and log b (its scale)      n = 3                n = 4                n = 5
                                          used Welch boot.    used Welch boot.    used Welch boot.
        normal, normal                    98.8  96.7  90.1    98.2  96.0  93.2    97.6  95.6  97.0
        normal (5), normal (1)            96.7  94.2  83.0    95.9  94.4  88.9    95.6  94.6  94.7
        Student's t, 3 degrees            99.2  97.6  90.4    98.6  96.8  92.7    98.2  96.5  97.0
        normal, a tenth of it (10)        99.2  97.8  89.8    99.0  97.7  92.9    98.9  97.9  97.1
        exponential, exponential          98.8  97.4  90.2    98.6  97.5  93.0    98.4  97.4  97.2
        exponential (5), exponential (1)  95.9  93.2  82.8    95.5  93.6  88.0    95.7  94.4  94.8
    """
    logs = [np.log(np.asarray(sample, np.float64)) for sample in (a, b)]
    counts = len(a), len(b)
    value = math.exp(np.median(logs[0]) - np.median(logs[1]))
    if min(counts) < 2:
        return ConfidenceInterval(value, 0.0, math.inf, counts)
    middle = float(logs[0].mean() - logs[1].mean())
    half = _quantile(min(counts) - 1) * math.sqrt(sum(log.var(ddof=1) / len(log) for log in logs))
    low, high = (math.exp(min(middle + side, 700.0)) for side in (-half, half))
    return ConfidenceInterval(value, min(low, value), max(high, value), counts)


class MeanInterval(NamedTuple):
    """A mean and its 95 % confidence interval, infinite for a single value."""

    mean: float
    low: float
    high: float


def mean_interval(sample: Sequence[float]) -> MeanInterval:
    """The mean of a sample, such as differences seed by seed: mean ± t √(var / n), n - 1 degrees of freedom."""
    values = np.asarray(sample, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return MeanInterval(mean, -math.inf, math.inf)
    half = _quantile(len(values) - 1) * math.sqrt(values.var(ddof=1) / len(values))
    return MeanInterval(mean, mean - half, mean + half)


def p_above(sample: Sequence[float], value: float) -> float:
    """One-sided p of Student's t test that the mean is above ``value``; 1 for a single number.

    The probability of a mean as high as the sample's, or higher, if the true one were ``value``.
    """
    if len(sample) < 2:
        return 1.0
    if len(set(sample)) == 1:  # no deviation: the test divides by it
        return 0.0 if sample[0] > value else 1.0
    from scipy import stats  # takes half a second to import

    return float(stats.ttest_1samp(sample, value, alternative="greater").pvalue)


def _quantile(degrees: int) -> float:
    return STUDENT_T[min(degrees, len(STUDENT_T)) - 1]


def steps_to_pay_off(cold: tuple[float, float], step_ms: tuple[float, float]) -> float:
    """Steps after which (compile seconds, step ms) of the second have beaten the first; infinite if never.

    c₁ + s t₁ = c₂ + s t₂,  s = (c₂ - c₁) / (t₁ - t₂).
    """
    later, saved = cold[1] - cold[0], (step_ms[0] - step_ms[1]) / 1000
    if later <= 0:
        return 0.0 if saved >= 0 else math.inf
    return later / saved if saved > 0 else math.inf


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """b of y = a xᵇ, by least squares of the logarithms: 1 is proportional, 0 is constant."""
    log_x, log_y = np.log(x), np.log(y)
    log_x -= log_x.mean()
    return float(log_x @ log_y / (log_x @ log_x))

"""Ratios, their intervals and verdicts: known answers, and coverage at the numbers of runs that are used."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from compare.statistics import (
    STUDENT_T,
    ConfidenceInterval,
    exponent,
    mean_interval,
    ratio_of_medians,
    steps_to_pay_off,
)


def test_student_quantiles_are_those_of_scipy():
    expected = stats.t.ppf(0.975, range(1, len(STUDENT_T) + 1))
    np.testing.assert_allclose(STUDENT_T, expected, atol=6e-4)  # three decimals are written down


def test_ratio_of_medians_has_the_interval_of_its_formula():
    # logs of a: 0 and 1, of b: 0 and 0; s² / n = 0.5 / 2, t(1) = 12.706
    ratio = ratio_of_medians([1.0, math.e], [1.0, 1.0])
    expected = [0.5, 0.5 - 12.706 / 2, 0.5 + 12.706 / 2]
    assert [math.log(value) for value in ratio[:3]] == pytest.approx(expected)
    assert ratio_of_medians([2.0, 8.0, 9.0], [4.0, 4.0, 5.0]).value == pytest.approx(2.0)
    assert ratio_of_medians([8.0] * 3, [4.0] * 3)[:3] == pytest.approx((2.0, 2.0, 2.0))


def test_interval_agrees_with_scipys_t_test_on_equally_many_equally_noisy_runs():
    a, b = [9.0, 10.0, 12.0], [4.0, 5.0, 5.5]
    ratio = ratio_of_medians(a, b)
    logs = np.log([a, b])
    error = np.sqrt(logs.var(axis=1, ddof=1).sum() / 3)
    low, high = np.exp(stats.t.interval(0.95, 2, loc=logs[0].mean() - logs[1].mean(), scale=error))
    assert (ratio.low, ratio.high) == pytest.approx((low, high), rel=1e-3)


def test_interval_is_widened_to_hold_the_ratio_itself():
    skewed = [1.0] * 30 + [100.0] * 29  # the mean of the logarithms is far from their median
    ratio = ratio_of_medians(skewed, [1.0] * 59)
    assert ratio.low == ratio.value == 1.0


NOISE: dict[str, Any] = {
    "normal": lambda rng, size: rng.normal(size=size),
    "student": lambda rng, size: rng.standard_t(3, size=size),
    "disturbed": lambda rng, size: rng.normal(size=size) * np.where(rng.random(size) < 0.1, 10, 1),
    "exponential": lambda rng, size: rng.exponential(size=size) - math.log(2),  # the median is 0
}


@pytest.mark.parametrize("scale", [1, 5])
@pytest.mark.parametrize("runs", [3, 4, 5])
@pytest.mark.parametrize("noise", NOISE)
def test_interval_covers_the_true_ratio(noise: str, runs: int, scale: int):
    rng = np.random.default_rng(0)
    a, b = NOISE[noise](rng, (2, 2000, runs))
    ratios = [ratio_of_medians(2 * np.exp(scale * 0.05 * x), np.exp(0.05 * y)) for x, y in zip(a, b, strict=True)]
    covered = np.mean([ratio.low <= 2 <= ratio.high for ratio in ratios])
    assert 0.94 <= covered <= 0.998  # expected: 0.955 to 0.992, with a standard error of at most 0.005


def claims(ratio: float) -> list[str]:
    """What is said of 1,000 pairs of five runs with 3 % of noise, one of which is so many times as fast."""
    rng = np.random.default_rng(1)
    noise = np.exp(0.03 * rng.normal(size=(1000, 2, 5)))
    return [ratio_of_medians(ratio * a, b).outcome for a, b in noise]


def test_false_alarms_are_rare_but_not_absent_and_a_real_difference_is_claimed():
    """An interval that always held 1 would raise no false alarm, and no true one."""
    equal = claims(1.0)
    for wrong in ("faster", "slower"):
        assert 0.002 <= equal.count(wrong) / 1000 <= 0.025  # expected: 0.01, and rounding leaves fewer
    assert claims(1.2).count("faster") == claims(1 / 1.2).count("slower") == 1000


@pytest.mark.parametrize(
    ("a", "b", "outcome", "text"),
    [
        ([10, 10.1, 9.9], [5, 5.1, 5], "faster", "2.00× (95 % CI 1.91–2.06, n = 3)"),
        ([5, 5.1, 5], [10, 10.1, 9.9], "slower", "0.50× (95 % CI 0.48–0.52, n = 3)"),
        ([10, 11, 9], [10, 10, 10], "no significant difference",
         "no significant difference (1.00×, 95 % CI 0.78–1.28, n = 3)"),
        ([10, 11, 9], [10, 10], "no significant difference",
         "no significant difference (1.00×, 95 % CI 0.48–2.08, n = 3 and 2)"),
        ([1, 9], [3, 4], "no significant difference",
         "no significant difference (0.87×, 95 % CI <0.01–>100, n = 2)"),
        ([2], [1], "not ranked", "one run each: not ranked; add --seeds 0 1 2"),
    ],
)  # fmt: skip
def test_verdict_claims_no_more_than_the_interval(a: list[float], b: list[float], outcome: str, text: str):
    ratio = ratio_of_medians(a, b)
    assert (ratio.outcome, ratio.describe()) == (outcome, text)
    assert ratio.significant == (outcome in ("faster", "slower"))


def test_a_single_run_has_an_infinite_interval_and_a_remedy():
    ratio = ratio_of_medians([2.0], [1.0, 1.1, 1.2])
    assert (ratio.low, ratio.high) == (0, math.inf)
    assert ratio.describe(add="--repeats 5") == "one run each: not ranked; add --repeats 5"


def test_bounds_are_written_out_up_to_a_hundredfold():
    bounds = [ConfidenceInterval(1.0, 1 / size, size, (3, 3)).bounds for size in (2.0, 100.0, 101.0)]
    assert bounds == ["0.50–2.00", "0.01–100.00", "<0.01–>100"]


def test_sentences_name_both():
    found = [ratio_of_medians(a, [4.0, 5.0]).sentence("JAX", "NumPy") for a in ([16.0, 16.0], [4.5, 4.6], [16.0])]
    assert found == [
        "no significant difference between JAX and NumPy (3.58×, 95 % CI 0.87–14.77, n = 2)",
        "no significant difference between JAX and NumPy (1.02×, 95 % CI 0.24–4.23, n = 2)",
        "one run each: not ranked; add --seeds 0 1 2",
    ]
    fast = ratio_of_medians([8.0] * 3, [4.0] * 3).sentence("JAX", "NumPy")
    assert fast == "JAX is 2.00× as fast as NumPy (95 % CI 2.00–2.00, n = 3)"


def test_mean_interval_is_scipys():
    sample = [1.0, 2.0, 4.0, 4.5]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(sample), scale=stats.sem(sample))
    assert mean_interval(sample) == pytest.approx((np.mean(sample), low, high), abs=1e-3)
    assert mean_interval([3.0]) == (3.0, -math.inf, math.inf)


@pytest.mark.parametrize(
    ("cold", "step_ms", "steps"),
    [((0.0, 3.0), (5.0, 2.0), 1000.0), ((0.0, 3.0), (2.0, 5.0), math.inf), ((3.0, 1.0), (5.0, 2.0), 0.0)],
)
def test_steps_after_which_a_compilation_pays_off(cold: Any, step_ms: Any, steps: float):
    assert steps_to_pay_off(cold, step_ms) == pytest.approx(steps)


def test_exponent_of_a_power_law():
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_nobody_is_the_winner_by_1_00_times():
    interval = ratio_of_medians([1.002, 1.003, 1.002], [1.0, 1.0, 1.0])
    assert 1 < interval.low < interval.high < 1.005
    assert interval.sentence("JAX", "NumPy").startswith("no significant difference between JAX and NumPy (1.00×")
    other = ratio_of_medians([1.0, 1.0, 1.0], [1.002, 1.003, 1.002])
    assert 0.995 < other.low < other.high < 1
    assert other.outcome == "no significant difference"
    clear = ratio_of_medians([1.0, 1.0, 1.0], [1.008, 1.009, 1.008])
    assert 0.99 < clear.low < clear.high < 0.995
    assert clear.outcome == "slower"

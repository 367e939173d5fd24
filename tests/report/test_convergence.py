"""Convergence: two tracks at parity learn equally fast, and one that does not is found."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from support.fake_results import fake_results
from support.tiny_runs import CONFIG, trained

from compare.report import status
from compare.report.summary import summary
from compare.results import convergence as subject
from compare.results.convergence import Outcome, convergence, differences, outcome
from compare.results.runs import Tracks, groups
from compare.tracks import TRACKS

FASTER = 1.05 * CONFIG.lr  # the planted learning rate


def verdict(tracks: Tracks) -> Outcome:
    return outcome(convergence({"tiny": tracks})["tiny"])


def worse(tracks: Tracks, track: str) -> Tracks:
    """The same runs, but one track has 0.2 points less test accuracy."""
    planted = copy.deepcopy(tracks)
    for run in planted[track]:
        assert run["test_accuracy"]
        run["test_accuracy"] -= 0.002
    return planted


def test_intervals_are_those_of_a_paired_t_test_for_two_tracks():
    from scipy import stats

    a, b = [0.981, 0.984, 0.979, 0.983], [0.982, 0.983, 0.981, 0.986]
    (found,) = differences("accuracy", {"numpy": a, "torch": b}, level=0.01)
    tested = stats.ttest_rel(b, a)
    assert found.mean == pytest.approx(np.mean(b) - np.mean(a))
    for half, level in ((found.half, 0.9), (found.widest, 0.99)):
        low, high = tested.confidence_interval(level)
        assert (found.mean - half, found.mean + half) == pytest.approx((low, high))


def test_what_all_tracks_share_in_a_seed_drops_out():
    noise = np.random.default_rng(0).normal(size=(3, 5)) * 1e-4
    seeds = np.array([0.97, 0.98, 0.985, 0.99, 0.96])
    alone, shared = (
        [*differences("accuracy", dict(zip("abc", y, strict=True)), level=0.01)] for y in (noise, noise + seeds)
    )
    assert [each[3:] for each in alone] == [pytest.approx(each[3:]) for each in shared]


@pytest.mark.parametrize(("measure", "off"), [("accuracy", 0.002), ("steps", math.log(1.05))])
@pytest.mark.parametrize(("seeds", "noise"), [(3, 0.15), (5, 0.3), (10, 0.5)])
def test_power_and_false_alarms(measure: str, off: float, seeds: int, noise: float):
    """The paired differences have a standard deviation of ``noise`` times the margin."""
    rng = np.random.default_rng(0)
    verdicts: dict[float, list[Outcome]] = {0.0: [], off: []}
    for shift, found in verdicts.items():
        for _ in range(500):
            table = rng.normal(size=(3, seeds)) * noise * subject.MARGINS[measure] / math.sqrt(2)
            table[2] += shift
            values = dict(zip(TRACKS, table, strict=True))
            found.append(outcome(differences(measure, values, level=subject.ALARM / 6)))
    alike, apart = verdicts.values()
    assert alike.count("same") >= 0.95 * 500
    assert alike.count("differs") <= 0.01 * 500
    assert apart.count("same") <= 0.05 * 500
    assert apart.count("differs") >= 0.9 * 500


def test_the_steps_to_a_loss_are_those_of_a_curve_whose_steps_are_known():
    t = np.arange(1, 401)
    slow, fast = (3 * np.exp(-t / 60) for t in (t, 1.04 * t))
    a, b = subject.log_steps([slow.tolist(), fast.tolist()])
    assert b - a == pytest.approx(-math.log(1.04), rel=0.02)


def test_three_tracks_converge_alike_and_what_is_planted_is_found():
    runs: Tracks = {track: [trained(track, seed=seed) for seed in range(5)] for track in TRACKS}
    assert verdict(runs) == "same"
    assert verdict(worse(runs, "jax")) == "differs"
    assert verdict(runs | {"torch": [trained("torch", seed=seed, lr=FASTER) for seed in range(5)]}) == "differs"


@pytest.mark.slow
def test_twenty_comparisons_without_a_difference_and_ten_with_one():
    found: dict[str, list[Outcome]] = {"none": [], "accuracy": [], "lr": []}
    for first in range(0, 100, 5):
        seeds = range(first, first + 5)
        runs: Tracks = {track: [trained(track, seed=seed) for seed in seeds] for track in ("numpy", "torch")}
        found["none"].append(verdict(runs))
        found["accuracy"].append(verdict(worse(runs, "torch")))
        if first < 50:
            found["lr"].append(verdict(runs | {"torch": [trained("torch", seed=seed, lr=FASTER) for seed in seeds]}))
    assert found["none"].count("same") >= 19, found
    assert found["accuracy"].count("differs") == 20, found
    assert found["lr"].count("same") == 0, found
    assert found["lr"].count("differs") >= 9, found


def test_the_strip_speaks_of_convergence_where_several_seeds_were_run():
    def line(**how: tuple[int, ...]) -> list[tuple[str, str]]:
        return [(each.mark, each.text) for each in status.strip(fake_results(**how)) if each.name == "Convergence"]

    assert line(seeds=(0,)) == []
    assert line(seeds=(0, 1), tracks=("numpy",)) == []
    results = fake_results(seeds=(0, 1, 2))
    for run in results["runs"]:
        run["step_loss"], run["test_accuracy"] = results["runs"][0]["step_loss"], 0.98 + 0.01 * run["seed"]
    strip = {each.name: each for each in status.strip(results)}
    assert strip["Convergence"][1:3] == ("✓", "same")
    assert "mlp-mnist: within 0.00 points of test accuracy" in strip["Convergence"].sentence
    for run in groups(results)["cnn-mnist"]["torch"]:
        assert run["test_accuracy"]
        run["test_accuracy"] -= 0.004
    strip = {each.name: each for each in status.strip(results)}
    assert "**Convergence, cnn-mnist:** differs by 0.40 points" in summary(results)
    assert strip["Convergence"][1:3] == ("✗", "differs")
    assert "cnn-mnist: differs by 0.40 points of test accuracy (NumPy and PyTorch)" in strip["Convergence"].sentence


def test_steps_to_a_level_are_counted_from_one():
    """Two exponential decays, one twice as fast: the levels lie between e⁻² and e⁻⁹, the steps there are known."""
    slow = np.exp(-np.arange(1.0, 10.0))  # step s has loss e⁻ˢ; fewer than 20 steps are not smoothed
    fast = np.exp(-2.0 * np.arange(1.0, 10.0))
    levels = np.linspace(2, 9, subject.LEVELS + 2)[1:-1]
    np.testing.assert_allclose(
        subject.log_steps([slow, fast]), [np.log(levels).mean(), np.log(levels / 2).mean()], rtol=1e-12
    )

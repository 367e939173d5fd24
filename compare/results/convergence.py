"""Convergence: do the tracks learn equally fast, and as well? A test over the seeds of a comparison.

Two measures of every run, compared between the tracks seed by seed. The tracks share batches and first weights, so most
of what a seed changes is common to all of them and drops out:

    accuracy    final test accuracy; the margin is 0.2 points
    steps       steps until the training loss (its mean over a tenth of the run) first reaches a level: the mean of
                their logarithms over 12 levels that every track reached; the margin is 2 %. The training loss is known
                at every step and on the same images, the validation accuracy only at every evaluation.

With y the value of a track and a seed, the residual variance of y = track + seed + noise has (tracks - 1)(seeds - 1)
degrees of freedom, and the difference of two tracks' means has the standard error s √(2 / seeds). Two tracks are

    the same     if the 90 % confidence interval of every difference lies within the margin (two one-sided tests,
                 Schuirmann 1987): a true difference as large as the margin passes in at most 5 % of cases
    different    if not, and a difference is not 0 at a level of 1 % for the whole comparison (Bonferroni)
    undecided    otherwise: more seeds are needed

``docs/parity.md`` has the power of both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from compare.report.style import name_of
from compare.results.runs import Tracks, numbers, tested
from compare.results.schema import RunResult

MARGINS = {"accuracy": 0.002, "steps": 0.02}  # of a fraction of the images, of a ratio of steps
ALARM = 0.01  # share of comparisons without a difference in which one is reported
LEVELS = 12
UNITS = {"accuracy": (100, "points of test accuracy"), "steps": (100, "% of the steps to the same training loss")}

Outcome = Literal["same", "differs", "undecided"]


class Difference(NamedTuple):
    """The difference of two tracks in one measure: its mean over the seeds, and its two intervals' half-widths."""

    measure: str
    a: str
    b: str
    mean: float
    half: float  # of the 90 % interval
    widest: float  # of the interval at the level of an alarm

    @property
    def outcome(self) -> Outcome:
        """Same, different or undecided, by the margin of the measure."""
        if abs(self.mean) + self.half <= MARGINS[self.measure]:
            return "same"
        return "differs" if abs(self.mean) > self.widest else "undecided"


def convergence(presets: Mapping[str, Tracks]) -> dict[str, list[Difference]]:
    """The differences of every pair of tracks in both measures, for each preset that was run with several seeds."""
    found = {preset: values for preset, tracks in presets.items() if (values := measures(tracks))}
    sizes = [len(values["accuracy"]) for values in found.values()]
    level = ALARM / max(len(MARGINS) * sum(math.comb(size, 2) for size in sizes), 1)
    return {
        preset: [each for measure, table in values.items() for each in differences(measure, table, level=level)]
        for preset, values in found.items()
    }


def outcome(differences: Sequence[Difference]) -> Outcome:
    """Different if one is, the same if all are."""
    outcomes = {each.outcome for each in differences}
    return "differs" if "differs" in outcomes else "undecided" if "undecided" in outcomes else "same"


def in_words(differences: Sequence[Difference]) -> str:
    """What is known of the largest difference in each measure, in one sentence."""
    words = []
    for measure, (scale, unit) in UNITS.items():
        each = max((one for one in differences if one.measure == measure), key=_size)
        bound = abs(each.mean) + each.half
        apart = f"{scale * abs(each.mean):.2f} {unit} ({name_of(each.a)} and {name_of(each.b)})"
        words.append(f"differs by {apart}" if each.outcome == "differs" else f"within {scale * bound:.2f} {unit}")
    return ", ".join(words) + {"undecided": " (add seeds)"}.get(outcome(differences), "")


def _size(difference: Difference) -> tuple[bool, float]:
    return difference.outcome == "differs", abs(difference.mean)


def measures(tracks: Tracks) -> dict[str, dict[str, list[float]]]:
    """``{measure: {track: [value for each seed]}}`` of the seeds that every track finished; {} for fewer than two."""
    by_seed = {track: {run["seed"]: run for run in tested(runs) if _losses(run)} for track, runs in tracks.items()}
    common = sorted(set.intersection(*(set(runs) for runs in by_seed.values()))) if len(by_seed) > 1 else []
    if len(common) < 2:
        return {}
    steps = [log_steps([_losses(runs[seed]) for runs in by_seed.values()]) for seed in common]
    return {
        "accuracy": {track: [_accuracy(runs[seed]) for seed in common] for track, runs in by_seed.items()},
        "steps": {track: [each[number] for each in steps] for number, track in enumerate(by_seed)},
    }


def _losses(run: RunResult) -> list[float]:
    """The loss of every step; none if one is unknown."""
    known = numbers([{"loss": loss} for loss in run["step_loss"]], "loss")
    return known if len(known) == len(run["step_loss"]) else []


def _accuracy(run: RunResult) -> float:
    assert run["test_accuracy"] is not None  # as `tested` promises
    return run["test_accuracy"]


def log_steps(losses: Sequence[Sequence[float]]) -> list[float]:
    """For each track, the mean logarithm of the steps until its loss reaches levels that all of them reach.

    The levels have equally spaced logarithms, between the lowest first loss and the highest of the lowest ones.
    """
    curves = [_first_reached(np.array(each, np.float64)) for each in losses]
    high, low = min(loss[0] for _, loss in curves), max(loss[-1] for _, loss in curves)
    levels = np.linspace(high, low, LEVELS + 2)[1:-1]
    return [float(np.log(np.interp(-levels, -loss, steps)).mean()) for steps, loss in curves]


def _first_reached(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The steps around which the mean loss is lower than ever before, and its logarithm there."""
    window = max(len(losses) // 10, 1)
    means = np.log(np.maximum(np.convolve(losses, np.full(window, 1 / window), "valid"), 1e-12))
    lowest = np.minimum.accumulate(means)
    record = np.flatnonzero(np.diff(lowest, prepend=np.inf) < 0)
    return record + (window + 1) / 2, lowest[record]  # the middle of the window, counted from 1


def differences(measure: str, values: Mapping[str, Sequence[float]], *, level: float) -> list[Difference]:
    """The difference of every pair of tracks, given each one's values over the same seeds; ``level`` is two-sided."""
    from scipy.special import stdtrit  # quantiles of Student's t

    table = np.array(list(values.values()))
    tracks, seeds = table.shape
    residuals = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    degrees = (tracks - 1) * (seeds - 1)
    error = math.sqrt(2 * float((residuals**2).sum()) / degrees / seeds)
    half, widest = (float(stdtrit(degrees, quantile)) * error for quantile in (0.95, 1 - level / 2))
    means = dict(zip(values, table.mean(axis=1).tolist(), strict=True))
    return [Difference(measure, a, b, means[b] - means[a], half, widest) for a, b in itertools.combinations(values, 2)]

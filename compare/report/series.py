"""The curves of every figure as numbers: smoothed losses, accuracies, gaps between tracks, means over the seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from compare.report.style import PAIR, Style, name_of
from compare.results.runs import Tracks, numbers
from compare.results.schema import RunResult

FEW = 30  # so many steps or epochs are shown as points, not smoothed
ROUNDING = {"float32": 2.0**-23, "float64": 2.0**-52}  # of a loss near 1: no gap means anything below it

Curve = tuple[np.ndarray, np.ndarray]  # x, y


class Gap(NamedTuple):
    """The loss gap of two tracks, a curve for each seed that both have."""

    name: str
    tracks: tuple[str, str]
    style: Style
    curves: list[Curve]


def smooth(values: Sequence[float] | np.ndarray, memory: float) -> np.ndarray:
    """Running mean over about `memory` values, its start corrected as Adam corrects its moments.

    m_t = b m_{t-1} + (1 - b) x_t, shown is m_t / (1 - b^t), b = 1 - 1 / memory.
    """
    keep = 1 - 1 / max(1.0, memory)
    shown, mean = np.empty(len(values)), 0.0
    for t, value in enumerate(values):
        mean = keep * mean + (1 - keep) * value
        shown[t] = mean / (1 - keep ** (t + 1))
    return shown


def step_losses(run: RunResult) -> np.ndarray:
    """The loss of every training step, shape (t,); NaN where it was not finite."""
    losses = np.array(run["step_loss"], dtype=np.float64)  # null becomes NaN
    return np.where(np.isfinite(losses), losses, np.nan)


def loss_gap(run: RunResult, other: RunResult) -> np.ndarray:
    """|loss of one run - loss of the other| at each step both made, no less than the rounding of a loss near 1."""
    a, b = step_losses(run), step_losses(other)
    steps = min(len(a), len(b))
    return np.maximum(np.abs(a[:steps] - b[:steps]), ROUNDING.get(run["precision"], 2.0**-23))


def loss_curve(run: RunResult, tracks: Tracks) -> Curve:
    """Training loss at every step, smoothed on a log scale with the same window for all of `tracks`."""
    return _by_step(np.maximum(step_losses(run), 1e-12), _memory(tracks))


def accuracy_curve(run: RunResult) -> Curve:
    """Validation accuracy in percent, by epoch."""
    rows = [row for row in run["history"] if row["val_accuracy"] is not None]
    x, y = (np.array(numbers(rows, key)) for key in ("epoch", "val_accuracy"))
    return x, 100 * y


def gaps(tracks: Tracks, styles: dict[str, Style]) -> Iterator[Gap]:
    """The loss gap of every pair of two or three tracks; with more tracks, of the pairs with the first.

    The two start from the same weights and see the same batches.
    """
    reference = list(tracks)[: 2 if len(tracks) < 4 else 1]
    for a, b in itertools.combinations(tracks, 2):
        if a not in reference:
            continue
        others = {run["seed"]: run for run in tracks[b]}
        pairs = [(run, others[run["seed"]]) for run in tracks[a] if run["seed"] in others]
        curves = [_by_step(loss_gap(*pair), _memory(tracks)) for pair in pairs]
        curves = [curve for curve in curves if len(curve[0])]
        yield Gap(f"{name_of(b)} vs {name_of(a)}", (a, b), styles[b] if a == "numpy" else PAIR, curves)


def mean(curves: Sequence[Curve]) -> Curve | None:
    """The mean of the longest of several curves, if they are finite throughout; a single curve is returned as it is."""
    curves = [(x, y) for x, y in curves if len(x)]
    if len(curves) > 1:
        longest = max(len(x) for x, _ in curves)
        whole = [(x, y) for x, y in curves if len(x) == longest and np.isfinite(y).all()]
        curves = [(np.mean([x for x, _ in whole], axis=0), np.mean([y for _, y in whole], axis=0))] if whole else []
    return curves[0] if curves else None


def _by_step(values: np.ndarray, memory: float) -> Curve:
    return np.arange(1, len(values) + 1), np.exp(smooth(np.log(values), memory))


def _memory(tracks: Tracks) -> float:
    """Steps to smooth over: 1/40 of the longest run, or 1 if it is short enough to be shown as points."""
    longest = max((len(run["step_loss"]) for runs in tracks.values() for run in runs), default=0)
    return longest / 40 if longest > FEW else 1.0

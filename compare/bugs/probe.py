"""Measure a track that may have a bug: ``python -m compare.bugs.probe``, JSON in, JSON out.

    curve        a small training on MNIST: loss of every step, accuracies, how many test images were counted
    gradients    central differences along a random direction against the gradient, in float64
    parity       the worst leaf of a parity check with another track, in float64

A measurement that fails because of the bug is ``{"stopped": message}``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from compare import tracks
from compare.config import Config
from compare.data import Data, load
from compare.errors import UserError
from compare.parity import check
from compare.results.parity import closeness
from compare.training import loop
from compare.training.steps import plan
from compare.training.worker import first_snapshot
from numpy_nn.tree import Tree, leaves, tree_map

CONFIG = Config(
    preset="probe", model="mlp", dataset="mnist", expected="", model_args={"hidden": (64,)}, steps=120, batch_size=50
)
CHUNK = 20  # steps
PIXELS = {"mean": (0.1307,), "std": (0.3081,)}
EPS = 1e-6  # small, so that no ReLU changes sign between the two points


def few_digits(config: Config) -> Data:
    """Load a part of MNIST: 2,400 training, 600 validation and 1,100 test images, so that the last batch is short."""
    whole = load(config.dataset, val_size=0)
    few = dataclasses.replace(
        whole,
        train_x=whole.train_x[:3000],
        train_y=whole.train_y[:3000],
        test_x=whole.test_x[:1100],
        test_y=whole.test_y[:1100],
    )
    return few.split(600, config.seed)


def arguments(config: Config, track: str) -> dict[str, Any]:
    """Return the arguments of ``init_state`` except the scaling of the pixels."""
    assert config.steps
    return tracks.state_arguments(config, track, steps=config.steps, threads=1)


def curve(config: Config, track_name: str) -> dict[str, Any]:
    """Train, and evaluate at the end: ``loss`` of every step, ``step_ms``, accuracies ``val`` and ``test``.

    If training or evaluation fails, ``stopped`` says why, and the missing figures are left out.
    """
    track, data, given = tracks.load(track_name), few_digits(config), arguments(config, track_name)
    schedule = dataclasses.replace(plan(config, len(data.train_x), evaluations=1), chunk=CHUNK)
    training = loop.begin(track, config, data, first_snapshot(config), schedule=schedule, arguments=given)
    answer: dict[str, Any]
    try:
        loop.train(training)
        answer = {name: training.last[f"{name}_accuracy"] for name in ("val", "test")}
    except (AssertionError, UserError) as error:  # images were left out, or a loss is not finite
        answer = {"stopped": str(error)}
    laps = training.timings.chunks.steady or [math.nan]
    return {"loss": training.step_loss, "step_ms": 1000 * statistics.median(laps) / CHUNK, **answer}


def gradients(config: Config, track_name: str) -> float:
    """Return |∂ - g·d|/(|∂| + |g·d|), where ∂ = (L(p + ε d) - L(p - ε d))/2ε, d is random of length 1, and g = ∇L(p).

    Both come from one training step: its loss is L before the update, and its momentum, which starts at zero, is g.
    """
    track, snapshot = tracks.load(track_name), first_snapshot(config)
    rng = np.random.default_rng(1)
    x = rng.integers(
        0, 256, (1, 8, *tracks.model_argument(config.model, config.model_args, "input_shape")), dtype=np.uint8
    )
    y = rng.integers(0, 10, (1, 8), dtype=np.int32)
    drawn = tree_map(lambda p: rng.normal(size=p.shape), snapshot["params"])
    length = np.sqrt(sum(float(np.vdot(d, d)) for d in leaves(drawn).values()))
    direction = tree_map(lambda d: d / length, drawn)
    at_rest = arguments(config, track_name) | PIXELS | {"optimizer": "momentum", "optimizer_args": {}}

    def step(distance: float) -> tuple[float, Tree]:
        params = tree_map(lambda p, d: p + distance * d, snapshot["params"], direction)
        state, metrics = track.train_steps(track.init_state({**snapshot, "params": params}, **at_rest), x, y)
        return float(metrics["loss"][0]), track.to_snapshot(state)["opt"]["mu"]

    slope = (step(EPS)[0] - step(-EPS)[0]) / (2 * EPS)
    gradient, towards = leaves(step(0.0)[1]), leaves(direction)
    product = sum(float(np.vdot(gradient[path], towards[path])) for path in towards)
    return abs(slope - product) / (abs(slope) + abs(product))


def parity(config: Config, track: str) -> dict[str, Any]:
    """Return the check with the largest error relative to its tolerance."""
    pair = [track, "torch" if track == "numpy" else "numpy"]
    ((row, _),) = check.check_parity(config, pair, steps=5)
    worst = max(row["checks"], key=closeness)
    return {name: worst[name] for name in ("what", "worst_leaf", "max_rel")}


def whatever_happens(measure: Callable[[Config, str], Any], config: Config, track: str) -> Any:
    """The measurement, or ``{"stopped": message}`` if it raised anything."""
    try:
        with check.exact_jax(config.precision):
            return measure(config, track)
    except Exception as error:  # any exception is a symptom of the bug
        return {"stopped": f"{type(error).__name__}: {error}"}


def main() -> int:
    """Measure the track and Config fields that standard input gives, and print the figures."""
    warnings.simplefilter("ignore")  # the figures show overflow in exp and the like
    question = json.load(sys.stdin)
    config = dataclasses.replace(CONFIG, **question["training"])
    exact = dataclasses.replace(config, precision="float64")
    answer = {
        "curve": whatever_happens(curve, config, question["track"]),
        "gradients": whatever_happens(gradients, exact, question["track"]),
        "parity": whatever_happens(parity, exact, question["track"]),
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())

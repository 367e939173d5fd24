"""What one can measure of a track that may have a bug: ``python -m compare.bugs.probe``, JSON in, JSON out.

    curve        a small training on MNIST: loss of every step, accuracies, how many test images were counted
    gradients    central differences along a random direction against the gradient, in float64
    proof        the worst leaf against another track, in float64

A bug may stop any of them: then its words are the answer.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from compare import tracks
from compare.config import Config
from compare.data import Data, load
from compare.parity import check
from compare.results.parity import closeness
from compare.training import loop
from compare.training.clocks import Stopwatch
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, leaves, tree_map

CONFIG = Config(
    preset="probe", model="mlp", dataset="mnist", expected="", model_args={"hidden": (64,)}, steps=120, batch_size=50
)
CHUNK = 20  # steps
EPS = 1e-6  # short, so that no relu on the way changes sides


def few_digits(config: Config) -> Data:
    """A twentieth of MNIST: 2,400 images to train on, 600 to validate, 1,100 to test, the last batch a short one."""
    whole = load(config.dataset, val_size=0)
    few = dataclasses.replace(
        whole,
        train_x=whole.train_x[:3000],
        train_y=whole.train_y[:3000],
        test_x=whole.test_x[:1100],
        test_y=whole.test_y[:1100],
    )
    return few.split(600, config.seed)


def first(config: Config) -> Tree:
    """First values, the same for every track."""
    return MODELS[config.model](**config.model_args).init(np.random.default_rng(config.seed))


def arguments(config: Config, track: str) -> dict[str, Any]:
    """What ``init_state`` is told."""
    assert config.steps
    pixels = {"mean": (0.1307,), "std": (0.3081,)}
    return tracks.state_arguments(config, track, steps=config.steps, threads=1) | pixels


def curve(config: Config, track_name: str) -> dict[str, Any]:
    """Train and evaluate."""
    track, data, watch = tracks.load(track_name), few_digits(config), Stopwatch()
    state = track.init_state(first(config), **arguments(config, track_name))
    losses: list[float] = []
    for step in range(0, config.steps or 0, CHUNK):
        with watch.lap():
            x, y = data.train_chunk(config.seed, step, CHUNK, batch_size=config.batch_size)
            state, metrics = track.train_steps(state, x, y)
            track.synchronize(state)
        losses += np.asarray(metrics["loss"], float).tolist()
    answer: dict[str, Any] = {"loss": losses, "step_ms": 1000 * statistics.median(watch.steady) / CHUNK}
    try:
        figures = loop.evaluate(track, state, data, batch_size=config.eval_batch_size, watch=Stopwatch())
    except AssertionError as error:  # it has counted
        return answer | {"stopped": str(error)}
    return answer | {name: figures[f"{name}_accuracy"] for name in ("val", "test")}


def gradients(config: Config, track_name: str) -> float:
    """|∂ - g·d|/(|∂| + |g·d|), where ∂ = (L(p + ε d) - L(p - ε d))/2ε along a random d of length 1, and g = ∇L(p).

    Both come out of one step of the track: its loss is L before the step, and momentum from rest is g after it.
    """
    track, snapshot = tracks.load(track_name), first(config)
    rng = np.random.default_rng(1)
    x = rng.integers(
        0, 256, (1, 8, *tracks.model_argument(config.model, config.model_args, "input_shape")), dtype=np.uint8
    )
    y = rng.integers(0, 10, (1, 8), dtype=np.int32)
    drawn = tree_map(lambda p: rng.normal(size=p.shape), snapshot["params"])
    length = np.sqrt(sum(float(np.vdot(d, d)) for d in leaves(drawn).values()))
    direction = tree_map(lambda d: d / length, drawn)
    at_rest = arguments(config, track_name) | {"optimizer": "momentum", "optimizer_args": {}}

    def step(distance: float) -> tuple[float, Tree]:
        params = tree_map(lambda p, d: p + distance * d, snapshot["params"], direction)
        state, metrics = track.train_steps(track.init_state({**snapshot, "params": params}, **at_rest), x, y)
        return float(metrics["loss"][0]), track.to_snapshot(state)["opt"]["mu"]

    slope = (step(EPS)[0] - step(-EPS)[0]) / (2 * EPS)
    gradient, towards = leaves(step(0.0)[1]), leaves(direction)
    product = sum(float(np.vdot(gradient[path], towards[path])) for path in towards)
    return abs(slope - product) / (abs(slope) + abs(product))


def proof(config: Config, track: str) -> dict[str, Any]:
    """The check that fails most clearly, or else the largest distance."""
    pair = [track, "torch" if track == "numpy" else "numpy"]
    ((row, _),) = check.check_parity(config, pair, steps=5)
    worst = max(row["checks"], key=closeness)
    return {name: worst[name] for name in ("what", "worst_leaf", "max_rel")}


def whatever_happens(measure: Callable[[Config, str], Any], config: Config, track: str) -> Any:
    """The answer, or the words with which it stopped."""
    try:
        with check.exact_jax(config.precision):
            return measure(config, track)
    except Exception as error:  # a bug may raise anything: that is the symptom
        return {"stopped": f"{type(error).__name__}: {error}"}


def main() -> int:
    """Answer the question on standard input: the track, and fields of a Config."""
    warnings.simplefilter("ignore")  # overflow in exp, and its like, are told by the figures
    question = json.load(sys.stdin)
    config = dataclasses.replace(CONFIG, **question["training"])
    exact = dataclasses.replace(config, precision="float64")
    answer = {
        "curve": whatever_happens(curve, config, question["track"]),
        "gradients": whatever_happens(gradients, exact, question["track"]),
        "proof": whatever_happens(proof, exact, question["track"]),
    }
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())

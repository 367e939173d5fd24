"""Trainings of a tenth of a second in this process, as runs of results.json: for tests that need many of them."""

from __future__ import annotations

import dataclasses
from functools import cache

from compare import tracks
from compare.config import Config
from compare.data import Data, load
from compare.results.schema import RunResult, new_run
from compare.training import loop, worker
from compare.training.steps import plan

# The loss falls smoothly, so that a learning rate 5 % higher takes about 4 % fewer steps.
CONFIG = Config(
    preset="tiny",
    model="mlp",
    model_args={"hidden": (32,)},
    dataset="mnist",
    steps=100,
    batch_size=128,
    eval_batch_size=1000,
    optimizer="sgd",
    schedule="constant",
    lr=0.05,
)


@cache
def images() -> Data:
    """MNIST without validation images, and with every test image."""
    return load("mnist", data_dir=None, val_size=0, seed=0)


def trained(track: str, *, seed: int, lr: float = CONFIG.lr) -> RunResult:
    """The run of one track and seed."""
    config = dataclasses.replace(CONFIG, seed=seed, lr=lr)
    schedule = plan(config, len(images().train_x))
    training = loop.begin(
        tracks.load(track),
        config,
        images(),
        worker.first_snapshot(config),
        schedule=schedule,
        arguments=tracks.state_arguments(config, track, steps=schedule.steps, threads=1),
    )
    loop.train(training)
    run = new_run(config, track)
    run.update(training.result())
    run["step_loss"] = list(training.step_loss)
    return run

"""Every setting of a training has its effect: one that is ignored, or swapped for another, fails here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_training import CONFIG, separable

from compare import tracks
from compare.checkpoint import store
from compare.config import Config
from compare.data.augment import KNOWN
from compare.training import loop, worker
from compare.training.clocks import Timings
from compare.training.saver import Saver
from compare.weights.open import open_network
from compare.workers.protocol import Job
from numpy_nn.tree import leaves

PLAIN = dataclasses.replace(CONFIG, augment=(), ema=None, keep_best=False, steps=24)

# A value of each setting that is not that of PLAIN.
CHANGES: dict[str, dict[str, Any]] = {
    "model": {"model": "rnn", "model_args": CONFIG.model_args | {"hidden": 16}},
    "model_args": {"model_args": CONFIG.model_args | {"activation": "tanh"}},
    "augment": {"augment": ("flip",)},
    "epochs": {"steps": None, "epochs": 1.2},
    "steps": {"steps": 36},
    "batch_size": {"batch_size": 10},
    "ema": {"ema": 0.5},
    "loss": {"loss": "mse"},
    "loss_args": {"loss_args": {"label_smoothing": 0.3}},
    "optimizer": {"optimizer": "adam"},
    "optimizer_args": {"optimizer_args": {"weight_decay": 1e-2, "clip_norm": 0.1}},
    "schedule": {"schedule": "constant"},
    "schedule_args": {"schedule_args": {"warmup": 0.6}},
    "lr": {"lr": 2e-2},
    "lr_scale": {"lr_scale": {"output": 0.0}},
    "precision": {"precision": "float64"},
    "seed": {"seed": 1},
}
# These change names, places and the order of the arithmetic; tests of data, devices and of early stopping vary them.
NO_OTHER_RESULT = (
    "preset network_digest dataset expected data_dir loader val_size eval_batch_size accumulate device devices"
)
STOPPING = {"patience", "keep_best"}  # see test_patience_and_keep_best_decide_which_state_is_kept


def training(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> loop.Training:
    """A finished training, which is saved."""
    monkeypatch.setattr(worker, "load_data", lambda *_, **__: separable(np.random.default_rng(0)))
    monkeypatch.setattr("compare.training.steps.CHUNK", 6)
    job = Job(config, "numpy", threads=1, folder=folder)
    made = worker.begin(job, tracks.load("numpy"), Timings(), lambda event: None)
    with Saver(job, made) as saver:
        loop.train(made)
        saver.finish()
    return made


def outcome(made: loop.Training) -> list[float]:
    """The losses of all steps and the figures of all evaluations."""
    figures = ("train_loss", "val_loss", "test_loss", "lr")
    return made.step_loss + [row[name] for row in made.history for name in figures]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        return outcome(training(PLAIN, tmp_path_factory.mktemp("plain"), patch))


def test_every_setting_is_in_a_table():
    names = {field.name for field in dataclasses.fields(Config)}
    assert names == {*CHANGES, *NO_OTHER_RESULT.split(), *STOPPING}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_the_training(name, plain, tmp_path, monkeypatch):
    config = dataclasses.replace(PLAIN, **CHANGES[name])
    assert getattr(config, name) != getattr(PLAIN, name)
    assert outcome(training(config, tmp_path, monkeypatch)) != plain


@pytest.mark.parametrize("name", KNOWN)
def test_every_augmentation_changes_the_training(name, plain, tmp_path, monkeypatch):
    form = KNOWN[name].form.replace("PIXELS", "2").replace("DEGREES", "20").replace("ALPHA", "0.5")
    config = dataclasses.replace(PLAIN, augment=(form,))
    assert outcome(training(config, tmp_path, monkeypatch)) != plain


@pytest.mark.parametrize(
    ("changes", "steps", "kept"),
    [({}, 60, "last"), ({"keep_best": True}, 60, "best"), ({"patience": 2}, None, "last")],
)
def test_patience_and_keep_best_decide_which_state_is_kept(changes, steps, kept, tmp_path, monkeypatch):
    """On a training whose best state is not its last."""
    spoiled: dict[str, Any] = {"steps": 60, "lr": 1.0, "schedule": "constant", "optimizer": "sgd", "optimizer_args": {}}
    made = training(dataclasses.replace(PLAIN, **spoiled, **changes), tmp_path, monkeypatch)
    best = max(made.history, key=lambda row: row["val_accuracy"])
    assert best["step"] < made.step
    assert best["val_accuracy"] > made.history[-1]["val_accuracy"]
    assert made.step == steps if steps else made.step < 60
    assert int(store.restore(tmp_path)[0]["step"]) == {"best": best["step"], "last": made.step}[kept]


def test_the_network_that_predict_and_export_open_has_the_averaged_parameters(tmp_path, monkeypatch):
    made = training(dataclasses.replace(PLAIN, ema=0.9), tmp_path, monkeypatch)
    network, state = open_network(tmp_path), made.state
    x = made.data.test_x[:5]
    np.testing.assert_array_equal(network.logits(x), tracks.load("numpy").logits(state, x))
    for path, leaf in leaves(network.params).items():
        np.testing.assert_array_equal(leaf, leaves(state.ema)[path])
        assert not np.array_equal(leaf, leaves(state.params)[path]), path

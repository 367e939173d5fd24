"""What is added to plain training, three times the same: soft targets, accumulation."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_nn.losses
import torch_nn.losses
from compare import parity, tracks
from compare.config import Config, plan
from compare.errors import UserError
from numpy_nn.losses import LOSSES, correct
from numpy_nn.models import MODELS
from numpy_nn.tree import leaves

SMALL = {"input_shape": (12, 10, 3), "classes": 7, "hidden": (9,)}
CONFIG = Config(
    preset="small mlp",
    model="mlp",
    dataset="random images",
    promise="",
    model_args=SMALL,
    lr=0.05,
    precision="float64",
)


@pytest.fixture(params=tracks.TRACKS)
def track(request):
    """Each track in turn."""
    return tracks.load(request.param)


def trained(track, config: Config, *, snapshot=None, steps: slice = slice(0, 4), threads: int = 1):
    """The state after these of a few steps on random images, and the metrics of each."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (8, 12, *config.model_args["input_shape"]), dtype=np.uint8)
    y = rng.integers(0, 7, (8, 12), dtype=np.int32)
    if snapshot is None:
        snapshot = MODELS[config.model](**config.model_args).init(np.random.default_rng(2))
    arguments = tracks.state_arguments(config, steps=100, threads=threads)
    with parity.exact_jax(config.precision):
        state = track.init_state(snapshot, **arguments, mean=(0.13,) * 3, std=(0.31,) * 3)
        state, metrics = track.train_steps(state, x[steps], y[steps])
        return state, {name: np.asarray(value) for name, value in metrics.items()}


def require_equal(config: Config, steps: int = 10) -> None:
    """Fail with the worst leaf of everything that is out of tolerance."""
    for row, _ in parity.prove(config, list(tracks.TRACKS), steps=steps):
        bad = [check for check in row["checks"] if not check["passed"]]
        assert not bad, f"{row['preset']}: {row['a']} against {row['b']}: {bad}"


# --- soft targets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_args", [{}, {"label_smoothing": 0.1}])
def test_mixed_images_and_labels(loss_args):
    require_equal(dataclasses.replace(CONFIG, augment=("crop:2", "mixup:0.2"), loss_args=loss_args))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_takes_class_numbers_and_distributions(loss, rng):
    outputs, labels = rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    forward, backward = LOSSES[loss]
    values, gradients = [], []
    for each in (labels, np.eye(5)[labels]):
        value, cache = forward(outputs, each)
        gradients.append(backward(1.0, cache))
        in_jax = jax_nn.losses.LOSSES[loss](jnp.asarray(outputs), jnp.asarray(each))
        in_torch = torch_nn.losses.LOSSES[loss](torch.tensor(outputs), torch.tensor(each))
        values += [value, float(in_jax), float(in_torch)]
    assert values == pytest.approx([values[0]] * 6, rel=1e-6)  # JAX computes in float32 here
    np.testing.assert_array_equal(*gradients)


def test_a_distribution_is_answered_by_its_largest_part():
    outputs = np.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]], np.float32)
    labels = np.array([[0.4, 0.6, 0.0], [0.4, 0.6, 0.0], [0.5, 0.5, 0.0]], np.float32)
    assert correct(outputs, labels) == 1
    assert int(jax_nn.losses.correct(jnp.asarray(outputs), jnp.asarray(labels))) == 1
    assert int(torch_nn.losses.correct(torch.tensor(outputs), torch.tensor(labels))) == 1


# --- gradient accumulation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_accumulated_steps_are_the_steps(track, accumulate):
    a, b = (trained(track, dataclasses.replace(CONFIG, accumulate=m)) for m in (1, accumulate))
    for name in a[1]:
        np.testing.assert_allclose(b[1][name], a[1][name], rtol=1e-12)
    after = [leaves(track.to_snapshot(state)) for state, _ in (a, b)]
    for path in after[0]:  # observed: 2e-16
        np.testing.assert_allclose(after[1][path], after[0][path], rtol=0, atol=1e-12, err_msg=path)


def test_accumulation_takes_soft_targets_and_batch_norm():
    args = {"input_shape": (8, 8, 3), "classes": 7, "stages": (1, 1), "channels": (4, 8)}
    config = dataclasses.replace(CONFIG, model="resnet", model_args=args, augment=("mixup:0.2",), accumulate=4)
    require_equal(config, steps=3)


def test_micro_batches_are_sharded_over_threads():
    config = dataclasses.replace(CONFIG, accumulate=3)  # micro-batches of 4 images, on 3 threads
    one, three = (leaves(trained(tracks.load("numpy"), config, threads=n)[0].params) for n in (1, 3))
    for path in one:
        np.testing.assert_allclose(three[path], one[path], rtol=0, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("accumulate", [0, -2, 5])
def test_micro_batches_are_equal(track, accumulate):
    config = dataclasses.replace(CONFIG, accumulate=accumulate)
    with pytest.raises(ValueError, match=f"accumulate {accumulate}|a batch of 12 is not {accumulate} equal"):
        trained(track, config)
    with pytest.raises(UserError, match=f"accumulate {accumulate}: .* 128, and must divide it"):
        plan(config, 1000)

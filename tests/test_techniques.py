"""What is added to plain training, three times the same: soft targets."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_nn.losses
import torch_nn.losses
from compare import parity, tracks
from compare.config import Config
from numpy_nn.losses import LOSSES, correct

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

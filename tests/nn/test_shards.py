"""Every way to share a batch, once and small: two shards that differ make the steps of one device with all of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compare import tracks
from compare.parity.check import exact_jax
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, leaves

ARGS = {
    "input_shape": (4, 4, 2),
    "stages": (1,),
    "channels": (3,),
}  # with batch norm, whose statistics are of the batch
TOLERANCE = 1e-10  # of the largest number in a leaf; observed: 3e-15
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "numpy threads": ("numpy", {"threads": 2}),
    "numpy devices": ("numpy", {"devices": 2}),
    "jax pmap": ("jax", {"devices": 2, "parallel": "pmap"}),
    "jax shard_map": ("jax", {"devices": 2, "parallel": "shard_map"}),
    "jax jit": ("jax", {"devices": 2, "parallel": "jit"}),
    "torch": ("torch", {"devices": 2}),
}


def trained(name: str, **how: Any) -> Tree:
    """Two steps of which the second meets what the first left, and the figures of an evaluation."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (2, 8, 4, 4, 2), dtype=np.uint8), rng.integers(0, 10, (2, 8), dtype=np.int32)
    x[:, :4] //= 8  # the first shard is dark: its statistics and gradients are not those of the batch
    track = tracks.load(name)
    with exact_jax("float64"):
        state = track.init_state(
            MODELS["vgg"](**ARGS).init(np.random.default_rng(1)),
            model="vgg",
            model_args=ARGS,
            optimizer="momentum",
            optimizer_args={"weight_decay": 1e-2, "clip_norm": 1.0},
            schedule_args={"lr": 0.1, "steps": 2},
            precision="float64",
            mean=(0.4, 0.5),
            std=(0.3, 0.2),
            **how,
        )
        state, metrics = track.train_steps(state, x, y)
        found = {"metrics": metrics, "sums": track.eval_batch(state, x[0], y[0]), **track.to_snapshot(state)}
        return {path: np.asarray(leaf) for path, leaf in leaves(found).items()}


@pytest.fixture(scope="module")
def one_device() -> Tree:
    return trained("numpy")


@pytest.mark.parametrize("way", WAYS)
def test_two_shards_make_the_steps_of_one_device(way, one_device):
    name, how = WAYS[way]
    found = trained(name, **how)
    assert found.keys() == one_device.keys()
    for path, expected in one_device.items():
        gap = np.abs(found[path] - expected).max() / max(np.abs(expected).max(), 1e-3)
        assert gap <= TOLERANCE, path

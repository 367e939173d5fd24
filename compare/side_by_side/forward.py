"""The forward pass of a model in each track, in float64, without compilation, as a function of no arguments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx

import jax_nn.models
import numpy_nn.models
import torch_nn.models
from compare.data.idx import load_mnist
from compare.data.text import WINDOW, load_shakespeare
from jax_nn import interop as jax_interop
from numpy_nn.norm import TRAIN
from numpy_nn.tree import Tree, leaves
from torch_nn import interop as torch_interop

BATCH = 4
INPUT = (28, 28, 1)  # MNIST, which is part of the project
# Arguments with which more lines run, or the same lines fewer times.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "cnn": {"batch_norm": True},
    "resnet": {"stages": (1, 1, 1)},
    "gpt": {"input_shape": (WINDOW,)},
}


def arguments(model: str) -> dict[str, Any]:
    """The arguments of the model that runs."""
    return {"input_shape": INPUT, **ARGUMENTS.get(model, {})}


def forwards(model: str) -> dict[str, tuple[str, Callable[[], Any]]]:
    """By track: the folder that its package stands in, and its forward pass in training mode.

    The batch is a few MNIST images, or windows of Shakespeare's plays for a network that reads text.
    """
    network = numpy_nn.models.MODELS[model](**arguments(model))
    snapshot = randomized(network.init(np.random.default_rng(0)), np.random.default_rng(1))
    text = model == "gpt"
    batch: np.ndarray = (
        load_shakespeare().test_x[:BATCH].astype(np.int32) if text else load_mnist().test_x[:BATCH] / 255
    )
    calls = {
        "numpy": lambda: network.forward(snapshot["params"], snapshot["stats"], batch, TRAIN),
        "jax": lambda: in_jax(model, snapshot, batch),
        "torch": lambda: in_torch(model, snapshot, batch),
    }
    packages = {"numpy": numpy_nn, "jax": jax_nn, "torch": torch_nn}
    return {track: (str(Path(*packages[track].__path__).parent), call) for track, call in calls.items()}


def in_jax(model: str, snapshot: Tree, batch: np.ndarray) -> Any:
    """The logits of the JAX track."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), jax.disable_jit():
        network = jax_nn.models.MODELS[model](**arguments(model), rngs=nnx.Rngs(0))
        nnx.update(network, jax_interop.to_jax(snapshot["params"], "float64"))
        if snapshot["stats"]:
            nnx.update(network, jax_interop.to_jax(snapshot["stats"], "float64"))
        return network(jax.numpy.asarray(batch))


def in_torch(model: str, snapshot: Tree, batch: np.ndarray) -> Any:
    """The logits of the PyTorch track."""
    with torch.no_grad():
        network = torch_nn.models.MODELS[model](**arguments(model)).double().to(memory_format=torch.channels_last)
        torch_interop.params_from_tree(network, snapshot["params"])
        torch_interop.stats_from_tree(network, snapshot["stats"])
        x = torch.from_numpy(batch)
        return network(x.permute(0, 3, 1, 2) if x.ndim == 4 else x)


def randomized(snapshot: Tree, rng: np.random.Generator) -> Tree:
    """The same snapshot with every parameter changed a little, so that no bias is zero and no scale is one."""
    for leaf in leaves(snapshot["params"]).values():
        leaf += 0.05 * rng.standard_normal(leaf.shape)
    return snapshot

"""Floating-point operations of a training step, counted on the hand-written network.

Multiplying (m, k) by (k, n) takes 2·m·k·n operations, and matrix products are
all that is counted: the rest of a network (biases, activations, updates) is
some per cent of it. The NumPy networks are run once, forward and backward, on
arrays that note the size of every product they take part in; that one count
serves all tracks, since they compute the same function.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compare import tracks
from compare.config import CHUNK, Config
from numpy_nn.models import MODELS
from numpy_nn.tree import tree_map


class Counted(np.ndarray):
    """An array that adds the operations of its matrix products to ``Counted.flops``."""

    flops = 0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Do what NumPy does, and count if it was a matrix product."""
        plain = [np.asarray(value) if isinstance(value, Counted) else value for value in inputs]
        if "out" in kwargs:
            kwargs["out"] = tuple(value.view(np.ndarray) for value in kwargs["out"])
        result = getattr(ufunc, method)(*plain, **kwargs)
        if ufunc is np.matmul and plain[0].ndim > 1:  # a row times a matrix is a sum, cleverly written
            Counted.flops += 2 * math.prod(result.shape) * plain[0].shape[-1]
        return result.view(Counted) if isinstance(result, np.ndarray) else result


def training_flops(config: Config) -> int:
    """Operations of the forward and backward pass per image in training."""
    network = MODELS[config.model](**config.model_args)
    variables = tree_map(lambda leaf: leaf.view(Counted), network.init(np.random.default_rng(0)))
    shape = tracks.model_argument(config, "input_shape")
    images = np.random.default_rng(1).standard_normal((2, *shape)).view(Counted)
    Counted.flops = 0
    logits, _, cache = network.forward(variables["params"], variables["stats"], images, train=True)
    network.backward(np.ones_like(logits), cache)
    return Counted.flops // len(images)


def chunk_of(config: Config, work: float, longest: int = CHUNK) -> int:
    """Steps that do about ``work`` operations together, 1 to ``longest``."""
    return max(1, min(longest, round(work / (training_flops(config) * config.batch_size))))

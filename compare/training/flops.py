"""Floating-point operations and bytes of a training step, counted on the hand-written network.

Multiplying (m, k) by (k, n) takes 2·m·k·n operations, and matrix products are
all that is counted: the rest of a network (biases, activations, updates) is
some per cent of it. The NumPy networks are run once, forward and backward, on
arrays that note the size of every product they take part in; that one count
serves all tracks, since they compute the same function, and is that of the function, not of a form that does more
to be faster.

Bytes are those that pass between memory and cores if no cache outlasts the way
forward: what it keeps for the way back, the parameters, and what the update reads
and writes. A framework that keeps more moves more; one that fuses, less.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compare import tracks
from compare.config import CHUNK, Config
from numpy_nn import conv, optim
from numpy_nn.models import MODELS
from numpy_nn.tree import cast, leaves, tree_map


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
    images = _two_images(config).view(Counted)
    Counted.flops = 0
    fast, conv.PAIRS = conv.PAIRS, False
    try:
        logits, _, cache = network.forward(variables["params"], variables["stats"], images, train=True)
        network.backward(np.ones_like(logits), cache)
    finally:
        conv.PAIRS = fast
    return Counted.flops // len(images)


def training_bytes(config: Config) -> int:
    """Bytes that a step of ``batch_size`` images moves, in float32.

    What forward keeps is written once and read once. A parameter is read forward, backward and by the update, which
    writes it; its gradient is written and read, and so is each of the optimizer's moments.
    """
    network = MODELS[config.model](**config.model_args)
    variables = cast(network.init(np.random.default_rng(0)), "float32")
    images = _two_images(config).astype("float32")
    _, _, cache = network.forward(variables["params"], variables["stats"], images, train=True)
    params = leaves(variables["params"]).values()
    kept = _arrays(cache)
    for param in params:
        kept.pop(id(_owner(param)), None)
    activations = sum(array.nbytes for array in kept.values()) * config.batch_size // len(images)
    memory = leaves(optim.init(variables["params"], config.optimizer)).values()
    moments = sum(array.nbytes for array in memory if array.ndim)  # without the counter
    return 2 * activations + 6 * sum(param.nbytes for param in params) + 2 * moments


def _two_images(config: Config) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(
        (2, *tracks.model_argument(config.model, config.model_args, "input_shape"))
    )


def _owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory this is, or is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _arrays(cache: Any) -> dict[int, np.ndarray]:
    """Every array in nested tuples, lists and dictionaries, once."""
    if isinstance(cache, np.ndarray):
        owner = _owner(cache)
        return {id(owner): owner}
    inside = cache.values() if isinstance(cache, dict) else cache if isinstance(cache, tuple | list) else ()
    return {key: array for value in inside for key, array in _arrays(value).items()}


def chunk_of(config: Config, work: float, longest: int = CHUNK) -> int:
    """Steps that do about ``work`` operations together, 1 to ``longest``."""
    return max(1, min(longest, round(work / (training_flops(config) * config.batch_size))))

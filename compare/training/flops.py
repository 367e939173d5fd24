"""Floating-point operations and bytes of a training step, counted for the NumPy network.

Multiplying (m, k) by (k, n) takes 2·m·k·n FLOPs, and only the matmuls of layers are counted: the rest of a network
(biases, activations, pooling, updates) is some per cent of it. The NumPy network runs forward once, and each layer is
counted from the shapes it met. The count serves all tracks, which compute the same function; FLOPs that one adds in
order to be faster do not count.

Bytes are those that pass between memory and cores if caches keep nothing from the forward pass to the backward pass:
what forward keeps, the parameters, and what the update reads and writes. A framework that keeps more moves more; one
that fuses, less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from compare import networks, tracks
from compare.config import Config
from compare.errors import UserError
from compare.training.call_recorder import watching
from compare.training.steps import CHUNK
from numpy_nn import models, optim
from numpy_nn.norm import TRAIN
from numpy_nn.tree import cast, leaves

# The NumPy functions with matmuls, and their modules.
MULTIPLYING = {
    "linear_forward": "numpy_nn.layers",
    "conv2d_forward": "numpy_nn.conv",
    "rnn_forward": "numpy_nn.recurrent",
    "lstm_forward": "numpy_nn.recurrent",
    "scaled_dot_product_attention_forward": "numpy_nn.attention",
}


def forward_flops(name: str, values: Mapping[str, Any], y: np.ndarray) -> int:
    """FLOPs of the matmuls in one call of a function of ``MULTIPLYING``, from the shapes of its variables."""
    if name == "scaled_dot_product_attention_forward":
        return 2 * 2 * y.size * values["k"].shape[2]  # q kᵀ and P v
    if name in ("rnn_forward", "lstm_forward"):  # x Wᵢ and h Wₕ at every step
        n, t, _ = y.shape
        return 2 * n * t * sum(layer["kernel"].size for layer in values["params"].values())
    return 2 * y.size * math.prod(values["kernel"].shape[:-1])


def training_flops(config: Config) -> int:
    """FLOPs of the forward and backward pass per image, or window of a text, in training."""
    if networks.is_file(config.model):
        return _flops_in_torch(config)
    network = models.get(config.model)(**config.model_args)
    variables = network.init(np.random.default_rng(0))
    images = _two_examples(config)
    forward: list[tuple[str, int]] = []

    def note(name: str, values: Mapping[str, Any], answer: Any) -> None:
        forward.append((name, forward_flops(name, values, answer[0])))

    with watching(MULTIPLYING, note):
        network.forward(variables["params"], variables["stats"], images, TRAIN)
    # Two matmuls of the same size in backward, for dx and dW. The first layer needs no dx, but a recurrent one has it,
    # and so has one that follows an embedding.
    total = 3 * sum(flops for _, flops in forward)
    first, flops = forward[0]
    if first in ("linear_forward", "conv2d_forward") and images.ndim == 4:
        total -= flops
    return total // len(images)


def _flops_in_torch(config: Config) -> int:
    """The same for a network of the user, whose NumPy functions are not known: counted in PyTorch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = networks.classes_of(config.model).get("torch")
    if network is None:
        raise UserError(f"{config.model}: FLOPs are counted in PyTorch, and the file has no class Torch: write one")
    examples = torch.from_numpy(_two_examples(config))
    with FlopCounterMode(display=False) as counter:
        made = network(**config.model_args)
        made(examples.permute(0, 3, 1, 2) if examples.ndim == 4 else examples).sum().backward()
    return counter.get_total_flops() // len(examples)


def training_bytes(config: Config) -> int:
    """Bytes that a step of ``batch_size`` images moves, in float32.

    What forward keeps is written once and read once. A parameter is read forward, backward and by the update, which
    writes it; its gradient is written and read, and so is each of the optimizer's slots.
    """
    network = models.get(config.model)(**config.model_args)
    variables = cast(network.init(np.random.default_rng(0)), "float32")
    images = _two_examples(config)
    _, _, cache = network.forward(variables["params"], variables["stats"], images, TRAIN)
    params = leaves(variables["params"]).values()
    kept = _arrays(cache)
    for param in params:
        kept.pop(id(_owner(param)), None)
    activations = sum(array.nbytes for array in kept.values()) * config.batch_size // len(images)
    opt = leaves(optim.init(variables["params"], config.optimizer)).values()
    slots = sum(array.nbytes for array in opt if array.ndim)  # without the counter
    return 2 * activations + 6 * sum(param.nbytes for param in params) + 2 * slots


def _two_examples(config: Config) -> np.ndarray:
    """Two images float32 (2, h, w, c), or windows of a text int32 (2, t)."""
    shape = (2, *tracks.model_argument(config.model, config.model_args, "input_shape"))
    rng = np.random.default_rng(1)
    if len(shape) == 2:
        return rng.integers(0, tracks.model_argument(config.model, config.model_args, "classes"), shape, np.int32)
    return rng.standard_normal(shape, np.float32)


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

"""The activations of each layer of a network for one image, computed by the NumPy track.

While the NumPy network runs, ``compare.training.call_recorder`` records what the functions of ``numpy_nn``
return, so no
model is duplicated here. A layer is shown after the activation that follows it, including a max pool, norm or
shortcut in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compare.results.arrays import pack
from compare.training.call_recorder import watching
from compare.weights.network import Network
from numpy_nn.layers import ACTIVATIONS

POOL = "max_pool_forward"
LAYERS = {
    "conv2d_forward": "numpy_nn.conv",
    "linear_forward": "numpy_nn.layers",
    "rnn_forward": "numpy_nn.recurrent",
    "lstm_forward": "numpy_nn.recurrent",
    "multi_head_attention_forward": "numpy_nn.attention",
}
AFTER = {f"{name}_forward": "numpy_nn.layers" for name in ACTIVATIONS} | {POOL: "numpy_nn.conv"}

MOST_LAYERS, MOST_MAPS, MOST_UNITS = 12, 32, 1024  # shown at most, evenly spaced
SIDE = 64  # pixels per side of a map; larger maps are subsampled


@dataclass(frozen=True)
class Layer:
    """A layer's label and output y (1, ...)."""

    label: str
    y: np.ndarray


def activations(network: Network, x: np.ndarray) -> list[dict[str, Any]]:
    """Return ``label``, ``maps`` int8 (m, h, w), channel count ``of`` and ``largest`` of each layer but the logits.

    x is uint8 (h, w, c). Maps are scaled so that 127 is the largest absolute value of the layer. The units of a linear
    layer are maps of one pixel; a sequence is one map with time on the vertical axis.
    """
    seen = [layer for layer in recorded(network, x)[:-1] if not (layer.label.startswith("linear") and layer.y.ndim > 2)]
    return [described(seen[k]) for k in evenly(len(seen), MOST_LAYERS)]


def recorded(network: Network, x: np.ndarray) -> list[Layer]:
    """Return all layers in the order of computation."""
    found: list[Layer] = []

    def note(name: str, values: Mapping[str, Any], answer: Any) -> None:
        if name in LAYERS:
            found.append(Layer(label(name, values), answer[0]))
        elif found and (name == POOL or found[-1].y.shape == answer[0].shape):
            found[-1] = Layer(f"{found[-1].label}, {words(name)}", answer[0])

    with watching(LAYERS | AFTER, note):
        network.logits(x[None])
    return found


def label(name: str, values: Mapping[str, Any]) -> str:
    """``conv 5x5 1→16``, ``linear 784→256``, ``lstm``."""
    if "kernel" not in values:
        return words(name)
    *window, i, o = values["kernel"].shape
    return " ".join([words(name), *(["x".join(map(str, window))] if window else []), f"{i}→{o}"])


def words(name: str) -> str:
    """``conv`` of ``conv2d_forward``, ``max pool`` of ``max_pool_forward``."""
    return name.removesuffix("_forward").removesuffix("2d").replace("_", " ")


def described(layer: Layer) -> dict[str, Any]:
    """Convert a layer to the JSON that the page draws."""
    y = layer.y[0]
    if y.ndim == 3:  # (h, w, c)
        step = -(-max(y.shape[:2]) // SIDE)
        maps = np.moveaxis(y[::step, ::step], 2, 0)[evenly(y.shape[2], MOST_MAPS)]
    elif y.ndim == 2:  # (t, d)
        maps = y[None]
    else:  # (d,)
        maps = y[evenly(len(y), MOST_UNITS), None, None]
    largest = float(np.abs(y).max())
    of = len(y) if y.ndim == 1 else y.shape[-1]
    return {"label": layer.label, "maps": pack(scaled(maps, largest)), "of": of, "largest": largest}


def scaled(maps: np.ndarray, largest: float) -> np.ndarray:
    """Convert maps to int8, 127 for ``largest``."""
    return np.rint(127 * maps / (largest or 1)).astype(np.int8)


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` evenly spaced indices below ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))

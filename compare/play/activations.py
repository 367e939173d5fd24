"""What a network makes of one image on its way, layer by layer: seen in NumPy, whose every function can be watched.

No model is written down again for it: while the hand-written network computes, the functions of ``numpy_nn`` that it
calls are watched (``compare.training.call_recorder``), and what they return is kept. A layer is shown as it leaves the
activation that follows it, with a max pool, a norm or a shortcut between the two, where there is one.
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

MOST_LAYERS, MOST_MAPS, MOST_UNITS = 12, 32, 1024  # that are shown, evenly chosen
SIDE = 64  # pixels of a map; of larger ones every second, third, ...


@dataclass(frozen=True)
class Layer:
    """A layer, and what left it: y (1, ...)."""

    label: str
    y: np.ndarray


def activations(network: Network, x: np.ndarray) -> list[dict[str, Any]]:
    """For each layer but the last (the logits): ``label``, ``maps`` int8 (m, h, w) of its ``of`` channels, ``largest``.

    x is uint8 (h, w, c). 127 stands for the largest number of a layer; a layer without a plane has maps of one pixel,
    a sequence is one map, with time downwards.
    """
    seen = [layer for layer in observed(network, x)[:-1] if not (layer.label.startswith("linear") and layer.y.ndim > 2)]
    return [described(seen[k]) for k in evenly(len(seen), MOST_LAYERS)]


def observed(network: Network, x: np.ndarray) -> list[Layer]:
    """All layers, in the order in which they were computed."""
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
    """A layer as the page draws it."""
    y = layer.y[0]
    if y.ndim == 3:  # (h, w, c)
        step = -(-max(y.shape[:2]) // SIDE)
        maps = np.moveaxis(y[::step, ::step], 2, 0)[evenly(y.shape[2], MOST_MAPS)]
    elif y.ndim == 2:  # (t, d)
        maps = y[None]
    else:  # (d,)
        maps = y[evenly(len(y), MOST_UNITS), None, None]
    largest = float(np.abs(y).max())
    scaled = np.rint(127 * maps / (largest or 1)).astype(np.int8)
    return {
        "label": layer.label,
        "maps": pack(scaled),
        "of": len(y) if y.ndim == 1 else y.shape[-1],
        "largest": largest,
    }


def evenly(count: int, most: int) -> np.ndarray:
    """Numbers of at most so many, evenly chosen among ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))

"""The activations of each layer of a network for one image, and their gradients, computed by the NumPy track.

While the NumPy network runs, ``compare.training.call_recorder`` records what the functions of ``numpy_nn`` return, so
no model is duplicated here. A layer is shown after the activation that follows it, including a max pool, norm or
shortcut in between. Its gradient is the dy that the backward function of that activation is called with.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from compare.play.gradients import forward
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


@dataclass
class Layer:
    """A layer's label, output y (1, ...), functions with the activation's, and the gradient with respect to y."""

    label: str
    y: np.ndarray
    functions: list[str]
    cache: Any  # of the last function
    dy: np.ndarray | None = None


def activations(network: Network, x: np.ndarray, dlogits: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Return ``label``, ``maps`` int8 (m, h, w), channel count ``of``, ``largest`` and ``code`` of all but the logits.

    x is uint8 (h, w, c). Maps are scaled so that 127 is the largest absolute value of the layer. The units of a linear
    layer are maps of one pixel; a sequence is one map with time on the vertical axis. With dlogits (1, v), the layer's
    ``gradient`` is that of dlogits · logits, like ``maps``, and ``steepest`` its largest absolute value; a recurrent
    network has none, because only its last state is used.
    """
    layers = recorded(network, x, dlogits)[:-1]
    seen = [layer for layer in layers if not (layer.label.startswith("linear") and layer.y.ndim > 2)]
    return [described(seen[k]) for k in evenly(len(seen), MOST_LAYERS)]


def recorded(network: Network, x: np.ndarray, dlogits: np.ndarray | None = None) -> list[Layer]:
    """Return all layers in the order of computation."""
    found: list[Layer] = []

    def computed(name: str, values: Mapping[str, Any], answer: Any) -> None:
        y, cache = answer[0], answer[-1]
        if name in LAYERS:
            found.append(Layer(label(name, values), y, [name], cache))
        elif found and (name == POOL or found[-1].y.shape == y.shape):
            last = found[-1]
            found[-1] = Layer(f"{last.label}, {words(name)}", y, [*last.functions, name], cache)

    def differentiated(name: str, values: Mapping[str, Any], _: Any) -> None:
        for layer in found:
            if layer.cache is values["cache"] and layer.functions[-1] == name.replace("backward", "forward"):
                layer.dy = values.get("dy")

    state = network.state("numpy")
    with watching(LAYERS | AFTER, computed):
        cache = forward(state, x[None])
    if dlogits is not None:
        backward = {name.replace("forward", "backward"): module for name, module in (LAYERS | AFTER).items()}
        with watching(backward, differentiated, on="call"):
            state.model.backward(dlogits, cache)
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
    y, dy = layer.y[0], None if layer.dy is None else layer.dy[0]
    shown = {"of": len(y) if y.ndim == 1 else y.shape[-1], "largest": float(np.abs(y).max())}
    if dy is not None:
        steepest = float(np.abs(dy).max())
        shown |= {"gradient": pack(scaled(pictures(dy), steepest)), "steepest": steepest}
    code = [line for name in layer.functions for line in documented(name, (LAYERS | AFTER)[name])]
    return {"label": layer.label, "maps": pack(scaled(pictures(y), shown["largest"])), "code": code, **shown}


def pictures(y: np.ndarray) -> np.ndarray:
    """Choose what is drawn of an output, or of its gradient: (h, w, c), (t, d) or (d,) -> (m, h, w)."""
    if y.ndim == 3:
        step = -(-max(y.shape[:2]) // SIDE)
        return np.moveaxis(y[::step, ::step], 2, 0)[evenly(y.shape[2], MOST_MAPS)]
    return y[None] if y.ndim == 2 else y[evenly(len(y), MOST_UNITS), None, None]


@functools.cache
def documented(name: str, module: str) -> list[dict[str, str]]:
    """Return ``where`` and ``says``, the first line of the docstring, of a forward function and its backward one."""
    found = []
    for each in (name, name.replace("forward", "backward")):
        function = inspect.unwrap(getattr(import_module(module), each))
        where = f"{module.replace('.', '/')}.py:{function.__code__.co_firstlineno}"
        found.append({"where": where, "says": (inspect.getdoc(function) or "").partition("\n")[0]})
    return found


def scaled(maps: np.ndarray, largest: float) -> np.ndarray:
    """Convert maps to int8, 127 for ``largest``."""
    return np.rint(127 * maps / (largest or 1)).astype(np.int8)


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` evenly spaced indices below ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))

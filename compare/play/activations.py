"""The activations of each layer of a network for one image, and their gradients, computed by the NumPy track.

While the NumPy network runs, ``compare.training.call_recorder`` records what the functions of ``numpy_nn`` return, so
no model is duplicated here. A layer is shown after the activation that follows it, including a max pool, norm or
shortcut in between. Its gradient is the dy that the backward function of that activation is called with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    kernel: np.ndarray | None  # (kh, kw, i, o) or (i, o)
    bias: np.ndarray | None
    dy: np.ndarray | None = None


def activations(network: Network, x: np.ndarray, dlogits: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Return ``label``, ``maps`` int8 (m, h, w), channel count ``of`` and ``largest`` of all but the logits.

    x is uint8 (h, w, c). Maps are scaled so that 127 is the largest absolute value of the layer. The units of a linear
    layer are maps of one pixel; a sequence is one map with time on the vertical axis. With dlogits (1, v), the layer's
    ``gradient`` is that of dlogits · logits, like ``maps``, and ``steepest`` its largest absolute value; a recurrent
    network has none, because only its last state is used.
    """
    layers = recorded(network, x, dlogits)
    return [described(layers[k]) for k in shown(layers)]


def shown(layers: Sequence[Layer]) -> list[int]:
    """Return the numbers of the layers that the page shows: not the logits, nor the linear layers of single tokens."""
    seen = [k for k, layer in enumerate(layers[:-1]) if not (layer.label.startswith("linear") and layer.y.ndim > 2)]
    return [seen[k] for k in evenly(len(seen), MOST_LAYERS)]


def recorded(network: Network, x: np.ndarray, dlogits: np.ndarray | None = None) -> list[Layer]:
    """Return all layers in the order of computation."""
    state = network.state("numpy")
    found, cache = watched(lambda: forward(state, x[None]))

    def differentiated(name: str, values: Mapping[str, Any], _: Any) -> None:
        for layer in found:
            if layer.cache is values["cache"] and layer.functions[-1] == name.replace("backward", "forward"):
                layer.dy = values.get("dy")

    if dlogits is not None:
        backward = {name.replace("forward", "backward"): module for name, module in (LAYERS | AFTER).items()}
        with watching(backward, differentiated, on="call"):
            state.model.backward(dlogits, cache)
    return found


def watched(run: Callable[[], Any]) -> tuple[list[Layer], Any]:
    """Call ``run``; return the layers that it computes, in that order, and what it returns."""
    found: list[Layer] = []

    def computed(name: str, values: Mapping[str, Any], answer: Any) -> None:
        y, cache = answer[0], answer[-1]
        if name in LAYERS:
            found.append(Layer(label(name, values), y, [name], cache, values.get("kernel"), values.get("bias")))
        elif found and (name == POOL or found[-1].y.shape == y.shape):
            last = found[-1]
            parts = [*last.functions, name]
            found[-1] = Layer(f"{last.label}, {words(name)}", y, parts, cache, last.kernel, last.bias)

    with watching(LAYERS | AFTER, computed):
        answer = run()
    return found, answer


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
    found = {"label": layer.label, **drawn(layer.y[0])}
    if layer.dy is not None:
        slopes = drawn(layer.dy[0])
        found |= {"gradient": slopes["maps"], "steepest": slopes["largest"]}
    return found


def drawn(y: np.ndarray) -> dict[str, Any]:
    """Return an array (h, w, c), (t, d) or (d,) as ``maps`` int8 (m, h, w), ``of`` how many, and the ``largest``."""
    largest = float(np.abs(y).max())
    of = len(y) if y.ndim == 1 else y.shape[-1]
    return {"maps": pack(scaled(pictures(y), largest)), "of": of, "largest": largest}


def pictures(y: np.ndarray) -> np.ndarray:
    """Choose what is drawn of an output, or of its gradient: (h, w, c), (t, d) or (d,) -> (m, h, w)."""
    if y.ndim == 3:
        step = -(-max(y.shape[:2]) // SIDE)
        return np.moveaxis(y[::step, ::step], 2, 0)[evenly(y.shape[2], MOST_MAPS)]
    return y[None] if y.ndim == 2 else y[evenly(len(y), MOST_UNITS), None, None]


def scaled(maps: np.ndarray, largest: float) -> np.ndarray:
    """Convert maps to int8, 127 for ``largest``."""
    return np.rint(127 * maps / (largest or 1)).astype(np.int8)


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` evenly spaced indices below ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))

"""A unit of a layer: the weights that compute it, and the pixels that it sees.

The receptive field is measured, so that any network has one: where all weights are positive, a white row (or column) of
a black picture makes exactly those units larger that see it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compare.errors import UserError
from compare.play.activations import MOST_MAPS, MOST_UNITS, SIDE, Layer, evenly, recorded, scaled, shown, watched
from compare.results.arrays import pack
from compare.weights.network import Network
from numpy_nn.norm import EVAL
from numpy_nn.tree import Tree


def unit(network: Network, layer: int, at: tuple[int, int, int]) -> dict[str, Any]:
    """Return the weights and the receptive field of the unit that the page shows at ``at`` (map, row, column).

    ``rows`` and ``columns`` are the first and the last of the picture that the unit sees. ``weights`` are maps int8
    (i, kh, kw) of a kernel, or those of a linear unit in the shape of the layer below; None where there are none.
    """
    x = np.full(network.input_shape, 128, np.uint8)
    layers = recorded(network, x)
    numbers = shown(layers)
    if not 0 <= layer < len(numbers):
        raise UserError(f"invalid layer {layer}: expected a number from 0 to {len(numbers) - 1}")
    number = numbers[layer]
    index = place(layers[number].y[0], at)
    h = network.input_shape[0]
    sees = np.array([each[index[:-1]].any() for each in seeing(network, number)])
    rows, columns = np.flatnonzero(sees[:h]), np.flatnonzero(sees[h:])
    if not len(rows) or not len(columns):
        raise UserError("this unit does not depend on the picture")
    below = x if number == 0 else layers[number - 1].y[0]
    return {
        "index": index,
        "rows": [int(rows[0]), int(rows[-1])],
        "columns": [int(columns[0]), int(columns[-1])],
        **weights(layers[number], index[-1], below.shape),
    }


def place(y: np.ndarray, at: tuple[int, int, int]) -> tuple[int, ...]:
    """Return the index into a layer's output of what the page draws at (map, row, column)."""
    m, row, column = at
    index: tuple[int, ...]
    if y.ndim == 3:
        step = -(-max(y.shape[:2]) // SIDE)
        channels = evenly(y.shape[2], MOST_MAPS)
        index = (row * step, column * step, int(channels[m]) if 0 <= m < len(channels) else -1)
    elif y.ndim == 2:
        index = (row, column)
    else:
        units = evenly(len(y), MOST_UNITS)
        index = (int(units[m]) if 0 <= m < len(units) else -1,)
    if not all(0 <= k < size for k, size in zip(index, y.shape, strict=True)):
        raise UserError(f"no unit at map {m}, row {row}, column {column}: expected one of an output of {y.shape}")
    return index


def weights(layer: Layer, channel: int, below: tuple[int, ...]) -> dict[str, Any]:
    """Return ``weights``, how many maps ``of`` there are, the ``largest`` and the ``bias`` of a unit's channel."""
    if layer.kernel is None or layer.y.ndim == 3:
        return {"weights": None}
    kernel = layer.kernel[..., channel]  # (kh, kw, i), or (i,)
    if kernel.ndim == 1:
        kernel = kernel.reshape(below if len(below) == 3 and kernel.size == np.prod(below) else (1, 1, -1))
    maps = np.moveaxis(kernel, 2, 0)
    largest = float(np.abs(maps).max())
    chosen = maps[evenly(len(maps), MOST_MAPS if maps[0].size > 1 else MOST_UNITS)]
    bias = None if layer.bias is None else float(layer.bias[channel])
    return {"weights": pack(scaled(chosen, largest)), "of": len(maps), "largest": largest, "bias": bias}


def seeing(network: Network, number: int) -> np.ndarray:
    """Return which units of a layer see which rows and columns of the picture: bool (h + w, ...)."""
    h, w, c = network.input_shape
    state, rng = network.state("numpy"), np.random.default_rng(0)
    params, stats = (renumbered(tree, rng) for tree in (state.params, state.stats))
    pictures = np.zeros((1 + h + w, h, w, c))
    for k in range(h):
        pictures[1 + k, k] = 1
    for k in range(w):
        pictures[1 + h + k, :, k] = 1
    layers, _ = watched(lambda: state.model.forward(params, stats, pictures, EVAL))
    y = layers[number].y
    return y[1:] != y[:1]


def renumbered(tree: Tree, rng: np.random.Generator) -> Tree:
    """Return parameters or statistics with which a sum is a mean with positive weights, and a norm does nothing.

    Kernels get positive random numbers, because a layer norm would hide equal ones.
    """

    def renumber(name: str, leaf: Any) -> Any:
        if isinstance(leaf, dict):
            return renumbered(leaf, rng)
        if name in ("scale", "var"):
            return np.ones(leaf.shape)
        return (
            rng.uniform(0.5, 1.5, leaf.shape) / (leaf.size / leaf.shape[-1]) if leaf.ndim > 1 else np.zeros(leaf.shape)
        )

    return {name: renumber(name, leaf) for name, leaf in tree.items()}

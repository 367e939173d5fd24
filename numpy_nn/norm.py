"""Normalisation: subtract a mean, divide by a standard deviation, then scale and shift by learned parameters.

Batch norm takes mean and variance of a channel over all images and pixels, layer norm those of one position over its
features. In both, x acts on y in three ways: directly, through the mean and through the variance. Hence the three
terms of dx.

Long rows: ``x - mean`` of an image (n, h, w, c) and a vector (c,) is a loop over c numbers, started n·h·w times, and
for 16 channels the start of a loop costs more than its arithmetic. Batch norm therefore sees an image as one row of
h·w·c numbers, and repeats the vector for each pixel, which is several times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, reduce
from operator import getitem
from typing import Any

import numpy as np

from numpy_nn.layers import channel_sums
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree

Cache = Any

EPS = 1e-5  # added to every variance; written out because the frameworks differ
MOMENTUM = 0.9  # running statistics ← 0.9 · running + 0.1 · batch


@dataclass(frozen=True)
class Mode:
    """How a network runs: in training or not, and as one of how many equal shards of a batch.

    ``all_mean`` averages an array over the shards. Only batch norm reads the mode.
    """

    train: bool
    shards: int = 1
    all_mean: Callable[[Array], Array] = np.asarray  # the array itself: the mean over one shard


TRAIN, EVAL = Mode(train=True), Mode(train=False)


def norm_init(c: int) -> Tree:
    """Parameters of either norm: ``scale (c,)`` one, ``bias (c,)`` zero."""
    return {"scale": np.ones(c), "bias": np.zeros(c)}


def stats_init(c: int) -> Tree:
    """Running statistics of a batch norm: ``mean (c,)`` zero, ``var (c,)`` one."""
    return {"mean": np.zeros(c), "var": np.ones(c)}


class Frozen(Tree):
    """Running statistics of a batch norm that is not trained: used in training too, and never changed."""


def freeze(stats: Tree, norms: Iterable[str]) -> Tree:
    """The same running statistics; those of the norms at these paths become ``Frozen``."""
    for path in norms:
        *parents, name = path.split("/")
        owner = reduce(getitem, parents, stats)
        owner[name] = Frozen(owner[name])
    return stats


# --- batch norm -------------------------------------------------------------------------------------------------------


def batch_norm_forward(
    x: Float[Array, "n *hw c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    stats: Tree,
    mode: Mode = EVAL,
) -> tuple[Float[Array, "n *hw c"], Tree, Cache]:
    """y = γ x̂ + β,  x̂ = (x - μ)/√(σ² + ε)  (Ioffe & Szegedy 2015, arXiv:1502.03167).

    In training μ and σ² = Σ (x - μ)²/N are those of the batch (of all shards together), and the new running
    statistics are returned: ``mean`` follows μ, ``var`` the unbiased σ² N/(N - 1), as in PyTorch. Outside training,
    and where ``stats`` is ``Frozen``, μ and σ² are the running statistics. Raises ValueError if N < 2 in training.
    """
    train = mode.train and not isinstance(stats, Frozen)
    shape, c = x.shape, x.shape[-1]
    x = x.reshape(len(x), -1)  # an image a row
    tile = partial(np.tile, reps=x.shape[1] // c)  # one number per channel -> a row

    def channel_means(rows: Array) -> Array:
        return mode.all_mean(channel_sums(rows.reshape(-1, c)) / (rows.size // c))

    mean = channel_means(x) if train else stats["mean"]
    normed = x - tile(mean)
    var = channel_means(normed * normed) if train else stats["var"]
    rstd = 1 / np.sqrt(var + EPS)
    normed *= tile(rstd)
    y = normed * tile(scale)
    y += tile(bias)
    if train:
        stats = updated(stats, mean, var, x.size // c * mode.shards)
    return y.reshape(shape), stats, (normed, rstd, scale, train, mode.all_mean)


def updated(stats: Tree, mean: Float[Array, " c"], var: Float[Array, " c"], size: int) -> Tree:
    """Running statistics after a batch of N = ``size`` values per channel, with the variance made unbiased."""
    if size < 2:
        raise ValueError("batch norm trains on at least two values per channel; this batch has one")
    batch = {"mean": mean, "var": var * (size / (size - 1))}
    return {name: MOMENTUM * stats[name] + (1 - MOMENTUM) * batch[name] for name in batch}


def batch_norm_backward(
    dy: Float[Array, "n *hw c"], cache: Cache
) -> tuple[Float[Array, "n *hw c"], Float[Array, " c"], Float[Array, " c"]]:
    """dγ = Σ dy x̂,  dβ = Σ dy,  dx = γ/√(σ² + ε) · (dy - Σ dy/N - x̂ Σ dy x̂/N); without training the sums are 0.

    Adding a constant to all x of a channel, or multiplying all by one, changes no x̂. So dx must be orthogonal to 1
    and to x̂: the two sums are the components of dy along them, and are subtracted.
    """
    normed, rstd, scale, train, all_mean = cache
    shape, c = dy.shape, dy.shape[-1]
    dy = dy.reshape(len(dy), -1)
    tile = partial(np.tile, reps=dy.shape[1] // c)
    # y = γ x̂ + β
    dbias = channel_sums(dy.reshape(-1, c))
    dscale = channel_sums((dy * normed).reshape(-1, c))
    # x̂ = (x - μ)/√(σ² + ε), where μ and σ² depend on x
    dx = dy
    if train:
        size = dy.size // c
        dx = normed * tile(-all_mean(dscale / size))
        dx -= tile(all_mean(dbias / size))
        dx += dy
    dx = dx * tile(scale * rstd)
    return dx.reshape(shape), dscale, dbias


# --- layer norm -------------------------------------------------------------------------------------------------------


def row_means(x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
    """Mean of every row, as a column: x times a vector of 1/d, which is faster than ``x.mean(axis=1)``."""
    d = x.shape[1]
    return (x @ np.full(d, 1 / d, x.dtype))[:, None]


def layer_norm_forward(
    x: Float[Array, "*n d"], scale: Float[Array, " d"], bias: Float[Array, " d"], *, eps: float = EPS
) -> tuple[Float[Array, "*n d"], Cache]:
    """y = γ x̂ + β,  x̂ = (x - μ)/√(σ² + ε), μ and σ² over d (Ba, Kiros & Hinton 2016, arXiv:1607.06450)."""
    rows = x.reshape(-1, x.shape[-1])
    mean = row_means(rows)
    normed = rows - mean
    rstd = 1 / np.sqrt(row_means(normed * normed) + eps)
    normed *= rstd
    y = normed * scale
    y += bias
    return y.reshape(x.shape), (normed, rstd, scale)


def layer_norm_backward(
    dy: Float[Array, "*n d"], cache: Cache
) -> tuple[Float[Array, "*n d"], Float[Array, " d"], Float[Array, " d"]]:
    """dγ = Σₙ dy x̂,  dβ = Σₙ dy,  dx̂ = γ dy,  dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂))/√(σ² + ε)."""
    normed, rstd, scale = cache
    rows = dy.reshape(normed.shape)
    # y = γ x̂ + β
    dbias = channel_sums(rows)
    dscale = channel_sums(rows * normed)
    dnormed = rows * scale
    # x̂ = (x - μ)/√(σ² + ε): dx is orthogonal to 1 and to x̂ again, here within each row
    dx = normed * -row_means(dnormed * normed)
    dx -= row_means(dnormed)
    dx += dnormed
    dx *= rstd
    return dx.reshape(dy.shape), dscale, dbias

"""Normalisation: subtract a mean, divide by a deviation, then scale and shift by what is learned.

Batch norm takes mean and variance of a channel over all images and pixels, layer
norm those of one position over its features. In both, x acts on y in three ways:
directly, through the mean and through the variance; hence the three terms of dx.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np

from numpy_nn.layers import channel_sums
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree

Cache = Any

EPS = 1e-5  # added to every variance; written out because the frameworks differ
OLD, NEW = 0.9, 0.1  # running statistics ← 0.9 · old + 0.1 · those of the batch


def norm_init(c: int) -> Tree:
    """Parameters of either norm: ``scale (c,)`` one, ``bias (c,)`` zero."""
    return {"scale": np.ones(c), "bias": np.zeros(c)}


def stats_init(c: int) -> Tree:
    """Running statistics of a batch norm: ``mean (c,)`` zero, ``var (c,)`` one."""
    return {"mean": np.zeros(c), "var": np.ones(c)}


class Frozen(Tree):
    """Running statistics of a norm that is not trained: they are used in training too, and stay as they are."""


def freeze(stats: Tree, norms: Iterable[str]) -> Tree:
    """The same running statistics, those of the norms at these paths ``Frozen``."""
    for path in norms:
        *parents, name = path.split("/")
        owner = reduce(getitem, parents, stats)
        owner[name] = Frozen(owner[name])
    return stats


def same(x: Array) -> Array:
    """Mean over all devices where there is but one."""
    return x


def batch_norm_forward(
    x: Float[Array, "n *hw c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    stats: Tree,
    *,
    train: bool,
    all_mean: Callable[[Array], Array] = same,
    shards: int = 1,
) -> tuple[Float[Array, "n *hw c"], Tree, Cache]:
    """y = γ x̂ + β,  x̂ = (x - μ)/√(σ² + ε)  (Ioffe & Szegedy 2015, arXiv:1502.03167).

    In training μ and σ² = Σ (x - μ)²/N are those of the batch, and the new running statistics are
    returned: ``mean`` follows μ, ``var`` the unbiased σ² N/(N - 1), as in PyTorch. Otherwise, and where
    ``stats`` is ``Frozen``, μ and σ² are the running statistics. Where a batch lies in ``shards`` equal
    parts, ``all_mean`` averages an array over them, so that all parts are normalised alike.
    """
    x_shape, c = x.shape, x.shape[-1]
    x = x.reshape(len(x), -1)  # one image is one row: arithmetic is several times faster on long rows
    pixels = x.shape[1] // c
    train = train and not isinstance(stats, Frozen)
    if train:
        size = len(x) * pixels
        if size * shards < 2:
            raise ValueError("batch norm trains on at least two values per channel; this batch has one")
        mean = all_mean(channel_sums(x.reshape(-1, c)) / size)
        normed = x - np.tile(mean, pixels)
        var = all_mean(channel_sums((normed * normed).reshape(-1, c)) / size)
        unbiased = var * (size * shards / (size * shards - 1))
        stats = {"mean": OLD * stats["mean"] + NEW * mean, "var": OLD * stats["var"] + NEW * unbiased}
    else:
        mean, var = stats["mean"], stats["var"]
        normed = x - np.tile(mean, pixels)
    rstd = 1 / np.sqrt(var + EPS)
    normed *= np.tile(rstd, pixels)
    y = normed * np.tile(scale, pixels)
    y += np.tile(bias, pixels)
    return y.reshape(x_shape), stats, (normed, rstd, scale, train, all_mean)


def batch_norm_backward(
    dy: Float[Array, "n *hw c"], cache: Cache
) -> tuple[Float[Array, "n *hw c"], Float[Array, " c"], Float[Array, " c"]]:
    """dγ = Σ dy x̂,  dβ = Σ dy,  dx = γ/√(σ² + ε) · (dy - Σ dy/N - x̂ Σ dy x̂/N); the sums are 0 outside training.

    Moving all x of a channel together, or stretching them, changes no x̂. So dx can have no
    part along 1 and none along x̂: the two means are these parts of dy, and are taken out.
    """
    normed, rstd, scale, train, all_mean = cache
    dy_shape, c = dy.shape, dy.shape[-1]
    dy = dy.reshape(len(dy), -1)
    pixels = dy.shape[1] // c
    # y = γ x̂ + β
    dbias = channel_sums(dy.reshape(-1, c))
    dscale = channel_sums((dy * normed).reshape(-1, c))
    # x̂ = (x - μ)/√(σ² + ε), where μ and σ² are made of x
    dx = dy
    if train:
        size = len(dy) * pixels
        dx = normed * np.tile(-all_mean(dscale / size), pixels)
        dx -= np.tile(all_mean(dbias / size), pixels)
        dx += dy
    dx = dx * np.tile(scale * rstd, pixels)
    return dx.reshape(dy_shape), dscale, dbias


def row_means(x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
    """Mean of every row, as a column: a product with 1/d, d times."""
    d = x.shape[1]
    return (x @ np.full(d, 1 / d, x.dtype))[:, None]


def layer_norm_forward(
    x: Float[Array, "*n d"], scale: Float[Array, " d"], bias: Float[Array, " d"], *, eps: float = EPS
) -> tuple[Float[Array, "*n d"], Cache]:
    """y = γ x̂ + β,  x̂ = (x - μ)/√(σ² + ε), μ and σ² over d (Ba, Kiros & Hinton 2016, arXiv:1607.06450)."""
    rows = x.reshape(-1, x.shape[-1])
    normed = rows - row_means(rows)
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
    # x̂ = (x - μ)/√(σ² + ε): again nothing is left along 1 and along x̂, now within each row
    dx = normed * -row_means(dnormed * normed)
    dx -= row_means(dnormed)
    dx += dnormed
    dx *= rstd
    return dx.reshape(dy.shape), dscale, dbias

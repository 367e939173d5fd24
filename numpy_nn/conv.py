"""Convolution and pooling over images (n, h, w, c).

A convolution is a matrix product. ``im2col`` writes every window that the kernel W covers as a row of ``cols``, then

    y = cols W + b,    dW = colsᵀ dy,    dcols = dy Wᵀ,    dx = col2im(dcols),

where ``col2im`` adds each row up at the pixels it was read from. ``im2col_forward`` and ``im2col_backward`` are these
lines. Where windows overlap, ``cols`` holds every pixel several times (nine times for 3x3), and ``conv_tiled``
computes the same sums in less time and memory.

Padding is one integer for all four sides, so that the three frameworks cannot disagree about it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from numpy_nn import conv_tiled
from numpy_nn.initializers import INITIALIZERS
from numpy_nn.layers import channel_sums
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree

Cache = Any

# --- convolution: the formula -----------------------------------------------------------------------------------------


def im2col(x: Float[Array, "n h w i"], kh: int, kw: int, stride: int) -> Float[Array, "rows _"]:
    """Write every window of an image as a row: (n, h, w, i) -> (n·oh·ow, kh·kw·i)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))  # (n, oh, ow, i, kh, kw), a view
    return windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3).reshape(-1, kh * kw * x.shape[3])


def im2col_forward(
    x: Float[Array, "n h w i"], kernel: Float[Array, "kh kw i o"], *, stride: int
) -> Float[Array, "n oh ow o"]:
    """y = cols W."""
    kh, kw, _, o = kernel.shape
    n, h, w, _ = x.shape
    cols = im2col(x, kh, kw, stride)
    y = cols @ kernel.reshape(-1, o)
    return y.reshape(n, (h - kh) // stride + 1, (w - kw) // stride + 1, o)


def im2col_backward(
    dy: Float[Array, "n oh ow o"],
    x: Float[Array, "n h w i"],
    kernel: Float[Array, "kh kw i o"],
    need_dx: bool,
    *,
    stride: int,
) -> tuple[Float[Array, "n h w i"] | None, Float[Array, "kh kw i o"]]:
    """dW = colsᵀ dy,  dcols = dy Wᵀ,  dx = col2im(dcols)."""
    kh, kw, i, o = kernel.shape
    n, oh, ow, _ = dy.shape
    dy = dy.reshape(-1, o)
    cols = im2col(x, kh, kw, stride)
    dkernel = (cols.T @ dy).reshape(kernel.shape)
    if not need_dx:
        return None, dkernel
    dcols = dy @ kernel.reshape(-1, o).T
    return col2im(dcols.reshape(n, oh, ow, kh, kw, i), x.shape, stride), dkernel


def col2im(cols: Float[Array, "n oh ow kh kw i"], shape: tuple[int, ...], stride: int) -> Float[Array, "n h w i"]:
    """Add up every row of ``cols`` at the pixels that ``im2col`` reads it from."""
    _, oh, ow, kh, kw, _ = cols.shape
    x = np.zeros(shape, cols.dtype)
    for a, b in np.ndindex(kh, kw):
        x[window_pixel(a, b, stride, oh, ow)] += cols[:, :, :, a, b]
    return x


def window_pixel(a: int, b: int, stride: int, oh: int, ow: int) -> tuple[slice, ...]:
    """Index of pixel (a, b) of every window at once: (n, h, w, c) -> (n, oh, ow, c)."""
    return np.s_[:, a : a + stride * oh : stride, b : b + stride * ow : stride]


# --- convolution: the layer -------------------------------------------------------------------------------------------


def conv2d_forward(
    x: Float[Array, "n h w i"],
    kernel: Float[Array, "kh kw _ o"],
    bias: Float[Array, " o"] | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> tuple[Float[Array, "n oh ow o"], Cache]:
    """y[n,p,q,o] = b[o] + Σ_{a,b,i} x[n, p·s + a, q·s + b, i] · W[a,b,i,o].

    With ``groups`` g, channels fall into g parts, and each part of the output sees its part of the input only
    (Krizhevsky et al. 2012); g = i is a depthwise convolution. Raises ValueError for shapes that do not fit.
    """
    (_, _, group_i, o), i = kernel.shape, x.shape[3]
    _check_groups(i, o, groups)
    if i != group_i * groups:
        raise ValueError(f"{i} channels do not fit {groups} group(s) of a kernel for {group_i} each")
    for size, k in zip(x.shape[1:3], kernel.shape, strict=False):
        out_size(size, k, stride, padding)  # refuses what does not fit
    padded = pad(x, padding)
    forward, backward = algorithm(kernel, stride, groups)
    y = forward(padded, kernel)
    if bias is not None:
        images = y.reshape(len(y), -1)  # long rows: see norm.py
        images += np.tile(bias, images.shape[1] // o)
        y = images.reshape(y.shape)
    return y, (padded, kernel, bias, x.shape, padding, backward)


def conv2d_backward(
    dy: Float[Array, "n oh ow o"], cache: Cache, *, need_dx: bool = True
) -> tuple[Float[Array, "n h w i"] | Any, Float[Array, "kh kw _ o"], Float[Array, " o"] | Any]:
    """dW = colsᵀ dy,  db = Σ dy,  dx = col2im(dy Wᵀ).

    dx is None unless ``need_dx``; db is None where the layer has no bias.
    """
    padded, kernel, bias, (_, h, w, _), padding, backward = cache
    dpadded, dkernel = backward(dy, padded, kernel, need_dx)
    dx = dpadded[:, padding : padding + h, padding : padding + w] if need_dx else None
    return dx, dkernel, None if bias is None else channel_sums(dy.reshape(-1, dy.shape[3]))


def algorithm(kernel: Float[Array, "kh kw _ o"], stride: int, groups: int) -> tuple[Callable[..., Any], ...]:
    """The fastest pair of functions (forward, backward) for this convolution; all compute the same sums."""
    kh, kw, _, _ = kernel.shape
    if groups == 1 and max(kh, kw) <= stride:  # windows do not overlap: cols is no larger than the image
        return partial(im2col_forward, stride=stride), partial(im2col_backward, stride=stride)
    if groups == stride == 1 and kw > 1:
        return conv_tiled.packed_forward, conv_tiled.packed_backward
    options: dict[str, Any] = {"stride": stride, "groups": groups}
    return partial(conv_tiled.tiled_forward, **options), partial(conv_tiled.tiled_backward, **options)


def conv2d_init(
    rng: np.random.Generator,
    kernel: int,
    i: int,
    o: int,
    init: str = "he_normal",
    *,
    groups: int = 1,
    bias: bool = True,
) -> Tree:
    """Parameters of a convolution: ``kernel (kh, kw, i/groups, o)`` drawn by ``init``, ``bias (o,)`` zero.

    Use ``bias=False`` before a batch norm, which subtracts a bias again with the mean.
    """
    _check_groups(i, o, groups)
    shape = (kernel, kernel, i // groups, o)
    fan_in, fan_out = kernel * kernel * i // groups, kernel * kernel * o // groups
    params = {"kernel": INITIALIZERS[init](rng, shape, fan_in, fan_out)}
    return params | {"bias": np.zeros(o)} if bias else params


def out_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Number of windows along an axis: ⌊(size + 2·padding - kernel)/stride⌋ + 1; ValueError if there is none."""
    out = (size + 2 * padding - kernel) // stride + 1
    if out < 1:
        raise ValueError(f"a window of {kernel} does not fit into {size} pixels with padding {padding}")
    return out


def _check_groups(i: int, o: int, groups: int) -> None:
    if i % groups or o % groups:
        raise ValueError(f"groups={groups} must divide both the {i} input and the {o} output channels")


def pad(x: Float[Array, "n h w c"], padding: int, value: float = 0.0) -> Float[Array, "n hp wp c"]:
    """Surround each image by ``padding`` pixels of ``value``."""
    if padding == 0:
        return x
    n, h, w, c = x.shape
    padded = np.full((n, h + 2 * padding, w + 2 * padding, c), value, x.dtype)
    padded[:, padding:-padding, padding:-padding] = x
    return padded


# --- pooling ----------------------------------------------------------------------------------------------------------


def _pooled_size(x: Float[Array, "n h w c"], window: int, stride: int, padding: int) -> list[int]:
    if 2 * padding > window:
        raise ValueError(
            f"padding {padding} is more than half of a window of {window}: some windows would hold no pixel"
        )
    return [out_size(size, window, stride, padding) for size in x.shape[1:3]]


def max_pool_forward(
    x: Float[Array, "n h w c"], *, window: int = 2, stride: int | None = None, padding: int = 0
) -> tuple[Float[Array, "n oh ow c"], Cache]:
    """y = the largest pixel of each window, per channel; padding counts as -∞."""
    stride = stride or window
    oh, ow = _pooled_size(x, window, stride, padding)
    padded = pad(x, padding, -np.inf)
    y = np.full((len(x), oh, ow, x.shape[3]), -np.inf, x.dtype)
    for a, b in np.ndindex(window, window):
        np.maximum(y, padded[window_pixel(a, b, stride, oh, ow)], out=y)
    return y, (padded, y, x.shape, window, stride, padding)


def max_pool_backward(dy: Float[Array, "n oh ow c"], cache: Cache) -> Float[Array, "n h w c"]:
    """dx = dy at the largest pixel of a window; of equal ones the first in reading order, as in JAX and PyTorch."""
    padded, y, (_, h, w, _), window, stride, padding = cache
    _, oh, ow, _ = y.shape
    dpadded = np.zeros_like(padded)
    open_ = np.ones(y.shape, bool)  # windows whose largest pixel has not been found yet
    for a, b in np.ndindex(window, window):
        at = window_pixel(a, b, stride, oh, ow)
        largest = padded[at] == y
        largest &= open_
        open_ ^= largest
        if stride < window:  # windows overlap
            dpadded[at] += dy * largest
        else:
            np.multiply(dy, largest, out=dpadded[at])
    return dpadded[:, padding : padding + h, padding : padding + w]


def avg_pool_forward(
    x: Float[Array, "n h w c"], *, window: int = 2, stride: int | None = None, padding: int = 0
) -> tuple[Float[Array, "n oh ow c"], Cache]:
    """y = mean of each window, per channel; padding counts as zeros, in the divisor too."""
    stride = stride or window
    oh, ow = _pooled_size(x, window, stride, padding)
    padded = pad(x, padding)
    y = np.zeros((len(x), oh, ow, x.shape[3]), x.dtype)
    for a, b in np.ndindex(window, window):
        y += padded[window_pixel(a, b, stride, oh, ow)]
    y /= window**2
    return y, (x.shape, window, stride, padding)


def avg_pool_backward(dy: Float[Array, "n oh ow c"], cache: Cache) -> Float[Array, "n h w c"]:
    """Every pixel of a window gets dy / window²."""
    (n, h, w, c), window, stride, padding = cache
    _, oh, ow, _ = dy.shape
    share = dy / window**2
    dpadded = np.zeros((n, h + 2 * padding, w + 2 * padding, c), dy.dtype)
    for a, b in np.ndindex(window, window):
        dpadded[window_pixel(a, b, stride, oh, ow)] += share
    return dpadded[:, padding : padding + h, padding : padding + w]


def global_avg_pool_forward(x: Float[Array, "n h w c"]) -> tuple[Float[Array, "n c"], Cache]:
    """y = mean over all pixels, per channel (Lin et al. 2013, arXiv:1312.4400)."""
    return x.mean(axis=(1, 2)), x.shape


def global_avg_pool_backward(dy: Float[Array, "n c"], cache: Cache) -> Float[Array, "n h w c"]:
    """Every pixel gets dy/(h w)."""
    _, h, w, _ = cache
    return np.ascontiguousarray(np.broadcast_to((dy / (h * w))[:, None, None, :], cache))


def averages(size: int, out: int) -> Float[Array, "out size"]:
    """P: row p is the mean of the pixels from ⌊p·size/out⌋ up to, not including, ⌈(p + 1)·size/out⌉, as in PyTorch."""
    rows = np.zeros((out, size))
    for p in range(out):
        first, end = p * size // out, -(-(p + 1) * size // out)
        rows[p, first:end] = 1 / (end - first)
    return rows


def adaptive_avg_pool_forward(
    x: Float[Array, "n h w c"], *, out: tuple[int, int]
) -> tuple[Float[Array, "n oh ow c"], Cache]:
    """y = P x Qᵀ: averages along the height, then along the width; any image becomes one of size ``out``."""
    n, h, w, c = x.shape
    oh, ow = out
    p, q = averages(h, oh).astype(x.dtype), averages(w, ow).astype(x.dtype)
    y = q @ (p @ x.reshape(n, h, w * c)).reshape(n, oh, w, c)
    return y, (p, q)


def adaptive_avg_pool_backward(dy: Float[Array, "n oh ow c"], cache: Cache) -> Float[Array, "n h w c"]:
    """dx = Pᵀ dy Q."""
    p, q = cache
    n, oh, _, c = dy.shape
    (_, h), (_, w) = p.shape, q.shape
    return (p.T @ (q.T @ dy).reshape(n, oh, w * c)).reshape(n, h, w, c)

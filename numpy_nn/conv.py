"""Convolution and pooling over images (n, h, w, c).

Both look at the image through windows. ``windows`` shows every window as a view
without copying a number; convolution then is one matrix multiplication, pooling
one reduction. Padding is a plain integer on all four sides, so that the three
frameworks cannot disagree about it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.layers import INITIALIZERS
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree

Cache = Any


def out_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Number of windows along an axis: ⌊(size + 2·padding - kernel)/stride⌋ + 1."""
    out = (size + 2 * padding - kernel) // stride + 1
    if out < 1:
        raise ValueError(f"a window of {kernel} does not fit into {size} pixels with padding {padding}")
    return out


def conv2d_init(rng: np.random.Generator, kernel: int, i: int, o: int, init: str = "he_normal") -> Tree:
    """Parameters of a convolution: ``kernel (kh, kw, i, o)`` drawn by ``init``, ``bias (o,)`` zero."""
    area = kernel * kernel
    return {"kernel": INITIALIZERS[init](rng, (kernel, kernel, i, o), area * i, area * o), "bias": np.zeros(o)}


def pad(x: Float[Array, "n h w c"], padding: int, value: float = 0.0) -> Float[Array, "n hp wp c"]:
    """Surround each image by ``padding`` pixels of ``value``."""
    if padding == 0:
        return x
    n, h, w, c = x.shape
    padded = np.full((n, h + 2 * padding, w + 2 * padding, c), value, x.dtype)
    padded[:, padding:-padding, padding:-padding] = x
    return padded


def windows(x: Float[Array, "n hp wp c"], kh: int, kw: int, stride: int) -> Float[Array, "n oh ow kh kw c"]:
    """View of all windows of (kh, kw) pixels, ``stride`` apart; no copy."""
    view = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))
    return view[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def unwindow(
    dwindows: Float[Array, "n oh ow kh kw c"], shape: tuple[int, ...], stride: int, padding: int
) -> Float[Array, "n h w c"]:
    """Transpose of pad + windows: a pixel collects the gradients of all windows it was in."""
    n, oh, ow, kh, kw, c = dwindows.shape
    _, h, w, _ = shape
    dpadded = np.zeros((n, h + 2 * padding, w + 2 * padding, c), dwindows.dtype)
    for a in range(kh):
        for b in range(kw):
            dpadded[:, a : a + stride * oh : stride, b : b + stride * ow : stride] += dwindows[:, :, :, a, b]
    return dpadded[:, padding : padding + h, padding : padding + w]


# --- convolution ------------------------------------------------------------------------------------------------------


def conv2d_forward(
    x: Float[Array, "n h w i"],
    kernel: Float[Array, "kh kw i o"],
    bias: Float[Array, " o"],
    *,
    stride: int = 1,
    padding: int = 0,
) -> tuple[Float[Array, "n oh ow o"], Cache]:
    """y[n,p,q,o] = b[o] + Σ_{a,b,i} x[n, p·s + a, q·s + b, i] · W[a,b,i,o]: windows times kernel, a matrix product."""
    kh, kw, i, o = kernel.shape
    n, oh, ow = len(x), out_size(x.shape[1], kh, stride, padding), out_size(x.shape[2], kw, stride, padding)
    rows = windows(pad(x, padding), kh, kw, stride).reshape(n * oh * ow, kh * kw * i)
    y = rows @ kernel.reshape(kh * kw * i, o)
    y += bias
    return y.reshape(n, oh, ow, o), (rows, kernel, x.shape, stride, padding)


def conv2d_backward(
    dy: Float[Array, "n oh ow o"], cache: Cache, *, need_dx: bool = True
) -> tuple[Float[Array, "n h w i"] | None, Float[Array, "kh kw i o"], Float[Array, " o"]]:
    """dW = windowsᵀ dy,  db = Σ dy,  dwindows = dy Wᵀ, and each pixel of dx sums the windows it was in."""
    rows, kernel, x_shape, stride, padding = cache
    kh, kw, i, o = kernel.shape
    n, oh, ow, _ = dy.shape
    dy_rows = dy.reshape(-1, o)
    dkernel = (rows.T @ dy_rows).reshape(kernel.shape)
    dbias = dy_rows.sum(axis=0)
    dx = None
    if need_dx:
        dwindows = (dy_rows @ kernel.reshape(-1, o).T).reshape(n, oh, ow, kh, kw, i)
        dx = unwindow(dwindows, x_shape, stride, padding)
    return dx, dkernel, dbias


# --- pooling ----------------------------------------------------------------------------------------------------------


def max_pool_forward(
    x: Float[Array, "n h w c"], *, window: int = 2, stride: int | None = None, padding: int = 0
) -> tuple[Float[Array, "n oh ow c"], Cache]:
    """y = the largest pixel of each window, per channel; padding counts as -∞."""
    stride = stride or window
    oh, ow = (out_size(size, window, stride, padding) for size in x.shape[1:3])
    padded = pad(x, padding, -np.inf)
    y = np.full((len(x), oh, ow, x.shape[3]), -np.inf, x.dtype)
    for a in range(window):
        for b in range(window):
            np.maximum(y, padded[:, a : a + stride * oh : stride, b : b + stride * ow : stride], out=y)
    return y, (padded, y, x.shape, window, stride, padding)


def max_pool_backward(dy: Float[Array, "n oh ow c"], cache: Cache) -> Float[Array, "n h w c"]:
    """dx = dy at the pixel that won; on a tie the first in reading order wins, as in JAX and PyTorch."""
    padded, y, (_, h, w, _), window, stride, padding = cache
    _, oh, ow, _ = y.shape
    dpadded = np.zeros_like(padded)
    open_ = np.ones(y.shape, bool)  # windows whose winner has not been met yet
    for a in range(window):
        for b in range(window):
            place = np.s_[:, a : a + stride * oh : stride, b : b + stride * ow : stride]
            won = open_ & (padded[place] == y)
            dpadded[place] += dy * won
            open_ &= ~won
    return dpadded[:, padding : padding + h, padding : padding + w]


def avg_pool_forward(
    x: Float[Array, "n h w c"], *, window: int = 2, stride: int | None = None, padding: int = 0
) -> tuple[Float[Array, "n oh ow c"], Cache]:
    """y = mean of each window, per channel; padding counts as zeros, and in the divisor."""
    stride = stride or window
    for size in x.shape[1:3]:
        out_size(size, window, stride, padding)
    y = windows(pad(x, padding), window, window, stride).mean(axis=(3, 4))
    return y, (x.shape, window, stride, padding)


def avg_pool_backward(dy: Float[Array, "n oh ow c"], cache: Cache) -> Float[Array, "n h w c"]:
    """Every pixel of a window gets dy / window²."""
    x_shape, window, stride, padding = cache
    n, oh, ow, c = dy.shape
    share = (dy / window**2)[:, :, :, None, None, :]
    return unwindow(np.broadcast_to(share, (n, oh, ow, window, window, c)), x_shape, stride, padding)

"""Convolution and pooling over images (n, h, w, c).

Both look at the image through windows. With every window as a row (``window_rows``) a
convolution is a matrix product; the same pixel of all windows (``place``) is what pooling
and the way back need. Padding is a plain integer on all four sides, so that the three
frameworks cannot disagree about it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.initializers import INITIALIZERS
from numpy_nn.layers import channel_sums
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree

Cache = Any


def out_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Number of windows along an axis: ⌊(size + 2·padding - kernel)/stride⌋ + 1."""
    out = (size + 2 * padding - kernel) // stride + 1
    if out < 1:
        raise ValueError(f"a window of {kernel} does not fit into {size} pixels with padding {padding}")
    return out


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

    Before a batch norm a bias would be subtracted again with the mean: ``bias=False`` leaves it out.
    """
    _check_groups(i, o, groups)
    shape = (kernel, kernel, i // groups, o)
    fan_in, fan_out = kernel * kernel * i // groups, kernel * kernel * o // groups
    params = {"kernel": INITIALIZERS[init](rng, shape, fan_in, fan_out)}
    return params | {"bias": np.zeros(o)} if bias else params


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


def place(a: int, b: int, stride: int, oh: int, ow: int) -> tuple[slice, ...]:
    """Index of what is pixel (a, b) of its window, for all windows at once: (n, hp, wp, c) -> (n, oh, ow, c)."""
    return np.s_[:, a : a + stride * oh : stride, b : b + stride * ow : stride]


# --- convolution ------------------------------------------------------------------------------------------------------

PIECE = 2**20  # numbers in the windows of a piece of a batch, 4 MB in float32
PAIRS = True  # where the stride is 1, see two neighbouring pixels as one: faster, with more operations


def pieces(n: int, numbers: int) -> list[slice]:
    """Cut a batch of n images, whose windows have so many numbers each, into pieces that stay in the cache.

    All windows of 3x3 pixels together are nine times the image. Written out at once, and kept
    for the way back, they would take a wide network twice the time and four times the memory.
    """
    images = max(1, PIECE // numbers)
    return [slice(first, first + images) for first in range(0, n, images)]


def by_group(kernel: Float[Array, "... o"], groups: int) -> Float[Array, "g _ og"]:
    """One matrix for each group: (kh, kw, i/g, o) -> (g, kh·kw·i/g, o/g); a view if there is one group."""
    return np.moveaxis(kernel.reshape(-1, groups, kernel.shape[-1] // groups), 1, 0)


def window_rows(x: Float[Array, "n hp wp i"], kh: int, kw: int, stride: int, groups: int) -> Float[Array, "g rows _"]:
    """Write every window as a row, one matrix for each group of channels: (g, n·oh·ow, kh·kw·i/g)."""
    seen = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]  # a view, no copy
    n, oh, ow, i, _, _ = seen.shape
    seen = seen.reshape(n, oh, ow, groups, i // groups, kh, kw).transpose(3, 0, 1, 2, 5, 6, 4)
    return seen.reshape(groups, n * oh * ow, kh * kw * i // groups)


def conv2d_forward(
    x: Float[Array, "n h w i"],
    kernel: Float[Array, "kh kw _ o"],
    bias: Float[Array, " o"] | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> tuple[Float[Array, "n oh ow o"], Cache]:
    """y[n,p,q,o] = b[o] + Σ_{a,b,i} x[n, p·s + a, q·s + b, i] · W[a,b,i,o]: windows times kernel, a matrix product.

    With ``groups`` g the channels fall into g parts, and each part of the output sees its part
    of the input only (Krizhevsky et al. 2012): g matrix products side by side, g = i is depthwise.
    """
    (_, _, group_i, o), i = kernel.shape, x.shape[3]
    _check_groups(i, o, groups)
    if i != group_i * groups:
        raise ValueError(f"{i} channels do not fit {groups} group(s) of a kernel for {group_i} each")
    for size, k in zip(x.shape[1:3], kernel.shape, strict=False):
        out_size(size, k, stride, padding)  # refuses what does not fit
    padded = pad(x, padding)
    pairs = PAIRS and stride == groups == 1 and kernel.shape[1] > 1
    y = products_of_pairs(padded, kernel) if pairs else products(padded, kernel, stride, groups)
    if bias is not None:
        images = y.reshape(len(y), -1)
        images += np.tile(bias, images.shape[1] // o)  # to a whole image at a time, faster than to a pixel at a time
        y = images.reshape(y.shape)
    return y, (padded, kernel, bias, x.shape, stride, padding, groups, pairs)


def conv2d_backward(
    dy: Float[Array, "n oh ow o"], cache: Cache, *, need_dx: bool = True
) -> tuple[Float[Array, "n h w i"] | Any, Float[Array, "kh kw _ o"], Float[Array, " o"] | Any]:
    """dW = windowsᵀ dy,  db = Σ dy, and dx[n, p·s + a, q·s + b] collects dy[n,p,q] W[a,b]ᵀ from all windows it was in.

    dx is None unless needed, db is None if there was no b.
    """
    padded, kernel, bias, (_, h, w, _), stride, padding, groups, pairs = cache
    if pairs:
        dpadded, dkernel = products_of_pairs_backward(dy, padded, kernel, need_dx)
    else:
        dpadded, dkernel = products_backward(dy, padded, kernel, stride, groups, need_dx)
    dx = dpadded[:, padding : padding + h, padding : padding + w] if need_dx else None
    return dx, dkernel, None if bias is None else channel_sums(dy.reshape(-1, dy.shape[3]))


def products(
    padded: Float[Array, "n hp wp i"], kernel: Float[Array, "kh kw _ o"], stride: int, groups: int
) -> Float[Array, "n oh ow o"]:
    """Y = windows · W."""
    kh, kw, _, o = kernel.shape
    n, hp, wp, i = padded.shape
    oh, ow = out_size(hp, kh, stride, 0), out_size(wp, kw, stride, 0)
    y = np.empty((n, oh * ow * o), padded.dtype)
    for piece in pieces(n, oh * ow * kh * kw * i):
        rows = window_rows(padded[piece], kh, kw, stride, groups)
        y[piece] = np.moveaxis(rows @ by_group(kernel, groups), 0, 1).reshape(-1, oh * ow * o)
    return y.reshape(n, oh, ow, o)


def products_backward(
    dy: Float[Array, "n oh ow o"],
    padded: Float[Array, "n hp wp i"],
    kernel: Float[Array, "kh kw _ o"],
    stride: int,
    groups: int,
    need_dx: bool,
) -> tuple[Float[Array, "n hp wp i"], Float[Array, "kh kw _ o"]]:
    """dW = windowsᵀ · dY, and windows' gradient dY · Wᵀ, each pixel's part of it added up where the pixel is."""
    kh, kw, _, o = kernel.shape
    n, oh, ow, _ = dy.shape
    i = padded.shape[3]
    dkernel, dpadded = np.zeros_like(kernel), np.zeros_like(padded)
    for piece in pieces(n, oh * ow * kh * kw * i):
        dy_rows = np.moveaxis(dy[piece].reshape(-1, groups, o // groups), 1, 0)
        rows = window_rows(padded[piece], kh, kw, stride, groups)
        dkernel += np.moveaxis(rows.swapaxes(1, 2) @ dy_rows, 0, 1).reshape(kernel.shape)
        for a, b in np.ndindex(kh, kw) if need_dx else ():
            dseen = dy_rows @ by_group(kernel[a, b], groups).swapaxes(1, 2)
            dpadded[piece][place(a, b, stride, oh, ow)] += np.moveaxis(dseen, 0, 1).reshape(-1, oh, ow, i)
    return dpadded, dkernel


# The same with two neighbouring pixels as one of 2i channels, which gives two outputs, 2o channels. The kernel stands
# twice beside itself, a pixel further the second time, with zeros around it: for 3x3 pixels a third more to multiply,
# in wider products, with a third less to copy and to add up.


def in_pairs(x: Float[Array, "n hp wp c"], pairs: int) -> Float[Array, "n hp pairs c2"]:
    """(n, h, w, c) -> (n, h, pairs, 2c): a view, unless a column is to be added."""
    n, h, w, c = x.shape
    if w < 2 * pairs:
        x = np.pad(x, ((0, 0), (0, 0), (0, 2 * pairs - w), (0, 0)))
    return x.reshape(n, h, pairs, 2 * c)


def paired(kernel: Float[Array, "kh kw i o"]) -> Float[Array, "kh seen i2 o2"]:
    """The kernel for pairs: (kh, kw, i, o) -> (kh, seen, 2i, 2o), where ``seen`` pairs cover kw + 1 pixels."""
    kh, kw, i, o = kernel.shape
    seen = kw // 2 + 1
    wide = np.zeros((kh, 2 * seen, i, 2, o), kernel.dtype)
    for j in (0, 1):
        wide[:, j : j + kw, :, j] = kernel
    return wide.reshape(kh, seen, 2 * i, 2 * o)


def products_of_pairs(
    padded: Float[Array, "n hp wp i"], kernel: Float[Array, "kh kw i o"]
) -> Float[Array, "n oh ow o"]:
    """``products`` of stride 1, without groups."""
    kh, kw, _, o = kernel.shape
    oh, ow = (out_size(size, k, 1, 0) for size, k in zip(padded.shape[1:3], (kh, kw), strict=True))
    pairs = (ow + 1) // 2
    y = products(in_pairs(padded, pairs + kw // 2), paired(kernel), 1, 1)
    return np.ascontiguousarray(y.reshape(len(y), oh, 2 * pairs, o)[:, :, :ow])


def products_of_pairs_backward(
    dy: Float[Array, "n oh ow o"], padded: Float[Array, "n hp wp i"], kernel: Float[Array, "kh kw i o"], need_dx: bool
) -> tuple[Float[Array, "n hp wp i"], Float[Array, "kh kw i o"]]:
    """``products_backward`` of stride 1, without groups; dW is the sum of what the kernel's two places get."""
    (n, hp, wp, i), (kh, kw, _, o) = padded.shape, kernel.shape
    pairs = (dy.shape[2] + 1) // 2
    seen = in_pairs(padded, pairs + kw // 2)
    dseen, dwide = products_backward(in_pairs(dy, pairs), seen, paired(kernel), 1, 1, need_dx)
    dwide = dwide.reshape(kh, -1, i, 2, o)
    return dseen.reshape(n, hp, -1, i)[:, :, :wp], dwide[:, :kw, :, 0] + dwide[:, 1 : kw + 1, :, 1]


# --- pooling ----------------------------------------------------------------------------------------------------------


def _pooled_size(x: Float[Array, "n h w c"], window: int, stride: int, padding: int) -> list[int]:
    if 2 * padding > window:
        raise ValueError(
            f"padding {padding} is more than half of a window of {window}: some windows would see no pixel"
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
        np.maximum(y, padded[place(a, b, stride, oh, ow)], out=y)
    return y, (padded, y, x.shape, window, stride, padding)


def max_pool_backward(dy: Float[Array, "n oh ow c"], cache: Cache) -> Float[Array, "n h w c"]:
    """dx = dy at the pixel that won; on a tie the first in reading order wins, as in JAX and PyTorch."""
    padded, y, (_, h, w, _), window, stride, padding = cache
    _, oh, ow, _ = y.shape
    dpadded = np.zeros_like(padded)
    open_ = np.ones(y.shape, bool)  # windows whose winner has not been met yet
    for a, b in np.ndindex(window, window):
        at = place(a, b, stride, oh, ow)
        won = padded[at] == y
        won &= open_
        open_ ^= won
        if stride < window:  # windows overlap
            dpadded[at] += dy * won
        else:
            np.multiply(dy, won, out=dpadded[at])
    return dpadded[:, padding : padding + h, padding : padding + w]


def avg_pool_forward(
    x: Float[Array, "n h w c"], *, window: int = 2, stride: int | None = None, padding: int = 0
) -> tuple[Float[Array, "n oh ow c"], Cache]:
    """y = mean of each window, per channel; padding counts as zeros, and in the divisor."""
    stride = stride or window
    oh, ow = _pooled_size(x, window, stride, padding)
    padded = pad(x, padding)
    y = np.zeros((len(x), oh, ow, x.shape[3]), x.dtype)
    for a, b in np.ndindex(window, window):
        y += padded[place(a, b, stride, oh, ow)]
    y /= window**2
    return y, (x.shape, window, stride, padding)


def avg_pool_backward(dy: Float[Array, "n oh ow c"], cache: Cache) -> Float[Array, "n h w c"]:
    """Every pixel of a window gets dy / window²."""
    (n, h, w, c), window, stride, padding = cache
    _, oh, ow, _ = dy.shape
    share = dy / window**2
    dpadded = np.zeros((n, h + 2 * padding, w + 2 * padding, c), dy.dtype)
    for a, b in np.ndindex(window, window):
        dpadded[place(a, b, stride, oh, ow)] += share
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
    """y = P x Qᵀ: averages along the height, then along the width, so that any image becomes one of size ``out``."""
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

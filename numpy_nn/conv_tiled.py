"""Faster ways to compute the matrix products of ``conv``, equal to them up to rounding.

Each is a pair of functions of images that are padded already: ``y = x_forward(padded, kernel)`` and
``dpadded, dkernel = x_backward(dy, padded, kernel, need_dx)``. The ratios below are medians of 15 interleaved turns on
one core of an AMD EPYC (AVX-512, x86-64) that had other work; docs/performance.md has the table.
"""

from __future__ import annotations

import numpy as np

from numpy_nn.shapes import Array, Float

# --- tiled: a few images at a time; one matmul for each group of channels ---------------------------------------------
# With 3x3 windows, cols is nine times as large as the images. Made for a few images at a time, it stays in the cache.
# Forward and backward, 128 images of 34x34 pixels, 16 channels: 2.0 times as fast as the formula; 1.1 to 1.3 times with
# 32 channels on 18x18 and 26x26 pixels; 0.9 times where cols fit into the cache anyway (64 on 10x10). Groups: 1.1 times
# as fast as the formula of one group after the other.

TILE = 2**20  # numbers in the cols of a tile: 4 MB in float32


def tiles(n: int, size: int) -> list[slice]:
    """Cut a batch of n images, each with ``size`` numbers in cols, into tiles of about ``TILE`` numbers."""
    images = max(1, TILE // size)
    return [slice(first, first + images) for first in range(0, n, images)]


def by_group(kernel: Float[Array, "... o"], groups: int) -> Float[Array, "g _ og"]:
    """One matrix for each group: (kh, kw, i/g, o) -> (g, kh·kw·i/g, o/g); a view if there is one group."""
    return np.moveaxis(kernel.reshape(-1, groups, kernel.shape[-1] // groups), 1, 0)


def im2col_by_group(
    x: Float[Array, "n hp wp i"], kh: int, kw: int, stride: int, groups: int
) -> Float[Array, "g rows _"]:
    """Write every window as a row, in one matrix for each group of channels: (g, n·oh·ow, kh·kw·i/g)."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))[:, ::stride, ::stride]
    n, oh, ow, i, _, _ = windows.shape
    windows = windows.reshape(n, oh, ow, groups, i // groups, kh, kw).transpose(3, 0, 1, 2, 5, 6, 4)
    return windows.reshape(groups, n * oh * ow, kh * kw * i // groups)


def tiled_forward(
    padded: Float[Array, "n hp wp i"], kernel: Float[Array, "kh kw _ o"], *, stride: int, groups: int
) -> Float[Array, "n oh ow o"]:
    """y = cols W, tile by tile and group by group."""
    kh, kw, _, o = kernel.shape
    n, hp, wp, i = padded.shape
    oh, ow = (hp - kh) // stride + 1, (wp - kw) // stride + 1
    y = np.empty((n, oh * ow * o), padded.dtype)
    for tile in tiles(n, oh * ow * kh * kw * i):
        cols = im2col_by_group(padded[tile], kh, kw, stride, groups)
        y[tile] = np.moveaxis(cols @ by_group(kernel, groups), 0, 1).reshape(-1, oh * ow * o)
    return y.reshape(n, oh, ow, o)


def tiled_backward(
    dy: Float[Array, "n oh ow o"],
    padded: Float[Array, "n hp wp i"],
    kernel: Float[Array, "kh kw _ o"],
    need_dx: bool,
    *,
    stride: int,
    groups: int,
) -> tuple[Float[Array, "n hp wp i"], Float[Array, "kh kw _ o"]]:
    """dW = colsᵀ dy, and dx = col2im(dy Wᵀ) without dcols: each pixel (a, b) of the windows has a matmul of its own."""
    kh, kw, _, o = kernel.shape
    n, oh, ow, _ = dy.shape
    i = padded.shape[3]
    dkernel, dpadded = np.zeros_like(kernel), np.zeros_like(padded)
    for tile in tiles(n, oh * ow * kh * kw * i):
        dy_rows = np.moveaxis(dy[tile].reshape(-1, groups, o // groups), 1, 0)
        cols = im2col_by_group(padded[tile], kh, kw, stride, groups)
        dkernel += np.moveaxis(cols.swapaxes(1, 2) @ dy_rows, 0, 1).reshape(kernel.shape)
        for a, b in np.ndindex(kh, kw) if need_dx else ():
            dpixel = np.moveaxis(dy_rows @ by_group(kernel[a, b], groups).swapaxes(1, 2), 0, 1)
            dpadded[tile, a : a + stride * oh : stride, b : b + stride * ow : stride] += dpixel.reshape(-1, oh, ow, i)
    return dpadded, dkernel


# --- packed: two adjacent pixels as one of twice the channels ---------------------------------------------------------
# (w, i) -> (w/2, 2i). The kernel, doubled and padded with zeros, then gives two adjacent outputs at once. At 3x3 that
# is a third more FLOPs, in wider and faster matmuls, and a third less to copy into cols. Forward and backward,
# 1 to 16 channels: 1.1 to 1.3 times as fast as tiled; 32 and 64 channels: 0.9 times, but 1.05 to 1.16 times on a Xeon.


def pack(x: Float[Array, "n hp wp c"], width: int) -> Float[Array, "n hp width c2"]:
    """(n, h, w, c) -> (n, h, width, 2c): a view, unless a column of zeros has to be added."""
    n, h, w, c = x.shape
    if w < 2 * width:
        x = np.pad(x, ((0, 0), (0, 0), (0, 2 * width - w), (0, 0)))
    return x.reshape(n, h, width, 2 * c)


def pack_kernel(kernel: Float[Array, "kh kw i o"]) -> Float[Array, "kh width i2 o2"]:
    """(kh, kw, i, o) -> (kh, width, 2i, 2o), where ``width`` packed pixels cover kw + 1 pixels.

    The first o outputs are those of the kernel at the first pixel, the others those of the kernel one pixel further.
    """
    kh, kw, i, o = kernel.shape
    width = kw // 2 + 1
    packed = np.zeros((kh, 2 * width, i, 2, o), kernel.dtype)
    for j in (0, 1):
        packed[:, j : j + kw, :, j] = kernel
    return packed.reshape(kh, width, 2 * i, 2 * o)


def packed_forward(padded: Float[Array, "n hp wp i"], kernel: Float[Array, "kh kw i o"]) -> Float[Array, "n oh ow o"]:
    """``tiled_forward`` of stride 1, without groups, on packed pixels."""
    kh, kw, _, o = kernel.shape
    n, hp, wp, _ = padded.shape
    oh, ow = hp - kh + 1, wp - kw + 1
    width = (ow + 1) // 2
    y = tiled_forward(pack(padded, width + kw // 2), pack_kernel(kernel), stride=1, groups=1)
    return np.ascontiguousarray(y.reshape(n, oh, 2 * width, o)[:, :, :ow])


def packed_backward(
    dy: Float[Array, "n oh ow o"], padded: Float[Array, "n hp wp i"], kernel: Float[Array, "kh kw i o"], need_dx: bool
) -> tuple[Float[Array, "n hp wp i"], Float[Array, "kh kw i o"]]:
    """``tiled_backward`` of packed pixels; dW is the sum of the gradients of both copies of the kernel."""
    (n, hp, wp, i), (kh, kw, _, _) = padded.shape, kernel.shape
    width = (dy.shape[2] + 1) // 2
    dpacked, dkernels = tiled_backward(
        pack(dy, width), pack(padded, width + kw // 2), pack_kernel(kernel), need_dx, stride=1, groups=1
    )
    dkernels = dkernels.reshape(kh, -1, i, 2, kernel.shape[3])
    return dpacked.reshape(n, hp, -1, i)[:, :, :wp], dkernels[:, :kw, :, 0] + dkernels[:, 1 : kw + 1, :, 1]

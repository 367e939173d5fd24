"""Convolution and pooling over images (n, h, w, c)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **how: Any) -> Array:
    """lax.conv_general_dilated, in the form that is fastest where it runs.

    XLA's convolution is made for accelerators. On a CPU, inside a scan, it takes
    twenty times as long as copying the windows of an image into rows and
    multiplying them by the kernel, image after image, so that the rows stay in the cache.
    """
    xla = partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **how)
    if how["feature_group_count"] > 1:
        return xla(x, kernel)
    rows = partial(windows_times_kernel, stride=strides[0], padding=padding[0][0])
    return lax.platform_dependent(x, kernel, cpu=rows, default=xla)


def windows_times_kernel(x: Array, kernel: Array, *, stride: int, padding: int) -> Array:
    """Convolution as a matrix product per image: windows (oh, ow, kh·kw·i) times kernel (kh·kw·i, o)."""
    kh, kw, i, o = kernel.shape
    # the kernel's gradient is added up image after image: in bfloat16 the sum would soon stand still
    matrix = kernel.reshape(kh * kw * i, o).astype(jnp.promote_types(kernel.dtype, jnp.float32))
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def one(image: Array) -> Array:
        windows = jnp.concatenate(_window_slices(image[None], kh, kw, stride), axis=-1)[0]
        return windows @ matrix.astype(windows.dtype)

    return lax.map(one, x)


class Conv(nnx.Conv):
    """nnx.Conv by the arguments that all tracks use; padding is an integer on all four sides."""

    def __init__(
        self,
        i: int,
        o: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        edges = [(padding, padding)] * 2
        super().__init__(
            i,
            o,
            (kernel, kernel),
            stride,
            padding=edges,
            feature_group_count=groups,
            use_bias=bias,
            conv_general_dilated=convolve,
            rngs=rngs,
        )


def _window_slices(x: Array, kh: int, kw: int, stride: int) -> list[Array]:
    """The image as seen by each position of the window: kh·kw arrays (n, oh, ow, c), in reading order."""
    n, h, w, c = x.shape
    oh, ow = (h - kh) // stride + 1, (w - kw) // stride + 1
    return [
        lax.slice(x, (0, a, b, 0), (n, a + stride * (oh - 1) + 1, b + stride * (ow - 1) + 1, c), (1, stride, stride, 1))
        for a in range(kh)
        for b in range(kw)
    ]


def max_pool(x: Array, window: int = 2, stride: int | None = None, padding: int = 0) -> Array:
    """The largest pixel of each window; on a tie the gradient goes to the first.

    ``where(best >= pixel, best, pixel)`` sends the gradient to one of the two,
    where ``maximum`` would halve it on a tie; it also fuses into one loop, where
    the gradient of ``reduce_window`` would scatter.
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-jnp.inf)
    best, *others = _window_slices(x, window, window, stride or window)
    for pixel in others:
        best = jnp.where(best >= pixel, best, pixel)
    return best


def avg_pool(x: Array, window: int = 2, stride: int | None = None, padding: int = 0) -> Array:
    """The mean of each window; padding counts as zeros, and in the divisor."""
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return sum(_window_slices(x, window, window, stride or window), start=jnp.zeros((), x.dtype)) / window**2


def global_avg_pool(x: Array) -> Array:
    """(n, h, w, c) -> (n, c): the mean of each channel."""
    return x.mean(axis=(1, 2))


def adaptive_avg_pool(x: Array, out: tuple[int, int]) -> Array:
    """(n, h, w, c) -> (n, *out, c): pixel p is the mean of pixels ⌊p·size/out⌋ to ⌈(p + 1)·size/out⌉."""
    p, q = (jnp.asarray(_averages(*sizes), x.dtype) for sizes in zip(x.shape[1:3], out, strict=True))
    return jnp.einsum("ph,nhwc,qw->npqc", p, x, q)


def _averages(size: int, out: int) -> np.ndarray:
    """Matrix (out, size) whose row p takes the mean of the pixels that p stands for."""
    p = np.arange(out)[:, None]
    first, end = p * size // out, -(-(p + 1) * size // out)
    pixels = np.arange(size)
    return ((first <= pixels) & (pixels < end)) / (end - first)

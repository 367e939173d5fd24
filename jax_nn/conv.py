"""Convolution and pooling over images (n, h, w, c)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax


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
            i, o, (kernel, kernel), stride, padding=edges, feature_group_count=groups, use_bias=bias, rngs=rngs
        )


def _window_slices(x: Array, window: int, stride: int) -> list[Array]:
    """The image as seen by each position of the window: window² arrays (n, oh, ow, c), in reading order."""
    n, h, w, c = x.shape
    oh, ow = (h - window) // stride + 1, (w - window) // stride + 1
    return [
        lax.slice(x, (0, a, b, 0), (n, a + stride * (oh - 1) + 1, b + stride * (ow - 1) + 1, c), (1, stride, stride, 1))
        for a in range(window)
        for b in range(window)
    ]


def max_pool(x: Array, window: int = 2, stride: int | None = None, padding: int = 0) -> Array:
    """The largest pixel of each window; on a tie the gradient goes to the first.

    ``where(best >= pixel, best, pixel)`` sends the gradient to one of the two,
    where ``maximum`` would halve it on a tie; it also fuses into one loop, where
    the gradient of ``reduce_window`` would scatter.
    """
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-jnp.inf)
    best, *others = _window_slices(x, window, stride or window)
    for pixel in others:
        best = jnp.where(best >= pixel, best, pixel)
    return best


def avg_pool(x: Array, window: int = 2, stride: int | None = None, padding: int = 0) -> Array:
    """The mean of each window; padding counts as zeros, and in the divisor."""
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return sum(_window_slices(x, window, stride or window), start=jnp.zeros((), x.dtype)) / window**2


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

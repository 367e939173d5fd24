"""Convolution and pooling over images (n, h, w, c)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **how: Any) -> Array:
    """lax.conv_general_dilated, whose gradients are written in the form that is fastest where it runs."""
    xla = partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **how)
    if how["feature_group_count"] > 1:
        return xla(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=partial(convolve_on_cpu, strides[0], padding[0][0]), default=xla)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def convolve_on_cpu(stride: int, padding: int, x: Array, kernel: Array) -> Array:
    """XLA's convolution forward, which reaches the speed of a matrix product, and gradients that do as well.

    Differentiated by JAX it becomes two others, which XLA has no fast form for on a CPU: dx reads the
    kernel backwards, four times as slow as with the kernel turned round beforehand, and dW
    has the image for a kernel, a hundred times as slow as windowsᵀ dy.
    """
    return _convolution(x, kernel, stride, [(padding, padding)] * 2)


def _convolution(x: Array, kernel: Array, stride: int, edges: list[tuple[int, int]], dilation: int = 1) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    how = {"lhs_dilation": (dilation, dilation), "dimension_numbers": layout}
    return lax.conv_general_dilated(x, kernel, (stride, stride), edges, **how)


def _forward(stride: int, padding: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_on_cpu(stride, padding, x, kernel), (x, kernel)


def _backward(stride: int, padding: int, cache: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """dx: the convolution of dy, its pixels ``stride`` apart, with the kernel turned round;  dW = windowsᵀ dy."""
    x, kernel = cache
    kh, kw = kernel.shape[:2]
    unseen = [(size + 2 * padding - k) % stride for size, k in zip(x.shape[1:3], (kh, kw), strict=True)]
    edges = [(k - 1 - padding, k - 1 - padding + rest) for k, rest in zip((kh, kw), unseen, strict=True)]
    dx = _convolution(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, edges, dilation=stride)
    return dx, kernel_gradient(_pad(x, padding), dy, kh, kw, stride).astype(kernel.dtype)


convolve_on_cpu.defvjp(_forward, _backward)

PIECE = 2**20  # numbers in the windows of a piece of a batch, 4 MB in float32
FEW = 4  # channels


def kernel_gradient(x: Array, dy: Array, kh: int, kw: int, stride: int) -> Array:
    """dW[a,b,i,o] = Σ_{n,p,q} x[n, p·s + a, q·s + b, i] dy[n,p,q,o]: windowsᵀ dy, a matrix product.

    The batch is cut into pieces whose windows stay in the cache. What has fewer channels is
    seen through windows: the same sum is that of dy around each pixel of x, read backwards.
    """
    (n, oh, ow, o), i = dy.shape, x.shape[3]
    if stride == 1 and o < i:
        around = jnp.pad(dy, ((0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1), (0, 0)))
        return kernel_gradient(around, x, kh, kw, stride)[::-1, ::-1].swapaxes(2, 3)
    numbers = oh * ow * kh * kw * i
    images = max(m for m in range(1, n + 1) if n % m == 0 and (m == 1 or m * numbers <= PIECE))

    def add(total: Array, piece: tuple[Array, Array]) -> tuple[Array, None]:
        x, dy = piece
        seen, rows = _window_slices(x, kh, kw, stride), dy.reshape(-1, o)
        if i < FEW:  # a window has runs of i numbers, slow to copy, and a column of all windows runs of ow
            columns = jnp.concatenate([jnp.moveaxis(pixel, 3, 0) for pixel in seen])
            product = columns.reshape(kh * kw * i, -1) @ rows
        else:  # a transposed view would be multiplied more slowly than a transposed copy: hence the barrier
            windows = jnp.concatenate(seen, axis=-1).reshape(-1, kh * kw * i)
            product = (lax.optimization_barrier(rows.T) @ windows).T
        return total + product.astype(total.dtype), None

    # added up piece after piece: in bfloat16 the sum would soon stand still
    zeros = jnp.zeros((kh * kw * i, o), jnp.promote_types(x.dtype, jnp.float32))
    pieces = [array.reshape(n // images, images, *array.shape[1:]) for array in (x, dy)]
    total, _ = lax.scan(add, zeros, tuple(pieces))
    return total.reshape(kh, kw, i, o)


def _pad(x: Array, padding: int, value: float = 0.0) -> Array:
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=value)


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
    x = _pad(x, padding, -jnp.inf)
    best, *others = _window_slices(x, window, window, stride or window)
    for pixel in others:
        best = jnp.where(best >= pixel, best, pixel)
    return best


def avg_pool(x: Array, window: int = 2, stride: int | None = None, padding: int = 0) -> Array:
    """The mean of each window; padding counts as zeros, and in the divisor."""
    x = _pad(x, padding)
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

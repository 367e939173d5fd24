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
    has the image for a kernel, in an order of axes that is a hundred times as slow inside a scan.
    """
    side = 4 if x.shape[3] < 4 else 2 if x.shape[3] < 8 else 1
    if stride == 1 and side > 1:
        return _side_by_side(x, kernel, padding, side)
    return _convolution(x, kernel, stride, [(padding, padding)] * 2)


def _side_by_side(x: Array, kernel: Array, padding: int, side: int) -> Array:
    """The convolution of few channels: ``side`` neighbouring pixels are one of side·i channels, with as many outputs.

    Products of depth kh·kw·i and width o are thin where i is 1. So the kernel stands ``side`` times beside itself, a
    pixel further each time, with zeros around it: up to twice the arithmetic, in a third of the time.
    """
    (n, h, w, i), (kh, kw, _, o) = x.shape, kernel.shape
    oh, ow = h + 2 * padding - kh + 1, w + 2 * padding - kw + 1
    blocks, seen = -(-ow // side), -(-(side + kw - 1) // side)  # of outputs, and of inputs that one of them sees
    rest = (blocks + seen - 1) * side - w - 2 * padding
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding + rest), (0, 0)))
    moved = [jnp.pad(kernel, ((0, 0), (j, seen * side - kw - j), (0, 0), (0, 0))) for j in range(side)]
    wide = jnp.stack(moved, axis=3).reshape(kh, seen, side * i, side * o)
    y = _convolution(x.reshape(n, h + 2 * padding, -1, side * i), wide, 1, [(0, 0)] * 2)
    return y.reshape(n, oh, blocks * side, o)[:, :, :ow]


def _convolution(
    x: Array, kernel: Array, stride: int, edges: list[tuple[int, int]], *, dilation: int = 1, apart: int = 1
) -> Array:
    """The convolution with pixels of x ``dilation`` and pixels of the kernel ``apart``."""
    dilations, layout = {"lhs_dilation": (dilation,) * 2, "rhs_dilation": (apart,) * 2}, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), edges, dimension_numbers=layout, **dilations)


def _forward(stride: int, padding: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_on_cpu(stride, padding, x, kernel), (x, kernel)


def _backward(stride: int, padding: int, cache: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """dx: the convolution of dy, its pixels ``stride`` apart, with the kernel turned round."""
    x, kernel = cache
    kh, kw = kernel.shape[:2]
    unseen = [(size + 2 * padding - k) % stride for size, k in zip(x.shape[1:3], (kh, kw), strict=True)]
    edges = [(k - 1 - padding, k - 1 - padding + rest) for k, rest in zip((kh, kw), unseen, strict=True)]
    dx = _convolution(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, edges, dilation=stride)
    return dx, kernel_gradient(x, dy, kh, kw, stride, padding).astype(kernel.dtype)


convolve_on_cpu.defvjp(_forward, _backward)


def kernel_gradient(x: Array, dy: Array, kh: int, kw: int, stride: int, padding: int = 0) -> Array:
    """dW[a,b,i,o] = Σ_{n,p,q} x[n, p·s + a, q·s + b, i] dy[n,p,q,o], x with its padding: a convolution, too.

    From x (n, h, w, i) and dy (n, oh, ow, o) comes dW (kh, kw, i, o). The convolution's image is x, channels and batch
    exchanged: i images of n channels. Its kernel is dy, with pixels s apart.
    Axes are moved, not only renamed as JAX's own gradient does: the fast form is that of NHWC with HWIO. It also wants
    an image at least as large as the kernel, padding aside. Where dy has fewer channels than x, the
    same sum is faster as that of dy around each pixel of x, read backwards.
    """
    (oh, ow, o), (h, w, i) = dy.shape[1:], x.shape[1:]
    if stride == 1 and o < i:
        around = jnp.pad(dy, ((0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1), (0, 0)))
        return kernel_gradient(around, _pad(x, padding), kh, kw, stride)[::-1, ::-1].swapaxes(2, 3)
    rows, columns = (oh - 1) * stride + 1, (ow - 1) * stride + 1
    if rows > h or columns > w:
        return kernel_gradient(_pad(x, padding), dy, kh, kw, stride)
    edges = [(padding, rows + kh - 1 - h - padding), (padding, columns + kw - 1 - w - padding)]
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # in bfloat16 the sum would soon stand still
    image, kernel = x.transpose(3, 1, 2, 0).astype(dtype), dy.transpose(1, 2, 0, 3).astype(dtype)
    return _convolution(image, kernel, 1, edges, apart=stride).transpose(1, 2, 0, 3)


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
    """(n, h, w, c) -> (n, oh, ow, c): the largest pixel of each window; on a tie the gradient goes to the first."""
    x, stride = _pad(x, padding, -jnp.inf), stride or window
    return _pool_of_tiles(window, x) if stride == window else _largest(x, window, stride)


def _largest(x: Array, window: int, stride: int) -> Array:
    """(n, h, w, c) -> (n, oh, ow, c), in a form that JAX differentiates well.

    ``where(best >= pixel, best, pixel)`` sends the gradient to one of the two, where ``maximum`` would halve it on a
    tie; it also fuses into one loop, where the gradient of ``reduce_window`` would scatter.
    """
    best, *others = _window_slices(x, window, window, stride)
    for pixel in others:
        best = jnp.where(best >= pixel, best, pixel)
    return best


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool_of_tiles(window: int, x: Array) -> Array:
    """Windows that do not overlap: what comes back from them lies side by side, where JAX would add it up."""
    return _largest(x, window, window)


def _pool_forward(window: int, x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = _pool_of_tiles(window, x)
    return y, (x, y)


def _pool_backward(window: int, cache: tuple[Array, Array], dy: Array) -> tuple[Array]:
    """dx (n, h, w, c) = dy (n, oh, ow, c) at the pixel that won; on a tie the first in reading order wins."""
    x, y = cache
    (n, oh, ow, c), (h, w) = dy.shape, x.shape[1:3]
    open_, parts = jnp.ones(y.shape, bool), []  # windows whose winner has not been met yet
    for pixel in _window_slices(x, window, window, window):
        won = open_ & (pixel == y)
        open_ &= ~won
        parts.append(jnp.where(won, dy, 0))
    tiles = jnp.stack(parts).reshape(window, window, n, oh, ow, c)
    dx = tiles.transpose(2, 3, 0, 4, 1, 5).reshape(n, oh * window, ow * window, c)
    return (jnp.pad(dx, ((0, 0), (0, h - oh * window), (0, w - ow * window), (0, 0))),)


_pool_of_tiles.defvjp(_pool_forward, _pool_backward)


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

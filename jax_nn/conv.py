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


def convolve(
    x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **options: Any
) -> Array:
    """Return lax.conv_general_dilated of x (n, h, w, i) and kernel (kh, kw, i, o), with fast gradients on a CPU."""
    xla = partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    if options["feature_group_count"] > 1:
        return xla(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=partial(convolve_on_cpu, strides[0], padding[0][0]), default=xla)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def convolve_on_cpu(stride: int, padding: int, x: Array, kernel: Array) -> Array:
    """Return XLA's convolution, which reaches the speed of a matmul on a CPU, with gradients that do so too.

    JAX's own gradients are two convolutions without a fast form in XLA on a CPU: dx flips the kernel as it reads it,
    four times slower than flipping it beforehand; dW takes the image as the kernel, with an axis order that is a
    hundred times slower inside a scan.
    """
    pack = 4 if x.shape[3] < 4 else 2 if x.shape[3] < 8 else 1
    if stride == 1 and pack > 1:
        return _packed_convolution(x, kernel, padding, pack)
    return _convolution(x, kernel, stride, [(padding, padding)] * 2)


def _packed_convolution(x: Array, kernel: Array, padding: int, pack: int) -> Array:
    """Convolve images of few channels with ``pack`` adjacent pixels packed into channels: (w, i) -> (w/pack, pack·i).

    With few channels the matmuls, kh·kw·i deep and o wide, are too small to be fast. Here the kernel is repeated for
    each pixel of a pack, shifted and padded with zeros: up to twice the FLOPs in a third of the time.
    """
    (n, h, w, i), (kh, kw, _, o) = x.shape, kernel.shape
    oh, ow = h + 2 * padding - kh + 1, w + 2 * padding - kw + 1
    packs, width = -(-ow // pack), -(-(pack + kw - 1) // pack)  # packs of outputs, and kernel width in packs
    extra = (packs + width - 1) * pack - w - 2 * padding
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding + extra), (0, 0)))
    shifted = [jnp.pad(kernel, ((0, 0), (j, width * pack - kw - j), (0, 0), (0, 0))) for j in range(pack)]
    packed_kernel = jnp.stack(shifted, axis=3).reshape(kh, width, pack * i, pack * o)
    y = _convolution(x.reshape(n, h + 2 * padding, -1, pack * i), packed_kernel, 1, [(0, 0)] * 2)
    return y.reshape(n, oh, packs * pack, o)[:, :, :ow]


def _convolution(
    x: Array, kernel: Array, stride: int, edges: list[tuple[int, int]], *, x_dilation: int = 1, dilation: int = 1
) -> Array:
    """Convolve with padding ``edges``, after dilating the image by ``x_dilation`` and the kernel by ``dilation``."""
    dilations, layout = {"lhs_dilation": (x_dilation,) * 2, "rhs_dilation": (dilation,) * 2}, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), edges, dimension_numbers=layout, **dilations)


def _forward(stride: int, padding: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_on_cpu(stride, padding, x, kernel), (x, kernel)


def _backward(stride: int, padding: int, cache: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """dx is the convolution of dy, dilated by the stride, with the flipped kernel."""
    x, kernel = cache
    kh, kw = kernel.shape[:2]
    unused = [(size + 2 * padding - k) % stride for size, k in zip(x.shape[1:3], (kh, kw), strict=True)]
    edges = [(k - 1 - padding, k - 1 - padding + extra) for k, extra in zip((kh, kw), unused, strict=True)]
    dx = _convolution(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, edges, x_dilation=stride)
    return dx, kernel_gradient(x, dy, kh, kw, stride, padding).astype(kernel.dtype)


convolve_on_cpu.defvjp(_forward, _backward)


def kernel_gradient(x: Array, dy: Array, kh: int, kw: int, stride: int, padding: int = 0) -> Array:
    """dW[a,b,i,o] = Σ_{n,p,q} x[n, p·s + a, q·s + b, i] dy[n,p,q,o], with x padded: this is a convolution, too.

    x (n, h, w, i), dy (n, oh, ow, o) -> dW (kh, kw, i, o). The image is x with batch and channels exchanged (i images
    of n channels); the kernel is dy, dilated by the stride s. The axes are transposed in memory, not only renamed as
    in JAX's own gradient, because XLA is fast for NHWC with HWIO, and for an image at least as large as the kernel.
    Where dy has fewer channels than x, it is faster to take dy as the image and x as the kernel, and flip the result.
    """
    (oh, ow, o), (h, w, i) = dy.shape[1:], x.shape[1:]
    if stride == 1 and o < i:
        padded = jnp.pad(dy, ((0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1), (0, 0)))
        return kernel_gradient(padded, _pad(x, padding), kh, kw, stride)[::-1, ::-1].swapaxes(2, 3)
    rows, columns = (oh - 1) * stride + 1, (ow - 1) * stride + 1
    if rows > h or columns > w:
        return kernel_gradient(_pad(x, padding), dy, kh, kw, stride)
    edges = [(padding, rows + kh - 1 - h - padding), (padding, columns + kw - 1 - w - padding)]
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # a long sum in bfloat16 would stop growing
    image, kernel = x.transpose(3, 1, 2, 0).astype(dtype), dy.transpose(1, 2, 0, 3).astype(dtype)
    return _convolution(image, kernel, 1, edges, dilation=stride).transpose(1, 2, 0, 3)


def _pad(x: Array, padding: int, value: float = 0.0) -> Array:
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=value)


class Conv(nnx.Conv):
    """nnx.Conv with the arguments that all tracks share; ``padding`` is an integer, equal on all four sides."""

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
        super().__init__(
            i,
            o,
            (kernel, kernel),
            stride,
            padding=[(padding, padding)] * 2,
            feature_group_count=groups,
            use_bias=bias,
            conv_general_dilated=convolve,
            rngs=rngs,
        )


def _window_slices(x: Array, kh: int, kw: int, stride: int) -> list[Array]:
    """Return the pixels at each position of the window: kh·kw arrays (n, oh, ow, c), row by row."""
    n, h, w, c = x.shape
    oh, ow = (h - kh) // stride + 1, (w - kw) // stride + 1
    return [
        lax.slice(x, (0, a, b, 0), (n, a + stride * (oh - 1) + 1, b + stride * (ow - 1) + 1, c), (1, stride, stride, 1))
        for a in range(kh)
        for b in range(kw)
    ]


def max_pool(x: Array, window: int = 2, stride: int | None = None, padding: int = 0) -> Array:
    """Max pooling, (n, h, w, c) -> (n, oh, ow, c); on a tie the gradient goes to the first pixel of the window."""
    x, stride = _pad(x, padding, -jnp.inf), stride or window
    return _disjoint_max_pool(window, x) if stride == window else _window_max(x, window, stride)


def _window_max(x: Array, window: int, stride: int) -> Array:
    """Return the maximum of each window, (n, h, w, c) -> (n, oh, ow, c), in a form that JAX differentiates well.

    ``where(best >= pixel, best, pixel)`` passes the gradient to one of the two, while ``maximum`` halves it on a tie.
    It also fuses into one loop, while the gradient of ``reduce_window`` scatters.
    """
    best, *others = _window_slices(x, window, window, stride)
    for pixel in others:
        best = jnp.where(best >= pixel, best, pixel)
    return best


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _disjoint_max_pool(window: int, x: Array) -> Array:
    """Max pooling without overlap: the gradients of the windows are stacked, while JAX would add them up."""
    return _window_max(x, window, window)


def _pool_forward(window: int, x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = _disjoint_max_pool(window, x)
    return y, (x, y)


def _pool_backward(window: int, cache: tuple[Array, Array], dy: Array) -> tuple[Array]:
    """dx (n, h, w, c) is dy (n, oh, ow, c) at the first maximum of each window, row by row, and 0 elsewhere."""
    x, y = cache
    (n, oh, ow, c), (h, w) = dy.shape, x.shape[1:3]
    pending, slices = jnp.ones(y.shape, bool), []  # pending: windows whose maximum has not been found yet
    for pixel in _window_slices(x, window, window, window):
        first = pending & (pixel == y)
        pending &= ~first
        slices.append(jnp.where(first, dy, 0))
    tiles = jnp.stack(slices).reshape(window, window, n, oh, ow, c)
    dx = tiles.transpose(2, 3, 0, 4, 1, 5).reshape(n, oh * window, ow * window, c)
    return (jnp.pad(dx, ((0, 0), (0, h - oh * window), (0, w - ow * window), (0, 0))),)


_disjoint_max_pool.defvjp(_pool_forward, _pool_backward)


def avg_pool(x: Array, window: int = 2, stride: int | None = None, padding: int = 0) -> Array:
    """Average pooling, (n, h, w, c) -> (n, oh, ow, c); padding counts as zeros, and in the divisor."""
    x = _pad(x, padding)
    return sum(_window_slices(x, window, window, stride or window), start=jnp.zeros((), x.dtype)) / window**2


def global_avg_pool(x: Array) -> Array:
    """Return the mean of each channel: (n, h, w, c) -> (n, c)."""
    return x.mean(axis=(1, 2))


def adaptive_avg_pool(x: Array, out: tuple[int, int]) -> Array:
    """Average pooling to a given size, (n, h, w, c) -> (n, *out, c).

    Pixel p of the output is the mean of pixels ⌊p·size/out⌋ up to, excluding, ⌈(p + 1)·size/out⌉, as in PyTorch.
    """
    p, q = (jnp.asarray(_averaging_matrix(*sizes), x.dtype) for sizes in zip(x.shape[1:3], out, strict=True))
    return jnp.einsum("ph,nhwc,qw->npqc", p, x, q)


def _averaging_matrix(size: int, out: int) -> np.ndarray:
    """Return the matrix (out, size) whose row p takes the mean of the pixels under output p."""
    p = np.arange(out)[:, None]
    first, end = p * size // out, -(-(p + 1) * size // out)
    pixels = np.arange(size)
    return ((first <= pixels) & (pixels < end)) / (end - first)

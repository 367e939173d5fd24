"""Normalisation: subtract a mean, divide by a deviation, then scale and shift by what is learned."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

EPS = 1e-5  # added to every variance; written out because the frameworks differ
OLD, NEW = 0.9, 0.1  # running statistics ← 0.9 · old + 0.1 · those of the batch


class BatchNorm(nnx.Module):
    """y = γ (x - μ)/√(σ² + ε) + β per channel  (Ioffe & Szegedy 2015, arXiv:1502.03167).

    In training μ and σ² are those of the batch, otherwise the running ones. The
    running variance follows the unbiased σ² N/(N - 1), as in PyTorch; ``nnx.BatchNorm``
    would follow the biased one, and compute it as E[x²] - μ², which rounds badly. Where a batch lies
    across the devices of an ``axis``, in equal shards, its mean is the mean of theirs.
    """

    def __init__(self, c: int, *, rngs: nnx.Rngs):
        self.scale, self.bias = nnx.Param(jnp.ones(c)), nnx.Param(jnp.zeros(c))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(c)), nnx.BatchStat(jnp.ones(c))
        self.use_running_average = False  # set by train() and eval()
        self.axis: str | None = None  # set by whoever maps a training step over devices

    def __call__(self, x: Array) -> Array:
        """x (n, h, w, c) -> the same shape."""
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            size = x.size // x.shape[-1] * (1 if self.axis is None else lax.axis_size(self.axis))
            if size < 2:
                raise ValueError("batch norm trains on at least two values per channel; this batch has one")
            y, mean, var = normalized(self.axis, x, self.scale[...], self.bias[...])
            self.mean[...] = OLD * self.mean + NEW * mean
            self.var[...] = OLD * self.var + NEW * var * (size / (size - 1))
            return y
        return (x - mean) * (self.scale * lax.rsqrt(var + EPS)) + self.bias


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalized(axis: str | None, x: Array, scale: Array, bias: Array) -> tuple[Array, Array, Array]:
    """y, and the mean and variance of the batch, of which JAX would differentiate more than is needed.

    x̂ = (x - μ)/√(σ² + ε),  y = γ x̂ + β;
    dβ = Σ dy,  dγ = Σ dy x̂,  dx = γ/√(σ² + ε) (dy - mean dy - x̂ mean(dy x̂)).
    """
    return _forward(axis, x, scale, bias)[0]


def _forward(axis: str | None, x: Array, scale: Array, bias: Array) -> tuple[tuple[Array, Array, Array], Any]:
    mean = _mean(x, axis)
    var = _mean(jnp.square(x - mean), axis)
    factor = lax.rsqrt(var + EPS)
    return ((x - mean) * (scale * factor) + bias, mean, var), (x, scale, mean, factor)


def _backward(axis: str | None, cache: Any, gradients: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Nobody differentiates by way of the running statistics: only the gradient of y comes in."""
    (x, scale, mean, factor), dy = cache, gradients[0]
    dbias, dscale = dy.sum(axis=(0, 1, 2)), (dy * (x - mean)).sum(axis=(0, 1, 2)) * factor
    count = x.size // x.shape[-1]
    mean_dy, mean_dyx = (total / count if axis is None else lax.pmean(total / count, axis) for total in (dbias, dscale))
    return (scale * factor) * (dy - mean_dy - (x - mean) * (factor * mean_dyx)), dscale, dbias


normalized.defvjp(_forward, _backward)


def _mean(x: Array, axis: str | None) -> Array:
    """Of each channel, over all devices of the axis."""
    mean = x.mean(axis=(0, 1, 2))
    return mean if axis is None else lax.pmean(mean, axis)


class LayerNorm(nnx.LayerNorm):
    """y = γ (x - μ)/√(σ² + ε) + β, μ and σ² over the features (Ba, Kiros & Hinton 2016, arXiv:1607.06450)."""

    def __init__(self, d: int, *, eps: float = EPS, rngs: nnx.Rngs):
        # the fast variance is E[x²] - μ², which rounds badly
        super().__init__(d, epsilon=eps, use_fast_variance=False, rngs=rngs)

"""Normalisation: subtract the mean, divide by the standard deviation, then apply a learned scale and shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

EPS = 1e-5  # added to every variance; written out because the frameworks' defaults differ
MOMENTUM = 0.9  # running ← momentum · running + (1 - momentum) · batch; PyTorch calls that 0.1


class BatchNorm(nnx.Module):
    """y = γ (x - μ)/√(σ² + ε) + β per channel  (Ioffe & Szegedy 2015, arXiv:1502.03167).

    μ and σ² are those of the batch in training, and the running ones in evaluation. The running variance
    follows the unbiased σ² N/(N - 1), as in PyTorch. ``nnx.BatchNorm`` follows the biased one, and computes it
    as E[x²] - μ², which rounds badly. With an ``axis``, x is one of equal shards, and μ and σ² are those of all.
    """

    def __init__(self, c: int, *, rngs: nnx.Rngs):
        self.scale, self.bias = nnx.Param(jnp.ones(c)), nnx.Param(jnp.zeros(c))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(c)), nnx.BatchStat(jnp.ones(c))
        self.use_running_average = False  # set by train() and eval()
        self.axis: str | None = None  # the axis of devices, set where the training step is built

    def __call__(self, x: Array) -> Array:
        """x (n, h, w, c) -> the same shape."""
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            size = self.all_reduce(lax.psum, x.size // x.shape[-1])
            if size < 2:
                raise ValueError("batch norm trains on at least two values per channel; this batch has one")
            mean = self.all_reduce(lax.pmean, x.mean(axis=(0, 1, 2)))
            # ∂σ²/∂μ = 0, because Σ (x - μ) = 0; stop_gradient saves XLA a pass over x to compute it
            var = self.all_reduce(lax.pmean, jnp.square(x - lax.stop_gradient(mean)).mean(axis=(0, 1, 2)))
            self.mean[...] = MOMENTUM * self.mean + (1 - MOMENTUM) * mean
            self.var[...] = MOMENTUM * self.var + (1 - MOMENTUM) * var * (size / (size - 1))
        return (x - mean) * (self.scale * lax.rsqrt(var + EPS)) + self.bias

    def all_reduce(self, operation: Callable[[Any, str], Any], value: Any) -> Any:
        """Reduce the value over the axis of devices; without an axis, return it."""
        return value if self.axis is None else operation(value, self.axis)


class LayerNorm(nnx.LayerNorm):
    """y = γ (x - μ)/√(σ² + ε) + β, μ and σ² over the features (Ba, Kiros & Hinton 2016, arXiv:1607.06450)."""

    def __init__(self, d: int, *, eps: float = EPS, rngs: nnx.Rngs):
        # the fast variance is E[x²] - μ², which rounds badly
        super().__init__(d, epsilon=eps, use_fast_variance=False, rngs=rngs)

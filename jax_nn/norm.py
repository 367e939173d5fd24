"""Normalisation: subtract a mean, divide by a deviation, then scale and shift by what is learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
            size = self.on_all_devices(lax.psum, x.size // x.shape[-1])
            if size < 2:
                raise ValueError("batch norm trains on at least two values per channel; this batch has one")
            mean = self.on_all_devices(lax.pmean, x.mean(axis=(0, 1, 2)))
            # ∂σ²/∂μ = 0: Σ (x - μ) is. XLA would go over x once more to find that.
            var = self.on_all_devices(lax.pmean, jnp.square(x - lax.stop_gradient(mean)).mean(axis=(0, 1, 2)))
            self.mean[...] = OLD * self.mean + NEW * mean
            self.var[...] = OLD * self.var + NEW * var * (size / (size - 1))
        return (x - mean) * (self.scale * lax.rsqrt(var + EPS)) + self.bias

    def on_all_devices(self, reduce: Callable[[Any, str], Any], value: Any) -> Any:
        """A sum or mean over the devices, where there are several."""
        return value if self.axis is None else reduce(value, self.axis)


class LayerNorm(nnx.LayerNorm):
    """y = γ (x - μ)/√(σ² + ε) + β, μ and σ² over the features (Ba, Kiros & Hinton 2016, arXiv:1607.06450)."""

    def __init__(self, d: int, *, eps: float = EPS, rngs: nnx.Rngs):
        # the fast variance is E[x²] - μ², which rounds badly
        super().__init__(d, epsilon=eps, use_fast_variance=False, rngs=rngs)

"""A small network with every kind of operation that ports get wrong, in Flax NNX; ``torch_port.py`` is the same."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax


@jax.custom_vjp
def scale(x: Array) -> Array:
    """y = 2 x, with its gradient written by hand."""
    return 2 * x


def scale_forward(x):
    return 2 * x, None


def scale_backward(_, dy):
    return (2 * dy,)


scale.defvjp(scale_forward, scale_backward)


def standardise(x: Array) -> Array:
    """Rows of mean 0 and variance 1."""
    mean = x.mean(axis=1, keepdims=True)
    var = x.var(axis=1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5)


def attend(q: Array, k: Array, v: Array) -> Array:
    """softmax(q kᵀ/√d) v."""
    scores = q @ k.swapaxes(1, 2)
    scores = scores / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores, axis=-1)
    return weights @ v


class BatchNorm(nnx.Module):
    """Batch norm with the running variance of PyTorch."""

    def __init__(self, c: int):
        self.scale, self.bias = nnx.Param(jnp.ones(c)), nnx.Param(jnp.zeros(c))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(c)), nnx.BatchStat(jnp.ones(c))
        self.use_running_average = False

    def __call__(self, x: Array) -> Array:
        mean, var = self.mean[...], self.var[...]
        if not self.use_running_average:
            mean = x.mean(axis=(0, 1, 2))
            var = x.var(axis=(0, 1, 2))
            n = x.size // x.shape[-1]
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
            self.var[...] = 0.9 * self.var[...] + 0.1 * var * n / (n - 1)
        rstd = lax.rsqrt(var + 1e-5)
        return (x - mean) * rstd * self.scale[...] + self.bias[...]


class Net(nnx.Module):
    """Images (n, 8, 8, 3) -> logits (n, 5)."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 6, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
        self.norm = BatchNorm(6)
        self.conv2 = nnx.Conv(6, 6, (3, 3), padding=1, rngs=rngs)
        self.hidden = nnx.Linear(6 * 6 * 6, 16, rngs=rngs)
        self.layer_norm = nnx.LayerNorm(16, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.query, self.key, self.value = (nnx.Linear(4, 4, rngs=rngs) for _ in range(3))
        self.expand = nnx.Linear(16, 24, rngs=rngs)
        self.output = nnx.Linear(24, 5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.conv(x)
        x = self.norm(x)
        x = jax.nn.relu(x)
        shortcut = x
        x = self.conv2(x)
        x = jnp.where(x > 0, x, 0.1 * x)
        x = x + shortcut
        x = jax.image.resize(x, (len(x), 6, 6, 6), "bilinear")
        x = x.reshape(len(x), -1)
        x = self.hidden(x)
        x = self.layer_norm(x)
        tokens = x.reshape(-1, 4, 4)
        tokens = attend(self.query(tokens), self.key(tokens), self.value(tokens))
        x = x + tokens.reshape(len(x), -1)
        h = self.expand(x)
        h = jax.nn.gelu(h, approximate=False)
        h = standardise(h)
        h = scale(h)
        return self.output(h)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """The mean of -log p of the labels, smoothed by 0.1."""
    logp = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(logp, labels[:, None], axis=1)[:, 0]
    losses = -0.9 * chosen - 0.1 * logp.mean(axis=1)
    return losses.mean()


class Loss(nnx.Module):
    """Rows (n, 7) and labels (n,) -> the loss of a linear classifier."""

    def __init__(self, rngs: nnx.Rngs):
        self.output = nnx.Linear(7, 5, rngs=rngs)

    def __call__(self, x: Array, labels: Array) -> Array:
        return cross_entropy(self.output(x), labels)

"""Attention: every position looks at every other and takes from each as much as it finds alike.

A mask is True where a query (row) may look at a key (column); it is broadcast to
(n, heads, t, s), where s, the number of keys, may differ from t, that of the queries.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_nn.layers import Linear


def causal_mask(t: int) -> Array:
    """(t, t): position t may look at itself and at what came before."""
    return jnp.tri(t, dtype=bool)


def scaled_dot_product_attention(q: Array, k: Array, v: Array, *, mask: Array | None = None) -> Array:
    """y = softmax(q kᵀ/√d) v  (Vaswani et al. 2017, arXiv:1706.03762): q (n, heads, t, d), k, v (n, heads, s, d).

    A query whose mask allows no key gets y = 0. ``jax.nn.dot_product_attention`` would
    take its softmax in float32 even where everything else is float64.
    """
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if mask is None:
        return jax.nn.softmax(scores) @ v
    p = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
    return jnp.where(mask, p, 0) @ v


class MultiHeadAttention(nnx.Module):
    """y = [head₁ head₂ …] Wₒ + bₒ, each head attending with its own part of q = x W + b, k = x W, v = x W + b."""

    def __init__(self, d: int, *, heads: int, rngs: nnx.Rngs):
        if heads < 1 or d % heads:
            raise ValueError(f"heads is {heads}: it must divide the number of features, {d}")
        self.heads = heads
        self.query = Linear(d, d, rngs=rngs)
        # a bias of the keys would add the same to all scores of a query: softmax does not see it
        self.key = Linear(d, d, use_bias=False, rngs=rngs)
        self.value = Linear(d, d, rngs=rngs)
        self.out = Linear(d, d, rngs=rngs)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """x (n, t, d) -> the same shape."""
        n, t, d = x.shape
        q, k, v = (
            project(x).reshape(n, t, self.heads, d // self.heads).swapaxes(1, 2)
            for project in (self.query, self.key, self.value)
        )
        y = scaled_dot_product_attention(q, k, v, mask=mask)
        return self.out(y.swapaxes(1, 2).reshape(n, t, d))


class Tokens(nnx.Module):
    """y = [class token, x] + a vector for each place; without it attention would see a set (arXiv:2010.11929).

    The class token asks all others, and ends as what the network says of the whole image.
    """

    def __init__(self, t: int, d: int):
        self.class_token = nnx.Param(jnp.zeros((1, 1, d)))
        self.pos_embedding = nnx.Param(jnp.zeros((1, t + 1, d)))

    def __call__(self, x: Array) -> Array:
        """x (n, t, d) -> (n, t + 1, d)."""
        n, _, d = x.shape
        class_token = jnp.broadcast_to(self.class_token[...], (n, 1, d))
        return jnp.concatenate([class_token, x], axis=1) + self.pos_embedding

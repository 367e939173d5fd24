"""Attention: each position receives a mean of all positions' values, weighted by how well their keys match its query.

A mask is True where a query (row) may attend to a key (column). It is broadcast to (n, heads, t, s), for
t queries and s keys.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_nn.layers import Linear


def causal_mask(t: int) -> Array:
    """Return a mask (t, t) that lets each position attend to itself and to earlier ones."""
    return jnp.tri(t, dtype=bool)


def scaled_dot_product_attention(q: Array, k: Array, v: Array, *, mask: Array | None = None) -> Array:
    """y = softmax(q kᵀ/√d) v  (Vaswani et al. 2017, arXiv:1706.03762).

    q (n, heads, t, d), k and v (n, heads, s, d) -> y (n, heads, t, d). A query whose mask allows no key gets y = 0.
    ``jax.nn.dot_product_attention`` is not used because it computes its softmax in float32 even for float64 input.
    """
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if mask is None:
        return jax.nn.softmax(scores) @ v
    p = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
    return jnp.where(mask, p, 0) @ v


class MultiHeadAttention(nnx.Module):
    """y = [head₁ head₂ …] Wₒ + bₒ, each head with its slice of q = x W_q + b_q, k = x W_k, v = x W_v + b_v.

    ValueError unless ``heads`` divides d (Vaswani et al. 2017, arXiv:1706.03762).
    """

    def __init__(self, d: int, *, heads: int, rngs: nnx.Rngs):
        if heads < 1 or d % heads:
            raise ValueError(f"heads is {heads}: it must divide the number of features, {d}")
        self.heads = heads
        self.query = Linear(d, d, rngs=rngs)
        # no bias for the keys: it would shift all scores of a query equally, which softmax ignores
        self.key = Linear(d, d, use_bias=False, rngs=rngs)
        self.value = Linear(d, d, rngs=rngs)
        self.out = Linear(d, d, rngs=rngs)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        """x (n, t, d) -> the same shape."""
        q, k, v = self.project(x)
        y = scaled_dot_product_attention(q, k, v, mask=mask)
        return self.merge(y)

    def project(self, x: Array) -> tuple[Array, ...]:
        """Return queries, keys and values: x (n, t, d) -> (n, heads, t, d/heads) each."""
        n, t, d = x.shape
        return tuple(
            linear(x).reshape(n, t, self.heads, d // self.heads).swapaxes(1, 2)
            for linear in (self.query, self.key, self.value)
        )

    def merge(self, y: Array) -> Array:
        """Map the outputs of all heads by the last layer: y (n, heads, t, d/heads) -> (n, t, d)."""
        n, heads, t, d = y.shape
        return self.out(y.swapaxes(1, 2).reshape(n, t, heads * d))


class Tokens(nnx.Module):
    """y = [class token, x] + position embedding  (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Attention ignores order, so the embedding marks the positions. The class token collects from all other tokens;
    the network classifies by its final value.
    """

    def __init__(self, t: int, d: int):
        self.class_token = nnx.Param(jnp.zeros((1, 1, d)))
        self.pos_embedding = nnx.Param(jnp.zeros((1, t + 1, d)))

    def __call__(self, x: Array) -> Array:
        """x (n, t, d) -> (n, t + 1, d)."""
        n, _, d = x.shape
        class_token = jnp.broadcast_to(self.class_token[...], (n, 1, d))
        return jnp.concatenate([class_token, x], axis=1) + self.pos_embedding


class Positions(nnx.Module):
    """y = x + position embedding, learned  (Radford et al. 2019)."""

    def __init__(self, t: int, d: int):
        self.pos_embedding = nnx.Param(jnp.zeros((t, d)))

    def __call__(self, x: Array) -> Array:
        """x (n, t, d) -> the same shape."""
        t = x.shape[1]
        return x + self.pos_embedding[:t]

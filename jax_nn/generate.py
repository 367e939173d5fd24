"""Decoding with a key-value cache: a token's logits without computing the tokens before it again.

In causal attention, a position does not see later ones, so its keys and values in each block never change. They are
kept in a cache; a new token computes its own, and attends to all of them. The cache has a place for each position, so
that one compiled program serves every ``start``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from jax.nn import gelu

from jax_nn import interop
from jax_nn.attention import causal_mask, scaled_dot_product_attention
from jax_nn.devices import full_precision
from jax_nn.models.gpt import GPT

Cache = list[tuple[Array, Array]]  # keys and values (n, heads, s, d/heads) of each block, for all s positions


def empty_cache(network: GPT, dtype: Any) -> Cache:
    """Return the keys and values of one sequence, zero at all positions."""
    context, d = network.positions.pos_embedding.shape
    heads = network.blocks[0].attention.heads
    shape = (1, heads, context, d // heads)
    return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in network.blocks]


def decode(network: GPT, x: Array, cache: Cache, start: Array) -> tuple[Array, Cache]:
    """Return the logits (n, t, v) of the tokens x (n, t) at positions start, …, start + t - 1, and the new cache.

    The cache must hold the positions before; what it holds beyond is masked.
    """
    _, t = x.shape
    context, _ = network.positions.pos_embedding.shape
    x = network.embedding(x)
    x = x + lax.dynamic_slice_in_dim(network.positions.pos_embedding[...], start, t)
    mask = lax.dynamic_slice_in_dim(causal_mask(context), start, t)
    new: Cache = []
    for block, (keys, values) in zip(network.blocks, cache, strict=True):
        h = block.norm1(x)
        q, key, value = block.attention.project(h)
        keys, values = (
            lax.dynamic_update_slice_in_dim(old, each, start, axis=2) for old, each in ((keys, key), (values, value))
        )
        new.append((keys, values))
        y = scaled_dot_product_attention(q, keys, values, mask=mask)
        h = block.attention.merge(y)
        x = x + h
        h = block.norm2(x)
        h = block.expand(h)
        h = gelu(h, approximate=False)
        h = block.contract(h)
        x = x + h
    h = network.norm(x)
    kernel = network.embedding.embedding[...].T if network.tied else network.output.kernel[...]
    return h @ kernel, new


class Decoder:
    """A GPT that reads one sequence: ``decoder(tokens, start)`` returns the logits (v,) after the last of its tokens.

    Tokens are int (t,), at positions start, …, start + t - 1 of the context. A start of 0 begins a new sequence. Each
    number of tokens t is compiled once.
    """

    def __init__(self, params: dict[str, Any], *, model_args: dict[str, Any], precision: str = "float32"):
        network = nnx.eval_shape(lambda: GPT(**model_args, rngs=nnx.Rngs(0)))
        graphdef = nnx.graphdef(network)
        self.params = interop.to_jax(params, precision)
        self.cache = empty_cache(network, precision)

        def read(params: Any, x: Array, cache: Cache, start: Array) -> tuple[Array, Cache]:
            logits, cache = decode(nnx.merge(graphdef, params), x, cache, start)
            return logits[0, -1], cache

        self.read = jax.jit(full_precision(read), donate_argnums=2)  # the new cache reuses the memory of the old one

    def __call__(self, tokens: np.ndarray, start: int) -> np.ndarray:
        """Read the tokens."""
        logits, self.cache = self.read(self.params, tokens[None], self.cache, np.int32(start))
        return np.asarray(logits)

"""Decoding with a key-value cache: a token's logits without computing the tokens before it again.

In causal attention, a position does not see later ones, so its keys and values in each block never change. They are
kept in a cache; a new token computes its own, and attends to all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.attention import causal_mask, merge_heads, scaled_dot_product_attention_forward, split_heads
from numpy_nn.layers import embedding_forward, gelu_forward, linear_forward
from numpy_nn.models.gpt import GPT
from numpy_nn.norm import layer_norm_forward
from numpy_nn.shapes import Array, Float, Int
from numpy_nn.tree import Tree, cast

Cache = list[tuple[Array, Array]]  # keys and values (n, heads, s, d/heads) of each block, for all s positions


def empty_cache(network: GPT, dtype: Any) -> Cache:
    """Keys and values of one sequence, zero at all positions."""
    heads = network.blocks[0].heads
    shape = (1, heads, network.context, network.dim // heads)
    return [(np.zeros(shape, dtype), np.zeros(shape, dtype)) for _ in network.blocks]


def decode(network: GPT, params: Tree, x: Int[Array, "n t"], cache: Cache, start: int) -> Float[Array, "n t v"]:
    """Return the logits of the tokens at positions start, …, start + t - 1; their keys and values enter the cache.

    The cache must hold the positions before; what it holds beyond is masked.
    """
    _, t = x.shape
    new = slice(start, start + t)
    x, _ = embedding_forward(x, **params["embedding"])
    x = x + params["positions"]["pos_embedding"][new]
    mask = causal_mask(network.context)[new]
    for k, (block, (keys, values)) in enumerate(zip(network.blocks, cache, strict=True)):
        weights = params["blocks"][str(k)]
        h, _ = layer_norm_forward(x, **weights["norm1"], eps=network.eps)
        q, key, value = (
            split_heads(linear_forward(h, **weights["attention"][name])[0], block.heads)
            for name in ("query", "key", "value")
        )
        keys[:, :, new], values[:, :, new] = key, value
        y, _ = scaled_dot_product_attention_forward(q, keys, values, mask=mask)
        h, _ = linear_forward(merge_heads(y), **weights["attention"]["out"])
        x = x + h
        h, _ = layer_norm_forward(x, **weights["norm2"], eps=network.eps)
        h, _ = linear_forward(h, **weights["expand"])
        h, _ = gelu_forward(h)
        h, _ = linear_forward(h, **weights["contract"])
        x = x + h
    h, _ = layer_norm_forward(x, **params["norm"], eps=network.eps)
    kernel = params["embedding"]["embedding"].T if network.tied else params["output"]["kernel"]
    logits, _ = linear_forward(h, kernel)
    return logits


class Decoder:
    """A GPT that reads one sequence: ``decoder(tokens, start)`` returns the logits (v,) after the last of its tokens.

    Tokens are int (t,), at positions start, …, start + t - 1 of the context. A start of 0 begins a new sequence.
    """

    def __init__(self, params: Tree, *, model_args: dict[str, Any], precision: str = "float32"):
        self.network = GPT(**model_args)
        self.params = cast(params, precision)
        self.cache = empty_cache(self.network, precision)

    def __call__(self, tokens: Int[Array, " t"], start: int) -> Float[Array, " v"]:
        """Read the tokens."""
        return decode(self.network, self.params, tokens[None], self.cache, start)[0, -1]

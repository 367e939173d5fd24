"""Decoding with a key-value cache: a token's logits without computing the tokens before it again.

In causal attention, a position does not see later ones, so its keys and values in each block never change. They are
kept in a cache; a new token computes its own, and attends to all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention

from torch_nn import interop
from torch_nn.attention import causal_mask
from torch_nn.models.gpt import GPT
from torch_nn.precision import PARAM_DTYPES

Cache = list[tuple[Tensor, Tensor]]  # keys and values (n, heads, s, d/heads) of each block, for all s positions


def empty_cache(network: GPT, dtype: torch.dtype) -> Cache:
    """Return the keys and values of one sequence, zero at all positions."""
    context, d = network.positions.pos_embedding.shape
    heads = network.blocks[0].attention.heads
    shape = (1, heads, context, d // heads)
    return [(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in network.blocks]


def decode(network: GPT, x: Tensor, cache: Cache, start: int) -> Tensor:
    """Return the logits (n, t, v) of the tokens x (n, t) at positions start, …, start + t - 1.

    Their keys and values enter the cache. It must hold the positions before; what it holds beyond is masked.
    """
    _, t = x.shape
    context, _ = network.positions.pos_embedding.shape
    new = slice(start, start + t)
    x = network.embedding(x)
    x = x + network.positions.pos_embedding[new]
    mask = causal_mask(context)[new]
    for block, (keys, values) in zip(network.blocks, cache, strict=True):
        h = block.norm1(x)
        q, key, value = block.attention.project(h)
        keys[:, :, new], values[:, :, new] = key, value
        y = scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        h = block.attention.merge(y)
        x = x + h
        h = block.norm2(x)
        h = block.expand(h)
        h = gelu(h)
        h = block.contract(h)
        x = x + h
    h = network.norm(x)
    kernel = network.embedding.weight.T if network.tied else network.output.weight.T
    return h @ kernel


class Decoder:
    """A GPT that reads one sequence: ``decoder(tokens, start)`` returns the logits (v,) after the last of its tokens.

    Tokens are int (t,), at positions start, …, start + t - 1 of the context. A start of 0 begins a new sequence.
    """

    def __init__(self, params: dict[str, Any], *, model_args: dict[str, Any], precision: str = "float32"):
        dtype = PARAM_DTYPES[precision]
        self.network = GPT(**model_args).to(dtype)
        interop.params_from_tree(self.network, params)
        self.cache = empty_cache(self.network, dtype)

    @torch.inference_mode()
    def __call__(self, tokens: np.ndarray, start: int) -> np.ndarray:
        """Read the tokens."""
        return decode(self.network, torch.from_numpy(tokens)[None], self.cache, start)[0, -1].numpy()

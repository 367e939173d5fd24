"""Attention: the output at each position is a mean of all values, weighted by how well its query matches their keys.

A mask is True where a query (row) may attend to a key (column). It is broadcast to (n, heads, t, s) for t queries and
s keys.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numpy_nn.layers import linear_backward, linear_forward, linear_init
from numpy_nn.shapes import Array, Bool, Float
from numpy_nn.tree import Tree

Cache = Any


def causal_mask(t: int) -> Bool[Array, "t t"]:
    """Lower triangle of True: position t attends to itself and to earlier positions."""
    return np.tri(t, dtype=bool)


def scaled_dot_product_attention_forward(
    q: Float[Array, "n heads t d"],
    k: Float[Array, "n heads s d"],
    v: Float[Array, "n heads s d"],
    *,
    mask: Bool[Array, "*_ #t s"] | None = None,
) -> tuple[Float[Array, "n heads t d"], Cache]:
    """y = P v,  P = softmax(q kᵀ/√d) over the keys (Vaswani et al. 2017, arXiv:1706.03762).

    A query without any allowed key gets y = 0.
    """
    scale = 1 / math.sqrt(q.shape[-1])
    p = q @ k.swapaxes(-1, -2)
    p *= scale
    if mask is not None:
        p = np.where(mask, p, -np.inf)
    # softmax in place; the bounds avoid -∞ - (-∞) and 0/0 in rows without any allowed key
    p -= np.maximum(p.max(axis=-1, keepdims=True), np.finfo(p.dtype).min)
    np.exp(p, out=p)
    p /= np.maximum(p.sum(axis=-1, keepdims=True), np.finfo(p.dtype).tiny)
    return p @ v, (q, k, v, p, scale)


def scaled_dot_product_attention_backward(
    dy: Float[Array, "n heads t d"], cache: Cache
) -> tuple[Float[Array, "n heads t d"], Float[Array, "n heads s d"], Float[Array, "n heads s d"]]:
    """dv = Pᵀ dy,  dP = dy vᵀ,  dS = P (dP - Σₛ P dP),  dq = dS k/√d,  dk = dSᵀ q/√d, where S = q kᵀ/√d."""
    q, k, v, p, scale = cache
    # y = P v
    dv = p.swapaxes(-1, -2) @ dy
    dp = dy @ v.swapaxes(-1, -2)
    # P = softmax(S): where P is 0, as under a mask, dS is 0
    dp -= (p * dp).sum(axis=-1, keepdims=True)
    ds = dp
    ds *= p
    # S = q kᵀ/√d
    ds *= scale
    dq = ds @ k
    dk = ds.swapaxes(-1, -2) @ q
    return dq, dk, dv


def attention_init(rng: np.random.Generator, d: int) -> Tree:
    """Parameters: ``query``, ``key``, ``value``, ``out``, each a linear map with ``kernel (d, d)``, ``bias (d,)``.

    Keys have no bias: it would add the same number to all scores of a query, which softmax ignores, so its gradient
    would be 0 (left out as in BEiT, arXiv:2106.08254).
    """
    names = ("query", "key", "value", "out")
    return {name: linear_init(rng, d, d, "glorot_uniform", bias=name != "key") for name in names}


def split_heads(x: Float[Array, "n t d"], heads: int) -> Float[Array, "n heads t _"]:
    """Split the features into ``heads`` equal parts: (n, t, d) -> (n, heads, t, d/heads), a view."""
    n, t, d = x.shape
    if d % heads:
        raise ValueError(f"{heads} heads cannot share {d} features evenly")
    return x.reshape(n, t, heads, d // heads).swapaxes(1, 2)


def merge_heads(x: Float[Array, "n heads t _"]) -> Float[Array, "n t d"]:
    """Undo ``split_heads``."""
    n, heads, t, d = x.shape
    return x.swapaxes(1, 2).reshape(n, t, heads * d)


def multi_head_attention_forward(
    x: Float[Array, "n t d"], params: Tree, *, heads: int, mask: Bool[Array, "*_ #t t"] | None = None
) -> tuple[Float[Array, "n t d"], Cache]:
    """y = [head₁ head₂ …] Wₒ + bₒ, each head attending with its own features of q = x W + b, k = x W, v = x W + b."""
    q, query_cache = linear_forward(x, **params["query"])
    k, key_cache = linear_forward(x, **params["key"])
    v, value_cache = linear_forward(x, **params["value"])
    q, k, v = (split_heads(each, heads) for each in (q, k, v))
    y, attention_cache = scaled_dot_product_attention_forward(q, k, v, mask=mask)
    y, out_cache = linear_forward(merge_heads(y), **params["out"])
    return y, (heads, query_cache, key_cache, value_cache, attention_cache, out_cache)


def multi_head_attention_backward(dy: Float[Array, "n t d"], cache: Cache) -> tuple[Float[Array, "n t d"], Tree]:
    """The lines of forward in reverse order; x was used three times (q, k, v), so dx is a sum of three gradients."""
    heads, query_cache, key_cache, value_cache, attention_cache, out_cache = cache
    dy, dkernel, dbias = linear_backward(dy, out_cache)
    dout = {"kernel": dkernel, "bias": dbias}
    dheads = scaled_dot_product_attention_backward(split_heads(dy, heads), attention_cache)
    dq, dk, dv = (merge_heads(each) for each in dheads)
    dx, dkernel, dbias = linear_backward(dv, value_cache)
    dvalue = {"kernel": dkernel, "bias": dbias}
    dx_key, dkernel, _ = linear_backward(dk, key_cache)
    dkey = {"kernel": dkernel}
    dx_query, dkernel, dbias = linear_backward(dq, query_cache)
    dquery = {"kernel": dkernel, "bias": dbias}
    dx += dx_key
    dx += dx_query
    return dx, {"query": dquery, "key": dkey, "value": dvalue, "out": dout}


# --- tokens -----------------------------------------------------------------------------------------------------------


def tokens_init(rng: np.random.Generator, t: int, d: int) -> Tree:
    """Parameters for t patches: ``class_token (1, 1, d)`` zero, ``pos_embedding (1, t + 1, d)`` from N(0, 0.02²)."""
    return {"class_token": np.zeros((1, 1, d)), "pos_embedding": rng.normal(0.0, 0.02, (1, t + 1, d))}


def tokens_forward(
    x: Float[Array, "n t d"], class_token: Float[Array, "1 1 d"], pos_embedding: Float[Array, "1 t+1 d"]
) -> Float[Array, "n t+1 d"]:
    """y = [class token, x] + position embedding, without which attention ignores order (arXiv:2010.11929).

    The class token attends to all others; its last state represents the whole image.
    """
    n, _, d = x.shape
    y = np.concatenate([np.broadcast_to(class_token, (n, 1, d)), x], axis=1)
    y += pos_embedding
    return y


def tokens_backward(
    dy: Float[Array, "n t1 d"],
) -> tuple[Float[Array, "n t d"], Float[Array, "1 1 d"], Float[Array, "1 t1 d"]]:
    """dx = dy without its first position,  dpos_embedding = Σₙ dy,  dclass_token = its first position."""
    dpos_embedding = dy.sum(axis=0, keepdims=True)
    return dy[:, 1:], dpos_embedding[:, :1].copy(), dpos_embedding


def positions_init(rng: np.random.Generator, t: int, d: int) -> Tree:
    """Parameters for t positions: ``pos_embedding (t, d)`` from N(0, 0.02²)."""
    return {"pos_embedding": rng.normal(0.0, 0.02, (t, d))}


def positions_forward(
    x: Float[Array, "n t d"], pos_embedding: Float[Array, "s d"]
) -> tuple[Float[Array, "n t d"], Cache]:
    """y = x + the first t position embeddings."""
    t = x.shape[1]
    return x + pos_embedding[:t], pos_embedding.shape


def positions_backward(dy: Float[Array, "n t d"], cache: Cache) -> tuple[Float[Array, "n t d"], Float[Array, "s d"]]:
    """dx = dy,  dpos_embedding = Σₙ dy, and 0 for positions beyond t."""
    t = dy.shape[1]
    dpos_embedding = np.zeros(cache, dy.dtype)
    dpos_embedding[:t] = dy.sum(axis=0)
    return dy, dpos_embedding

"""Attention: each position receives a mean of all positions' values, weighted by how well their keys match its query.

A mask is True where a query (row) may attend to a key (column). It is broadcast to (n, heads, t, s), for
t queries and s keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from torch_nn.layers import Linear


def causal_mask(t: int) -> Tensor:
    """Return a mask (t, t) that lets each position attend to itself and to earlier ones."""
    return torch.ones(t, t, dtype=torch.bool).tril()


class MultiHeadAttention(nn.Module):
    """y = [head₁ head₂ …] Wₒ + bₒ, each head with its slice of q = x W_q + b_q, k = x W_k, v = x W_v + b_v.

    softmax(q kᵀ/√d) v is PyTorch's fused kernel. ValueError unless ``heads`` divides d (Vaswani et al. 2017,
    arXiv:1706.03762).
    """

    def __init__(self, d: int, *, heads: int):
        super().__init__()
        if heads < 1 or d % heads:
            raise ValueError(f"heads is {heads}: it must divide the number of features, {d}")
        self.heads = heads
        self.query = Linear(d, d)
        # no bias for the keys: it would shift all scores of a query equally, which softmax ignores
        self.key = Linear(d, d, bias=False)
        self.value = Linear(d, d)
        self.out = Linear(d, d)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (n, t, d) -> the same shape."""
        q, k, v = self.project(x)
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.merge(y)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values: x (n, t, d) -> (n, heads, t, d/heads) each."""
        return tuple(
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )

    def merge(self, y: Tensor) -> Tensor:
        """Map the outputs of all heads by the last layer: y (n, heads, t, d/heads) -> (n, t, d)."""
        return self.out(y.transpose(1, 2).flatten(2))


class Tokens(nn.Module):
    """y = [class token, x] + position embedding  (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Attention ignores order, so the embedding marks the positions. The class token collects from all other tokens;
    the network classifies by its final value.
    """

    def __init__(self, t: int, d: int):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_embedding = nn.Parameter(torch.zeros(1, t + 1, d))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, t, d) -> (n, t + 1, d)."""
        class_token = self.class_token.expand(x.shape[0], -1, -1)
        return torch.cat([class_token, x], dim=1) + self.pos_embedding


class Positions(nn.Module):
    """y = x + position embedding, learned  (Radford et al. 2019)."""

    def __init__(self, t: int, d: int):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.zeros(t, d))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, t, d) -> the same shape."""
        t = x.shape[1]
        return x + self.pos_embedding[:t]

"""Attention: every position looks at every other and takes from each as much as it finds alike.

A mask is True where a query (row) may look at a key (column); it is broadcast to
(n, heads, t, s), where s, the number of keys, may differ from t, that of the queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from torch_nn.layers import Linear


def causal_mask(t: int) -> Tensor:
    """(t, t): position t may look at itself and at what came before."""
    return torch.ones(t, t, dtype=torch.bool).tril()


class MultiHeadAttention(nn.Module):
    """y = [head₁ head₂ …] Wₒ + bₒ, each head attending with its own part of q = x W + b, k = x W, v = x W + b.

    softmax(q kᵀ/√d) v is PyTorch's fused kernel (Vaswani et al. 2017, arXiv:1706.03762).
    """

    def __init__(self, d: int, *, heads: int):
        super().__init__()
        if heads < 1 or d % heads:
            raise ValueError(f"heads is {heads}: it must divide the number of features, {d}")
        self.heads = heads
        self.query = Linear(d, d)
        # a bias of the keys would add the same to all scores of a query: softmax does not see it
        self.key = Linear(d, d, bias=False)
        self.value = Linear(d, d)
        self.out = Linear(d, d)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (n, t, d) -> the same shape."""
        q, k, v = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value)
        )
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))


class Tokens(nn.Module):
    """y = [class token, x] + a vector for each place; without it attention would see a set (arXiv:2010.11929).

    The class token asks all others, and ends as what the network says of the whole image.
    """

    def __init__(self, t: int, d: int):
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, d))
        self.pos_embedding = nn.Parameter(torch.zeros(1, t + 1, d))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, t, d) -> (n, t + 1, d)."""
        class_token = self.class_token.expand(x.shape[0], -1, -1)
        return torch.cat([class_token, x], dim=1) + self.pos_embedding

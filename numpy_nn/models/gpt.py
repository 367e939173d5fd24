"""GPT: a text as a sequence of tokens, each predicted from those before it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numpy_nn.attention import (
    attention_init,
    causal_mask,
    multi_head_attention_backward,
    multi_head_attention_forward,
    positions_backward,
    positions_forward,
    positions_init,
)
from numpy_nn.layers import (
    embedding_backward,
    embedding_forward,
    embedding_init,
    gelu_backward,
    gelu_forward,
    linear_backward,
    linear_forward,
    linear_init,
)
from numpy_nn.norm import EPS, EVAL, Mode, layer_norm_backward, layer_norm_forward, norm_init
from numpy_nn.shapes import Array, Bool, Float, Int
from numpy_nn.tree import Tree

Cache = Any


class DecoderBlock:
    """x ← x + attention(norm(x)),  x ← x + contract(gelu(expand(norm(x)))), where no position sees a later one.

    The mask is the only difference from the encoder block of a ViT.
    """

    def __init__(self, dim: int, *, heads: int, mlp_dim: int, eps: float):
        self.dim, self.heads, self.mlp_dim, self.eps = dim, heads, mlp_dim, eps

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters: Glorot for every matrix."""
        return {
            "norm1": norm_init(self.dim),
            "attention": attention_init(rng, self.dim),
            "norm2": norm_init(self.dim),
            "expand": linear_init(rng, self.dim, self.mlp_dim, "glorot_uniform"),
            "contract": linear_init(rng, self.mlp_dim, self.dim, "glorot_uniform"),
        }

    def forward(
        self, params: Tree, x: Float[Array, "n t d"], mask: Bool[Array, "t t"]
    ) -> tuple[Float[Array, "n t d"], Cache]:
        """x (n, t, d) -> the same shape."""
        h, norm1_cache = layer_norm_forward(x, **params["norm1"], eps=self.eps)
        h, attention_cache = multi_head_attention_forward(h, params["attention"], heads=self.heads, mask=mask)
        x = x + h
        h, norm2_cache = layer_norm_forward(x, **params["norm2"], eps=self.eps)
        h, expand_cache = linear_forward(h, **params["expand"])
        h, gelu_cache = gelu_forward(h)
        h, contract_cache = linear_forward(h, **params["contract"])
        x = x + h
        return x, (norm1_cache, attention_cache, norm2_cache, expand_cache, gelu_cache, contract_cache)

    def backward(self, dx: Float[Array, "n t d"], cache: Cache) -> tuple[Float[Array, "n t d"], Tree]:
        """The lines of forward in reverse order; where x is used twice, dx is the sum of two gradients."""
        norm1_cache, attention_cache, norm2_cache, expand_cache, gelu_cache, contract_cache = cache
        dh, dkernel, dbias = linear_backward(dx, contract_cache)
        dcontract = {"kernel": dkernel, "bias": dbias}
        dh = gelu_backward(dh, gelu_cache)
        dh, dkernel, dbias = linear_backward(dh, expand_cache)
        dexpand = {"kernel": dkernel, "bias": dbias}
        dh, dscale, dbias = layer_norm_backward(dh, norm2_cache)
        dnorm2 = {"scale": dscale, "bias": dbias}
        dx = dx + dh
        dh, dattention = multi_head_attention_backward(dx, attention_cache)
        dh, dscale, dbias = layer_norm_backward(dh, norm1_cache)
        dnorm1 = {"scale": dscale, "bias": dbias}
        dx = dx + dh
        grads = {"norm1": dnorm1, "attention": dattention, "norm2": dnorm2, "expand": dexpand, "contract": dcontract}
        return dx, grads


class GPT:
    """tokens (n, t) -> token embedding + position embedding -> blocks -> norm -> linear -> logits (n, t, v).

    Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2), with the exact GELU instead of
    its tanh approximation. The logits at a position are those of the next token. ``input_shape`` is the context, the
    number of positions; ``classes`` is the vocabulary. With ``tied``, the output layer is the transpose of the token
    embedding (Press & Wolf 2017, arXiv:1608.05859). GPT-2 small is ``input_shape=(1024,), dim=768, depth=12,
    heads=12, mlp_dim=3072, classes=50257``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (128,),
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        mlp_dim: int = 256,
        tied: bool = True,
        eps: float = EPS,
        classes: int = 128,
    ):
        if len(input_shape) != 1:
            raise ValueError(f"input_shape is {input_shape}: a text has one number, its length")
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(f"heads is {heads}: it must divide the number of features, {dim}")
        if depth < 1 or mlp_dim < 1:
            raise ValueError(f"depth is {depth} and mlp_dim {mlp_dim}: both must be at least 1")
        (self.context,) = input_shape
        self.dim = dim
        self.tied = tied
        self.classes = classes
        self.eps = eps
        self.blocks = [DecoderBlock(dim, heads=heads, mlp_dim=mlp_dim, eps=eps) for _ in range(depth)]

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: Glorot for every matrix, see ``positions_init`` for the positions.

        Each block adds two terms to x. Their last kernels are divided by √(2 depth), as in GPT-2, so that x does not
        grow with the depth.
        """
        params = {
            "embedding": embedding_init(rng, self.classes, self.dim),
            "positions": positions_init(rng, self.context, self.dim),
            "blocks": {str(k): block.init(rng) for k, block in enumerate(self.blocks)},
            "norm": norm_init(self.dim),
        }
        for block in params["blocks"].values():
            block["attention"]["out"]["kernel"] /= math.sqrt(2 * len(self.blocks))
            block["contract"]["kernel"] /= math.sqrt(2 * len(self.blocks))
        if not self.tied:
            params["output"] = linear_init(rng, self.dim, self.classes, "glorot_uniform", bias=False)
        return {"params": params, "stats": {}}

    def forward(
        self, params: Tree, stats: Tree, x: Int[Array, "n t"], mode: Mode = EVAL
    ) -> tuple[Float[Array, "n t v"], Tree, Cache]:
        """Return logits, running statistics (none here) and the cache of backward."""
        _, t = x.shape
        x, embedding_cache = embedding_forward(x, **params["embedding"])
        x, positions_cache = positions_forward(x, **params["positions"])
        mask = causal_mask(t)
        caches = []
        for k, block in enumerate(self.blocks):
            x, block_cache = block.forward(params["blocks"][str(k)], x, mask)
            caches.append(block_cache)
        h, norm_cache = layer_norm_forward(x, **params["norm"], eps=self.eps)
        kernel = params["embedding"]["embedding"].T if self.tied else params["output"]["kernel"]
        logits, output_cache = linear_forward(h, kernel)
        return logits, stats, (embedding_cache, positions_cache, caches, norm_cache, output_cache)

    def backward(self, dlogits: Float[Array, "n t v"], cache: Cache) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        embedding_cache, positions_cache, caches, norm_cache, output_cache = cache
        dh, dkernel, _ = linear_backward(dlogits, output_cache)
        dh, dscale, dbias = layer_norm_backward(dh, norm_cache)
        dnorm = {"scale": dscale, "bias": dbias}
        dx, dblocks = dh, {}
        for k, block in reversed(list(enumerate(self.blocks))):
            dx, dblocks[str(k)] = block.backward(dx, caches[k])
        dx, dpos_embedding = positions_backward(dx, positions_cache)
        dpositions = {"pos_embedding": dpos_embedding}
        dembedding = {"embedding": embedding_backward(dx, embedding_cache)}
        grads = {"embedding": dembedding, "positions": dpositions, "blocks": dblocks, "norm": dnorm}
        if not self.tied:
            return grads | {"output": {"kernel": dkernel}}
        dembedding["embedding"] += dkernel.T  # the embedding is used twice, so its gradient is a sum
        return grads

"""ViT: an image as a sequence of patches, which exchange information by attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.attention import (
    attention_init,
    multi_head_attention_backward,
    multi_head_attention_forward,
    tokens_backward,
    tokens_forward,
    tokens_init,
)
from numpy_nn.conv import conv2d_backward, conv2d_forward, conv2d_init
from numpy_nn.layers import gelu_backward, gelu_forward, linear_backward, linear_forward, linear_init
from numpy_nn.norm import EPS, EVAL, Mode, layer_norm_backward, layer_norm_forward, norm_init
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree

Cache = Any


class EncoderBlock:
    """x ← x + attention(norm(x)),  x ← x + contract(gelu(expand(norm(x)))): pre-norm, as in the paper.

    The sum passes x on unchanged, so the gradient of the last block reaches the first unchanged, too.
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

    def forward(self, params: Tree, x: Float[Array, "n t d"]) -> tuple[Float[Array, "n t d"], Cache]:
        """x (n, t, d) -> the same shape."""
        h, norm1_cache = layer_norm_forward(x, **params["norm1"], eps=self.eps)
        h, attention_cache = multi_head_attention_forward(h, params["attention"], heads=self.heads)
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


class ViT:
    """x (n, h, w, c) -> patches -> class token, positions -> blocks -> class token -> norm -> linear -> logits.

    Dosovitskiy et al. 2021, "An image is worth 16x16 words", arXiv:2010.11929. A patch becomes
    a vector by a convolution whose stride is the size of its kernel. torchvision's networks and the paper's own
    have ``eps=1e-6``; ViT-B/16 is ``input_shape=(224, 224, 3), patch=16, dim=768, depth=12,
    heads=12, mlp_dim=3072, eps=1e-6, classes=1000``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (28, 28, 1),
        patch: int = 7,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_dim: int = 128,
        eps: float = EPS,
        classes: int = 10,
    ):
        h, w, c = input_shape
        if patch < 1 or h % patch or w % patch:
            raise ValueError(f"patch is {patch}: it must divide the image's height {h} and width {w}")
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(f"heads is {heads}: it must divide the number of features, {dim}")
        if depth < 1 or mlp_dim < 1:
            raise ValueError(f"depth is {depth} and mlp_dim {mlp_dim}: both must be at least 1")
        self.c, self.patch, self.patches = c, patch, (h // patch) * (w // patch)
        self.dim = dim
        self.classes = classes
        self.eps = eps
        self.blocks = [EncoderBlock(dim, heads=heads, mlp_dim=mlp_dim, eps=eps) for _ in range(depth)]

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: Glorot for every matrix, LeCun for the patches."""
        params = {
            "patches": conv2d_init(rng, self.patch, self.c, self.dim, "lecun_normal"),
            "tokens": tokens_init(rng, self.patches, self.dim),
            "blocks": {str(k): block.init(rng) for k, block in enumerate(self.blocks)},
            "norm": norm_init(self.dim),
            "output": linear_init(rng, self.dim, self.classes, "glorot_uniform"),
        }
        return {"params": params, "stats": {}}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w c"], mode: Mode = EVAL
    ) -> tuple[Float[Array, "n v"], Tree, Cache]:
        """Return logits, running statistics (none here) and the cache of backward."""
        x, patches_cache = conv2d_forward(x, **params["patches"], stride=self.patch)
        grid_shape = x.shape
        x = x.reshape(len(x), self.patches, self.dim)
        x = tokens_forward(x, **params["tokens"])
        caches = []
        for k, block in enumerate(self.blocks):
            x, block_cache = block.forward(params["blocks"][str(k)], x)
            caches.append(block_cache)
        tokens_shape = x.shape
        h, norm_cache = layer_norm_forward(x[:, 0], **params["norm"], eps=self.eps)
        logits, output_cache = linear_forward(h, **params["output"])
        return logits, stats, (patches_cache, grid_shape, caches, tokens_shape, norm_cache, output_cache)

    def backward(self, dlogits: Float[Array, "n v"], cache: Cache) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        patches_cache, grid_shape, caches, tokens_shape, norm_cache, output_cache = cache
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        doutput = {"kernel": dkernel, "bias": dbias}
        dh, dscale, dbias = layer_norm_backward(dh, norm_cache)
        dnorm = {"scale": dscale, "bias": dbias}
        dx = np.zeros(tokens_shape, dh.dtype)
        dx[:, 0] = dh  # only the class token was read
        dblocks: Tree = {}
        for k, block in reversed(list(enumerate(self.blocks))):
            dx, dblocks[str(k)] = block.backward(dx, caches[k])
        dx, dclass_token, dpos_embedding = tokens_backward(dx)
        dtokens = {"class_token": dclass_token, "pos_embedding": dpos_embedding}
        dx = dx.reshape(grid_shape)
        _, dkernel, dbias = conv2d_backward(dx, patches_cache, need_dx=False)
        dpatches = {"kernel": dkernel, "bias": dbias}
        return {"patches": dpatches, "tokens": dtokens, "blocks": dblocks, "norm": dnorm, "output": doutput}

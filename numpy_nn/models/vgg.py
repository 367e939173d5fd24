"""VGG: a plain stack of 3x3 convolutions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from numpy_nn.conv import (
    adaptive_avg_pool_backward,
    adaptive_avg_pool_forward,
    conv2d_backward,
    conv2d_forward,
    conv2d_init,
    max_pool_backward,
    max_pool_forward,
    out_size,
)
from numpy_nn.layers import (
    flatten_backward,
    flatten_forward,
    linear_backward,
    linear_forward,
    linear_init,
    relu_backward,
    relu_forward,
)
from numpy_nn.norm import EVAL, Mode, batch_norm_backward, batch_norm_forward, norm_init, stats_init
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree


class VGG:
    """x (n, h, w, c) -> stages of [conv -> norm -> relu] and a max pool -> average pool -> linears -> logits.

    Simonyan & Zisserman 2014, arXiv:1409.1556, with batch norm and without dropout. ``stages`` is the number of
    convolutions of each stage; one before a norm has no bias, which the norm would subtract. max(relu(a), relu(b)) =
    relu(max(a, b)), so pooling first needs a quarter of the ReLUs. The default is a narrow VGG-11 for 32 pixels;
    VGG-13, 16 and 19 have ``stages`` (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4). VGG-11 for ImageNet is
    ``input_shape=(224, 224, 3), channels=(64, 128, 256, 512, 512), pool=7, hidden=(4096, 4096), classes=1000``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (32, 32, 3),
        stages: tuple[int, ...] = (1, 1, 2, 2, 2),
        channels: tuple[int, ...] = (16, 32, 64, 128, 128),
        batch_norm: bool = True,
        pool: int = 1,
        hidden: tuple[int, ...] = (),
        classes: int = 10,
    ):
        h, w, c = input_shape
        if not stages or len(stages) != len(channels) or min(stages) < 1:
            raise ValueError(f"stages {stages} and channels {channels}: give one number of each per stage, at least 1")
        for _ in stages:
            h, w = (out_size(size, 2, 2, 0) for size in (h, w))
        outs = [o for count, o in zip(stages, channels, strict=True) for _ in range(count)]
        self.channels = [c, *outs]
        self.batch_norm = batch_norm
        self.ends = tuple(itertools.accumulate(stages))  # numbers of convolutions after which a stage ends
        self.pool = pool
        self.units = [pool * pool * outs[-1], *hidden]
        self.classes = classes

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: He before a relu, Glorot for the output."""
        sizes, units = itertools.pairwise(self.channels), itertools.pairwise(self.units)
        convs = {str(k): conv2d_init(rng, 3, i, o, bias=not self.batch_norm) for k, (i, o) in enumerate(sizes)}
        hidden = {str(k): linear_init(rng, i, o) for k, (i, o) in enumerate(units)}
        output = linear_init(rng, self.units[-1], self.classes, "glorot_uniform")
        params = {"convs": convs, "output": output} | ({"hidden": hidden} if hidden else {})
        if not self.batch_norm:
            return {"params": params, "stats": {}}
        norms = {str(k): norm_init(o) for k, o in enumerate(self.channels[1:])}
        stats = {str(k): stats_init(o) for k, o in enumerate(self.channels[1:])}
        return {"params": params | {"norms": norms}, "stats": {"norms": stats}}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w c"], mode: Mode = EVAL
    ) -> tuple[Float[Array, "n v"], Tree, Any]:
        """Return logits, new running statistics and the cache of backward."""
        new: Tree = {"norms": {}} if self.batch_norm else {}
        caches, hidden_caches = [], []
        for k, conv in enumerate(params["convs"].values()):
            norm_cache = pool_cache = None
            x, conv_cache = conv2d_forward(x, **conv, padding=1)
            if self.batch_norm:
                norm, old = params["norms"][str(k)], stats["norms"][str(k)]
                x, new["norms"][str(k)], norm_cache = batch_norm_forward(x, **norm, stats=old, mode=mode)
            if k + 1 in self.ends:
                x, pool_cache = max_pool_forward(x, window=2)
            x, relu_cache = relu_forward(x)
            caches.append((conv_cache, norm_cache, pool_cache, relu_cache))
        x, mean_cache = adaptive_avg_pool_forward(x, out=(self.pool, self.pool))
        h, flat_cache = flatten_forward(x)
        for layer in params.get("hidden", {}).values():
            h, linear_cache = linear_forward(h, **layer)
            h, relu_cache = relu_forward(h)
            hidden_caches.append((linear_cache, relu_cache))
        logits, output_cache = linear_forward(h, **params["output"])
        return logits, new, (caches, mean_cache, flat_cache, hidden_caches, output_cache)

    def backward(self, dlogits: Float[Array, "n v"], cache: Any) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        caches, mean_cache, flat_cache, hidden_caches, output_cache = cache
        grads: Tree = {"convs": {}, "norms": {}, "hidden": {}}
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        grads["output"] = {"kernel": dkernel, "bias": dbias}
        for k, (linear_cache, relu_cache) in reversed(list(enumerate(hidden_caches))):
            dh = relu_backward(dh, relu_cache)
            dh, dkernel, dbias = linear_backward(dh, linear_cache)
            grads["hidden"][str(k)] = {"kernel": dkernel, "bias": dbias}
        dx = flatten_backward(dh, flat_cache)
        dx = adaptive_avg_pool_backward(dx, mean_cache)
        for k, (conv_cache, norm_cache, pool_cache, relu_cache) in reversed(list(enumerate(caches))):
            dx = relu_backward(dx, relu_cache)
            if pool_cache:
                dx = max_pool_backward(dx, pool_cache)
            if norm_cache:
                dx, dscale, dbias = batch_norm_backward(dx, norm_cache)
                grads["norms"][str(k)] = {"scale": dscale, "bias": dbias}
            dx, dkernel, dbias = conv2d_backward(dx, conv_cache, need_dx=k > 0)
            grads["convs"][str(k)] = {"kernel": dkernel} if norm_cache else {"kernel": dkernel, "bias": dbias}
        return grads

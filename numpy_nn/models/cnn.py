"""A small convolutional network, after LeNet."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from numpy_nn.conv import (
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


class CNN:
    """x (n, h, w, c) -> [conv -> max pool -> norm -> relu] per channel count -> linear -> relu -> linear -> logits.

    After LeCun et al. 1998, "Gradient-based learning applied to document recognition", with relu and max pooling.
    ``pools`` is the window of each pool, 2 by default; 1 is no pool. max(relu(a), relu(b)) = relu(max(a, b)), so
    pooling first needs a quarter of the ReLUs. With ``batch_norm`` the convolutions have no bias, which the norm would
    subtract.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (28, 28, 1),
        channels: tuple[int, ...] = (16, 32),
        kernel: int = 5,
        padding: int = 0,
        pools: tuple[int, ...] = (),
        batch_norm: bool = False,
        hidden: int = 128,
        classes: int = 10,
    ):
        h, w, c = input_shape
        self.channels = (c, *channels)
        self.kernel = kernel
        self.padding = padding
        self.pools = tuple(pools) or (2,) * len(channels)
        if len(self.pools) != len(channels):
            raise ValueError(f"channels {channels} and pools {pools}: give one number of each per convolution")
        for pool in self.pools:
            h, w = (out_size(out_size(size, kernel, 1, padding), pool, pool, 0) for size in (h, w))
        self.batch_norm = batch_norm
        self.features = h * w * self.channels[-1]
        self.hidden = hidden
        self.classes = classes

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: He before a relu, Glorot for the output."""
        sizes, bias = pairwise(self.channels), not self.batch_norm
        convs = {str(k): conv2d_init(rng, self.kernel, i, o, bias=bias) for k, (i, o) in enumerate(sizes)}
        hidden = linear_init(rng, self.features, self.hidden)
        output = linear_init(rng, self.hidden, self.classes, "glorot_uniform")
        params = {"convs": convs, "hidden": hidden, "output": output}
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
        caches = []
        for (k, conv), pool in zip(params["convs"].items(), self.pools, strict=True):
            norm_cache = pool_cache = None
            x, conv_cache = conv2d_forward(x, **conv, padding=self.padding)
            if pool > 1:
                x, pool_cache = max_pool_forward(x, window=pool)
            if self.batch_norm:
                norm, old = params["norms"][k], stats["norms"][k]
                x, new["norms"][k], norm_cache = batch_norm_forward(x, **norm, stats=old, mode=mode)
            x, relu_cache = relu_forward(x)
            caches.append((conv_cache, pool_cache, norm_cache, relu_cache))
        h, flat_cache = flatten_forward(x)
        h, hidden_cache = linear_forward(h, **params["hidden"])
        h, relu_cache = relu_forward(h)
        logits, output_cache = linear_forward(h, **params["output"])
        return logits, new, (caches, flat_cache, hidden_cache, relu_cache, output_cache)

    def backward(self, dlogits: Float[Array, "n v"], cache: Any) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        caches, flat_cache, hidden_cache, relu_cache, output_cache = cache
        grads: Tree = {"convs": {}, "norms": {}}
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        grads["output"] = {"kernel": dkernel, "bias": dbias}
        dh = relu_backward(dh, relu_cache)
        dh, dkernel, dbias = linear_backward(dh, hidden_cache)
        grads["hidden"] = {"kernel": dkernel, "bias": dbias}
        dx = flatten_backward(dh, flat_cache)
        for k, (conv_cache, pool_cache, norm_cache, relu_cache) in reversed(list(enumerate(caches))):
            dx = relu_backward(dx, relu_cache)
            if norm_cache:
                dx, dscale, dbias = batch_norm_backward(dx, norm_cache)
                grads["norms"][str(k)] = {"scale": dscale, "bias": dbias}
            if pool_cache:
                dx = max_pool_backward(dx, pool_cache)
            dx, dkernel, dbias = conv2d_backward(dx, conv_cache, need_dx=k > 0)
            grads["convs"][str(k)] = {"kernel": dkernel} if norm_cache else {"kernel": dkernel, "bias": dbias}
        return grads

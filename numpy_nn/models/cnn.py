"""A small convolutional network, the descendant of LeNet."""

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
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree


class CNN:
    """x (n, h, w, c) -> [conv -> relu -> max pool] for each of ``channels`` -> linear -> relu -> linear -> logits.

    The plan of LeCun et al. 1998, "Gradient-based learning applied to document
    recognition", with relu and max pooling; sizes are arguments. ``pools`` is the
    window of each pool: 1 is none, and 2 is meant where nothing is said.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (28, 28, 1),
        channels: tuple[int, ...] = (16, 32),
        kernel: int = 5,
        padding: int = 0,
        pools: tuple[int, ...] = (),
        hidden: int = 128,
        classes: int = 10,
    ):
        h, w, c = input_shape
        self.channels = (c, *channels)
        self.kernel = kernel
        self.padding = padding
        self.pools = tuple(pools) or (2,) * len(channels)
        if len(self.pools) != len(channels):
            raise ValueError(f"channels {channels} and pools {pools}: one number each per convolution")
        for pool in self.pools:
            h, w = (out_size(out_size(size, kernel, 1, padding), pool, pool, 0) for size in (h, w))
        self.features = h * w * self.channels[-1]
        self.hidden = hidden
        self.classes = classes

    def init(self, rng: np.random.Generator) -> Tree:
        """First parameters in float64: He before a relu, Glorot for the output."""
        convs = {str(k): conv2d_init(rng, self.kernel, i, o) for k, (i, o) in enumerate(pairwise(self.channels))}
        hidden = linear_init(rng, self.features, self.hidden)
        output = linear_init(rng, self.hidden, self.classes, "glorot_uniform")
        return {"params": {"convs": convs, "hidden": hidden, "output": output}, "stats": {}}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "n v"], Tree, Any]:
        """Return logits, running statistics (none here) and what backward needs."""
        caches = []
        for conv, pool in zip(params["convs"].values(), self.pools, strict=True):
            x, conv_cache = conv2d_forward(x, **conv, padding=self.padding)
            x, relu_cache = relu_forward(x)
            x, pool_cache = max_pool_forward(x, window=pool) if pool > 1 else (x, None)
            caches.append((conv_cache, relu_cache, pool_cache))
        h, flat_cache = flatten_forward(x)
        h, hidden_cache = linear_forward(h, **params["hidden"])
        h, relu_cache = relu_forward(h)
        logits, output_cache = linear_forward(h, **params["output"])
        return logits, stats, (caches, flat_cache, hidden_cache, relu_cache, output_cache)

    def backward(self, dlogits: Float[Array, "n v"], cache: Any) -> Tree:
        """Forward, upside down: the gradient of every parameter, in a tree like ``params``."""
        caches, flat_cache, hidden_cache, relu_cache, output_cache = cache
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        doutput = {"kernel": dkernel, "bias": dbias}
        dh = relu_backward(dh, relu_cache)
        dh, dkernel, dbias = linear_backward(dh, hidden_cache)
        dhidden = {"kernel": dkernel, "bias": dbias}
        dx = flatten_backward(dh, flat_cache)
        dconvs: Tree = {}
        for k, (conv_cache, relu_cache, pool_cache) in reversed(list(enumerate(caches))):
            dx = max_pool_backward(dx, pool_cache) if pool_cache else dx
            dx = relu_backward(dx, relu_cache)
            dx, dkernel, dbias = conv2d_backward(dx, conv_cache, need_dx=k > 0)
            dconvs[str(k)] = {"kernel": dkernel, "bias": dbias}
        return {"convs": dconvs, "hidden": dhidden, "output": doutput}

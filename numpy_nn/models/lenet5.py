"""LeNet-5, the network that read bank cheques in the 1990s."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.conv import (
    avg_pool_backward,
    avg_pool_forward,
    conv2d_backward,
    conv2d_forward,
    conv2d_init,
    out_size,
)
from numpy_nn.layers import (
    flatten_backward,
    flatten_forward,
    linear_backward,
    linear_forward,
    linear_init,
    tanh_backward,
    tanh_forward,
)
from numpy_nn.norm import EVAL, Mode
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree


class LeNet5:
    """x (n, h, w, c) -> C1 -> S2 -> C3 -> S4 -> C5 -> F6 -> logits, by the paper's names.

    LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document
    recognition", figure 2, with four modern choices: tanh instead of 1.7159 tanh(⅔ x), average
    pooling instead of trained subsampling, a full convolution in C3, a linear output with softmax
    instead of radial basis functions. ``padding`` 2 turns 28 pixels into the paper's 32.
    """

    def __init__(self, *, input_shape: tuple[int, ...] = (28, 28, 1), padding: int = 2, classes: int = 10):
        h, w, self.c = input_shape
        for kernel, stride, edge in ((5, 1, padding), (2, 2, 0), (5, 1, 0), (2, 2, 0)):  # C1, S2, C3, S4
            h, w = (out_size(size, kernel, stride, edge) for size in (h, w))
        self.features = h * w * 16
        self.padding = padding
        self.classes = classes

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: Glorot, derived for tanh."""
        params = {
            "c1": conv2d_init(rng, 5, self.c, 6, "glorot_uniform"),
            "c3": conv2d_init(rng, 5, 6, 16, "glorot_uniform"),
            "c5": linear_init(rng, self.features, 120, "glorot_uniform"),
            "f6": linear_init(rng, 120, 84, "glorot_uniform"),
            "output": linear_init(rng, 84, self.classes, "glorot_uniform"),
        }
        return {"params": params, "stats": {}}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w c"], mode: Mode = EVAL
    ) -> tuple[Float[Array, "n v"], Tree, Any]:
        """Return logits, running statistics (none here) and the cache of backward."""
        x, c1_cache = conv2d_forward(x, **params["c1"], padding=self.padding)
        x, tanh1_cache = tanh_forward(x)
        x, s2_cache = avg_pool_forward(x, window=2)
        x, c3_cache = conv2d_forward(x, **params["c3"])
        x, tanh3_cache = tanh_forward(x)
        x, s4_cache = avg_pool_forward(x, window=2)
        h, flat_cache = flatten_forward(x)
        h, c5_cache = linear_forward(h, **params["c5"])
        h, tanh5_cache = tanh_forward(h)
        h, f6_cache = linear_forward(h, **params["f6"])
        h, tanh6_cache = tanh_forward(h)
        logits, output_cache = linear_forward(h, **params["output"])
        convs = c1_cache, tanh1_cache, s2_cache, c3_cache, tanh3_cache, s4_cache
        linears = flat_cache, c5_cache, tanh5_cache, f6_cache, tanh6_cache, output_cache
        return logits, stats, (convs, linears)

    def backward(self, dlogits: Float[Array, "n v"], cache: Any) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        convs, linears = cache
        c1_cache, tanh1_cache, s2_cache, c3_cache, tanh3_cache, s4_cache = convs
        flat_cache, c5_cache, tanh5_cache, f6_cache, tanh6_cache, output_cache = linears
        grads: Tree = {}
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        grads["output"] = {"kernel": dkernel, "bias": dbias}
        dh = tanh_backward(dh, tanh6_cache)
        dh, dkernel, dbias = linear_backward(dh, f6_cache)
        grads["f6"] = {"kernel": dkernel, "bias": dbias}
        dh = tanh_backward(dh, tanh5_cache)
        dh, dkernel, dbias = linear_backward(dh, c5_cache)
        grads["c5"] = {"kernel": dkernel, "bias": dbias}
        dx = flatten_backward(dh, flat_cache)
        dx = avg_pool_backward(dx, s4_cache)
        dx = tanh_backward(dx, tanh3_cache)
        dx, dkernel, dbias = conv2d_backward(dx, c3_cache)
        grads["c3"] = {"kernel": dkernel, "bias": dbias}
        dx = avg_pool_backward(dx, s2_cache)
        dx = tanh_backward(dx, tanh1_cache)
        _, dkernel, dbias = conv2d_backward(dx, c1_cache, need_dx=False)
        grads["c1"] = {"kernel": dkernel, "bias": dbias}
        return grads

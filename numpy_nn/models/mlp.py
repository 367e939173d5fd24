"""Multi-layer perceptron: linear maps with an activation between them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from numpy_nn.layers import activation, flatten_forward, linear_backward, linear_forward, linear_init
from numpy_nn.norm import EVAL, Mode
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree


class MLP:
    """x (n, h, w, c) -> flatten -> [linear -> activation] for each of ``hidden`` -> linear -> logits (n, classes).

    Rumelhart, Hinton & Williams 1986, "Learning representations by back-propagating errors".
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (28, 28, 1),
        hidden: tuple[int, ...] = (512, 512),
        classes: int = 10,
        activation: str = "relu",
    ):
        self.sizes = (math.prod(input_shape), *hidden)
        self.classes = classes
        self.activation = activation

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: He for the hidden layers, Glorot for the output."""
        hidden = {str(k): linear_init(rng, i, o) for k, (i, o) in enumerate(pairwise(self.sizes))}
        output = linear_init(rng, self.sizes[-1], self.classes, "glorot_uniform")
        return {"params": {"hidden": hidden, "output": output}, "stats": {}}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w c"], mode: Mode = EVAL
    ) -> tuple[Float[Array, "n v"], Tree, Any]:
        """Return logits, running statistics (none here) and the cache of backward."""
        act_forward, _ = activation(self.activation)
        h, _ = flatten_forward(x)
        caches = []
        for layer in params["hidden"].values():
            h, linear_cache = linear_forward(h, **layer)
            h, act_cache = act_forward(h)
            caches.append((linear_cache, act_cache))
        logits, output_cache = linear_forward(h, **params["output"])
        return logits, stats, (caches, output_cache)

    def backward(self, dlogits: Float[Array, "n v"], cache: Any) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        _, act_backward = activation(self.activation)
        caches, output_cache = cache
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        doutput = {"kernel": dkernel, "bias": dbias}
        dhidden: Tree = {}
        for k, (linear_cache, act_cache) in reversed(list(enumerate(caches))):
            dh = act_backward(dh, act_cache)
            dh, dkernel, dbias = linear_backward(dh, linear_cache, need_dx=k > 0)
            dhidden[str(k)] = {"kernel": dkernel, "bias": dbias}
        return {"hidden": dhidden, "output": doutput}

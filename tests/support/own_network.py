"""A network of the user: a file with the classes of three tracks."""

from __future__ import annotations

SMALL = """
import numpy as np
from flax import nnx
from torch import nn
from numpy_nn.layers import linear_backward, linear_forward, linear_init

class Torch(nn.Module):
    names = {"output/kernel": "head.weight", "output/bias": "head.bias"}
    def __init__(self, *, input_shape=(28, 28, 1), classes=10):
        super().__init__()
        h, w, c = input_shape
        self.head = nn.Linear(h * w * c, classes)
    def forward(self, x):
        return self.head(x.permute(0, 2, 3, 1).flatten(1))

class Jax(nnx.Module):
    def __init__(self, *, input_shape=(28, 28, 1), classes=10, rngs):
        h, w, c = input_shape
        self.output = nnx.Linear(h * w * c, classes, rngs=rngs)
    def __call__(self, x):
        return self.output(x.reshape(len(x), -1))

class Numpy:
    def __init__(self, *, input_shape=(28, 28, 1), classes=10):
        h, w, c = input_shape
        self.features, self.classes = h * w * c, classes
    def init(self, rng):
        return {"params": {"output": linear_init(rng, self.features, self.classes)}, "stats": {}}
    def forward(self, params, stats, x, mode=None):
        logits, cache = linear_forward(x.reshape(len(x), -1), **params["output"])
        return logits, stats, cache
    def backward(self, dlogits, cache):
        _, dkernel, dbias = linear_backward(dlogits, cache, need_dx=False)
        return {"output": {"kernel": dkernel, "bias": dbias}}
"""

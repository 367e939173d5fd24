"""DenseNet: the input of each layer is the outputs of all earlier layers of its block, concatenated."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.conv import (
    avg_pool_backward,
    avg_pool_forward,
    conv2d_backward,
    conv2d_forward,
    conv2d_init,
    global_avg_pool_backward,
    global_avg_pool_forward,
    max_pool_backward,
    max_pool_forward,
    out_size,
)
from numpy_nn.layers import (
    concatenate_backward,
    concatenate_forward,
    linear_backward,
    linear_forward,
    linear_init,
    relu_backward,
    relu_forward,
)
from numpy_nn.norm import EVAL, Mode, batch_norm_backward, batch_norm_forward, norm_init, stats_init
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree

Cache = Any


class DenseLayer:
    """y = [x, new(x)],  new = norm -> relu -> 1x1 conv to ``wide`` channels -> norm -> relu -> 3x3 conv to ``o``."""

    def __init__(self, i: int, wide: int, o: int):
        self.i, self.wide, self.o = i, wide, o

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters and running statistics; a convolution before a norm needs no bias."""
        params = {
            "norm1": norm_init(self.i),
            "conv1": conv2d_init(rng, 1, self.i, self.wide, bias=False),
            "norm2": norm_init(self.wide),
            "conv2": conv2d_init(rng, 3, self.wide, self.o, bias=False),
        }
        return {"params": params, "stats": {"norm1": stats_init(self.i), "norm2": stats_init(self.wide)}}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w i"], mode: Mode
    ) -> tuple[Float[Array, "n h w o"], Tree, Cache]:
        """x (n, h, w, i) -> (n, h, w, i + o); ``mode`` is that of the norms."""
        new = {}
        h, new["norm1"], norm1_cache = batch_norm_forward(x, **params["norm1"], stats=stats["norm1"], mode=mode)
        h, relu1_cache = relu_forward(h)
        h, conv1_cache = conv2d_forward(h, **params["conv1"])
        h, new["norm2"], norm2_cache = batch_norm_forward(h, **params["norm2"], stats=stats["norm2"], mode=mode)
        h, relu2_cache = relu_forward(h)
        h, conv2_cache = conv2d_forward(h, **params["conv2"], padding=1)
        y, join_cache = concatenate_forward(x, h)
        return y, new, (norm1_cache, relu1_cache, conv1_cache, norm2_cache, relu2_cache, conv2_cache, join_cache)

    def backward(self, dy: Float[Array, "n h w o"], cache: Cache) -> tuple[Float[Array, "n h w i"], Tree]:
        """x is a part of y and the input of ``new``: dx = its part of dy + the gradient through ``new``."""
        norm1_cache, relu1_cache, conv1_cache, norm2_cache, relu2_cache, conv2_cache, join_cache = cache
        grads: Tree = {}
        dx_kept, dh = concatenate_backward(dy, join_cache)
        dh, dkernel, _ = conv2d_backward(dh, conv2_cache)
        grads["conv2"] = {"kernel": dkernel}
        dh = relu_backward(dh, relu2_cache)
        dh, dscale, dbias = batch_norm_backward(dh, norm2_cache)
        grads["norm2"] = {"scale": dscale, "bias": dbias}
        dh, dkernel, _ = conv2d_backward(dh, conv1_cache)
        grads["conv1"] = {"kernel": dkernel}
        dh = relu_backward(dh, relu1_cache)
        dx_used, dscale, dbias = batch_norm_backward(dh, norm1_cache)
        grads["norm1"] = {"scale": dscale, "bias": dbias}
        return dx_kept + dx_used, grads


class Transition:
    """norm -> relu -> 1x1 conv to fewer channels -> average pool 2."""

    def __init__(self, i: int, o: int):
        self.i, self.o = i, o

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters and running statistics."""
        params = {"norm": norm_init(self.i), "conv": conv2d_init(rng, 1, self.i, self.o, bias=False)}
        return {"params": params, "stats": {"norm": stats_init(self.i)}}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w i"], mode: Mode
    ) -> tuple[Float[Array, "n _ _ o"], Tree, Cache]:
        """x (n, h, w, i) -> (n, h/2, w/2, o); ``mode`` is that of the norm."""
        x, new, norm_cache = batch_norm_forward(x, **params["norm"], stats=stats["norm"], mode=mode)
        x, relu_cache = relu_forward(x)
        x, conv_cache = conv2d_forward(x, **params["conv"])
        x, pool_cache = avg_pool_forward(x, window=2)
        return x, {"norm": new}, (norm_cache, relu_cache, conv_cache, pool_cache)

    def backward(self, dy: Float[Array, "n _ _ o"], cache: Cache) -> tuple[Float[Array, "n h w i"], Tree]:
        """The lines of forward in reverse order."""
        norm_cache, relu_cache, conv_cache, pool_cache = cache
        dx = avg_pool_backward(dy, pool_cache)
        dx, dkernel, _ = conv2d_backward(dx, conv_cache)
        dx = relu_backward(dx, relu_cache)
        dx, dscale, dbias = batch_norm_backward(dx, norm_cache)
        return dx, {"norm": {"scale": dscale, "bias": dbias}, "conv": {"kernel": dkernel}}


class DenseNet:
    """x (n, h, w, c) -> conv -> blocks of dense layers, transitions between them -> norm -> relu -> mean -> linear.

    Huang, Liu, van der Maaten & Weinberger 2017, arXiv:1608.06993, variant BC: every layer adds ``growth``
    channels through a bottleneck of ``bottleneck · growth``, a transition keeps ``compression`` of them.
    ``blocks`` counts the layers of each block. The paper's DenseNet-BC-100 for 32 pixels has ``blocks=(16, 16, 16)``;
    DenseNet-121 is ``input_shape=(224, 224, 3), blocks=(6, 12, 24, 16), growth=32, stem="large", classes=1000``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (32, 32, 3),
        blocks: tuple[int, ...] = (4, 4, 4),
        growth: int = 12,
        bottleneck: int = 4,
        compression: float = 0.5,
        stem: str = "small",
        classes: int = 10,
    ):
        if not blocks or min(blocks) < 1:
            raise ValueError(f"blocks {blocks}: give the number of layers of each block, at least 1")
        if stem not in ("small", "large"):
            raise ValueError(f"unknown stem {stem!r}; known: small (3x3), large (7x7 and pooling)")
        if not 0 < compression <= 1:
            raise ValueError(f"compression {compression}: it must be above 0 and at most 1")
        self.stem, self.classes = stem, classes
        h, w, self.c = input_shape
        if stem == "large":
            h, w = (out_size(out_size(size, 7, 2, 3), 3, 2, 1) for size in (h, w))
        self.first = i = 2 * growth
        self.layers: list[DenseLayer | Transition] = []
        for count in blocks:
            if self.layers:
                h, w = (out_size(size, 2, 2, 0) for size in (h, w))
                self.layers.append(Transition(i, int(i * compression)))
                i = int(i * compression)
            for _ in range(count):
                self.layers.append(DenseLayer(i, bottleneck * growth, growth))
                i += growth
        self.last = i

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: He before a relu, Glorot for the output."""
        params = {"conv": conv2d_init(rng, 7 if self.stem == "large" else 3, self.c, self.first, bias=False)}
        layers = {str(k): layer.init(rng) for k, layer in enumerate(self.layers)}
        params |= {"layers": {k: layer["params"] for k, layer in layers.items()}, "final_norm": norm_init(self.last)}
        stats = {"layers": {k: layer["stats"] for k, layer in layers.items()}, "final_norm": stats_init(self.last)}
        if self.stem == "large":
            params, stats = params | {"norm": norm_init(self.first)}, stats | {"norm": stats_init(self.first)}
        params |= {"output": linear_init(rng, self.last, self.classes, "glorot_uniform")}
        return {"params": params, "stats": stats}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w c"], mode: Mode = EVAL
    ) -> tuple[Float[Array, "n v"], Tree, Any]:
        """Return logits, new running statistics and the cache of backward."""
        new: Tree = {"layers": {}}
        stride, padding = (2, 3) if self.stem == "large" else (1, 1)
        x, conv_cache = conv2d_forward(x, **params["conv"], stride=stride, padding=padding)
        stem_cache = None
        if self.stem == "large":
            x, new["norm"], norm_cache = batch_norm_forward(x, **params["norm"], stats=stats["norm"], mode=mode)
            x, relu_cache = relu_forward(x)
            x, pool_cache = max_pool_forward(x, window=3, stride=2, padding=1)
            stem_cache = norm_cache, relu_cache, pool_cache
        caches = []
        for k, layer in enumerate(self.layers):
            x, new["layers"][str(k)], cache = layer.forward(params["layers"][str(k)], stats["layers"][str(k)], x, mode)
            caches.append(cache)
        x, new["final_norm"], norm_cache = batch_norm_forward(
            x, **params["final_norm"], stats=stats["final_norm"], mode=mode
        )
        x, relu_cache = relu_forward(x)
        h, mean_cache = global_avg_pool_forward(x)
        logits, output_cache = linear_forward(h, **params["output"])
        return logits, new, (conv_cache, stem_cache, caches, norm_cache, relu_cache, mean_cache, output_cache)

    def backward(self, dlogits: Float[Array, "n v"], cache: Any) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        conv_cache, stem_cache, caches, norm_cache, relu_cache, mean_cache, output_cache = cache
        grads: Tree = {"layers": {}}
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        grads["output"] = {"kernel": dkernel, "bias": dbias}
        dx = global_avg_pool_backward(dh, mean_cache)
        dx = relu_backward(dx, relu_cache)
        dx, dscale, dbias = batch_norm_backward(dx, norm_cache)
        grads["final_norm"] = {"scale": dscale, "bias": dbias}
        for k, layer in reversed(list(enumerate(self.layers))):
            dx, grads["layers"][str(k)] = layer.backward(dx, caches[k])
        if self.stem == "large":
            norm_cache, relu_cache, pool_cache = stem_cache
            dx = max_pool_backward(dx, pool_cache)
            dx = relu_backward(dx, relu_cache)
            dx, dscale, dbias = batch_norm_backward(dx, norm_cache)
            grads["norm"] = {"scale": dscale, "bias": dbias}
        _, dkernel, _ = conv2d_backward(dx, conv_cache, need_dx=False)
        grads["conv"] = {"kernel": dkernel}
        return grads

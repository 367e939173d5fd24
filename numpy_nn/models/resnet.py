"""ResNet: each block adds its branch to its input, so that the gradient also flows past the branch."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.conv import (
    conv2d_backward,
    conv2d_forward,
    conv2d_init,
    global_avg_pool_backward,
    global_avg_pool_forward,
    max_pool_backward,
    max_pool_forward,
)
from numpy_nn.layers import linear_backward, linear_forward, linear_init, relu_backward, relu_forward
from numpy_nn.norm import EVAL, Mode, batch_norm_backward, batch_norm_forward, norm_init, stats_init
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree

Cache = Any


def pad_shortcut_forward(x: Float[Array, "n h w i"], stride: int, extra: int) -> tuple[Float[Array, "n _ _ o"], Cache]:
    """Every ``stride``-th pixel, with ``extra`` channels of zeros before and after its own."""
    y = np.pad(x[:, ::stride, ::stride], [(0, 0), (0, 0), (0, 0), (extra, extra)])
    return y, (x.shape, stride, extra)


def pad_shortcut_backward(dy: Float[Array, "n _ _ o"], cache: Cache) -> Float[Array, "n h w i"]:
    """The selected pixels get their gradient, the others 0."""
    shape, stride, extra = cache
    dx = np.zeros(shape, dy.dtype)
    dx[:, ::stride, ::stride] = dy[..., extra : extra + shape[-1]]
    return dx


class ResidualBlock:
    """y = relu(branch(x) + shortcut(x)),  branch = conv -> norm -> relu -> conv -> norm.

    The shortcut is the identity if the shapes allow it. If not, it is every other pixel with zeros for the new
    channels ("pad", option A of the paper, without parameters), or a 1x1 convolution and a norm ("project", option B).
    """

    def __init__(self, i: int, o: int, *, stride: int, shortcut: str):
        self.i, self.o, self.stride = i, o, stride
        self.extra = (o - i) // 2  # channels of zeros on each side
        self.kind = "identity" if stride == 1 and i == o else shortcut
        if self.kind == "pad" and (o < i or (o - i) % 2):
            raise ValueError(
                f"shortcut pad cannot turn {i} channels into {o}: the difference must be even and not negative"
            )

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters and running statistics; a convolution before a norm has no bias."""
        i, o = self.i, self.o
        params = {
            "conv1": conv2d_init(rng, 3, i, o, bias=False),
            "norm1": norm_init(o),
            "conv2": conv2d_init(rng, 3, o, o, bias=False),
            "norm2": norm_init(o),
        }
        stats = {"norm1": stats_init(o), "norm2": stats_init(o)}
        if self.kind == "project":
            params |= {"project": conv2d_init(rng, 1, i, o, bias=False), "project_norm": norm_init(o)}
            stats |= {"project_norm": stats_init(o)}
        return {"params": params, "stats": stats}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w i"], mode: Mode
    ) -> tuple[Float[Array, "n _ _ o"], Tree, Cache]:
        """x (n, h, w, i) -> (n, h/stride, w/stride, o); ``mode`` is that of the norms."""
        new = {}
        h, conv1_cache = conv2d_forward(x, **params["conv1"], stride=self.stride, padding=1)
        h, new["norm1"], norm1_cache = batch_norm_forward(h, **params["norm1"], stats=stats["norm1"], mode=mode)
        h, relu1_cache = relu_forward(h)
        h, conv2_cache = conv2d_forward(h, **params["conv2"], padding=1)
        branch, new["norm2"], norm2_cache = batch_norm_forward(h, **params["norm2"], stats=stats["norm2"], mode=mode)

        shortcut, shortcut_cache = x, None
        if self.kind == "pad":
            shortcut, shortcut_cache = pad_shortcut_forward(x, self.stride, self.extra)
        if self.kind == "project":
            h, project_cache = conv2d_forward(x, **params["project"], stride=self.stride)
            shortcut, new["project_norm"], norm_cache = batch_norm_forward(
                h, **params["project_norm"], stats=stats["project_norm"], mode=mode
            )
            shortcut_cache = project_cache, norm_cache

        y, relu2_cache = relu_forward(branch + shortcut)
        branch_cache = conv1_cache, norm1_cache, relu1_cache, conv2_cache, norm2_cache
        return y, new, (branch_cache, shortcut_cache, relu2_cache)

    def backward(self, dy: Float[Array, "n _ _ o"], cache: Cache) -> tuple[Float[Array, "n h w i"], Tree]:
        """dx = dx of the branch + dx of the shortcut: x is used by both, and a sum passes dy on to both summands."""
        branch_cache, shortcut_cache, relu2_cache = cache
        conv1_cache, norm1_cache, relu1_cache, conv2_cache, norm2_cache = branch_cache
        grads: Tree = {}
        dsum = relu_backward(dy, relu2_cache)

        dx_shortcut = dsum
        if self.kind == "pad":
            dx_shortcut = pad_shortcut_backward(dsum, shortcut_cache)
        if self.kind == "project":
            project_cache, norm_cache = shortcut_cache
            dh, dscale, dbias = batch_norm_backward(dsum, norm_cache)
            grads["project_norm"] = {"scale": dscale, "bias": dbias}
            dx_shortcut, dkernel, _ = conv2d_backward(dh, project_cache)
            grads["project"] = {"kernel": dkernel}

        dh, dscale, dbias = batch_norm_backward(dsum, norm2_cache)
        grads["norm2"] = {"scale": dscale, "bias": dbias}
        dh, dkernel, _ = conv2d_backward(dh, conv2_cache)
        grads["conv2"] = {"kernel": dkernel}
        dh = relu_backward(dh, relu1_cache)
        dh, dscale, dbias = batch_norm_backward(dh, norm1_cache)
        grads["norm1"] = {"scale": dscale, "bias": dbias}
        dx_branch, dkernel, _ = conv2d_backward(dh, conv1_cache)
        grads["conv1"] = {"kernel": dkernel}

        return dx_branch + dx_shortcut, grads


class ResNet:
    """x (n, h, w, c) -> conv -> norm -> relu -> blocks -> mean over the image -> linear -> logits.

    He, Zhang, Ren & Sun 2015, arXiv:1512.03385. ``stages`` is the number of blocks of each stage;
    every stage but the first halves the image. The default is ResNet-20 for 32 pixels; 32, 44 and 56
    have ``stages`` (5, 5, 5), (7, 7, 7), (9, 9, 9). ResNet-18 for ImageNet is ``input_shape=(224, 224, 3),
    stages=(2, 2, 2, 2), channels=(64, 128, 256, 512), stem="large", shortcut="project", classes=1000``,
    and ResNet-34 has ``stages=(3, 4, 6, 3)``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (32, 32, 3),
        stages: tuple[int, ...] = (3, 3, 3),
        channels: tuple[int, ...] = (16, 32, 64),
        stem: str = "small",
        shortcut: str = "pad",
        classes: int = 10,
    ):
        if not stages or len(stages) != len(channels) or min(stages) < 1:
            raise ValueError(f"stages {stages} and channels {channels}: give one number of each per stage, at least 1")
        if stem not in ("small", "large"):
            raise ValueError(f"unknown stem {stem!r}; known: small (3x3), large (7x7 and pooling)")
        if shortcut not in ("pad", "project"):
            raise ValueError(f"unknown shortcut {shortcut!r}; known: pad, project")
        self.c, self.stem, self.classes = input_shape[-1], stem, classes
        self.first, self.last = channels[0], channels[-1]
        self.blocks = []
        i = self.first
        for stage, (count, o) in enumerate(zip(stages, channels, strict=True)):
            for place in range(count):
                stride = 2 if stage > 0 and place == 0 else 1
                self.blocks.append(ResidualBlock(i, o, stride=stride, shortcut=shortcut))
                i = o

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: He before a relu, Glorot for the output."""
        conv = conv2d_init(rng, 7 if self.stem == "large" else 3, self.c, self.first, bias=False)
        blocks = {str(k): block.init(rng) for k, block in enumerate(self.blocks)}
        params = {
            "conv": conv,
            "norm": norm_init(self.first),
            "blocks": {k: block["params"] for k, block in blocks.items()},
            "output": linear_init(rng, self.last, self.classes, "glorot_uniform"),
        }
        stats = {"norm": stats_init(self.first), "blocks": {k: block["stats"] for k, block in blocks.items()}}
        return {"params": params, "stats": stats}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w c"], mode: Mode = EVAL
    ) -> tuple[Float[Array, "n v"], Tree, Any]:
        """Return logits, new running statistics and the cache of backward."""
        new: Tree = {"blocks": {}}
        stride, padding = (2, 3) if self.stem == "large" else (1, 1)
        x, conv_cache = conv2d_forward(x, **params["conv"], stride=stride, padding=padding)
        x, new["norm"], norm_cache = batch_norm_forward(x, **params["norm"], stats=stats["norm"], mode=mode)
        x, relu_cache = relu_forward(x)
        pool_cache = None
        if self.stem == "large":
            x, pool_cache = max_pool_forward(x, window=3, stride=2, padding=1)
        caches = []
        for k, block in enumerate(self.blocks):
            x, new["blocks"][str(k)], cache = block.forward(params["blocks"][str(k)], stats["blocks"][str(k)], x, mode)
            caches.append(cache)
        h, mean_cache = global_avg_pool_forward(x)
        logits, output_cache = linear_forward(h, **params["output"])
        return logits, new, (conv_cache, norm_cache, relu_cache, pool_cache, caches, mean_cache, output_cache)

    def backward(self, dlogits: Float[Array, "n v"], cache: Any) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        conv_cache, norm_cache, relu_cache, pool_cache, caches, mean_cache, output_cache = cache
        grads: Tree = {"blocks": {}}
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        grads["output"] = {"kernel": dkernel, "bias": dbias}
        dx = global_avg_pool_backward(dh, mean_cache)
        for k, block in reversed(list(enumerate(self.blocks))):
            dx, grads["blocks"][str(k)] = block.backward(dx, caches[k])
        if self.stem == "large":
            dx = max_pool_backward(dx, pool_cache)
        dx = relu_backward(dx, relu_cache)
        dx, dscale, dbias = batch_norm_backward(dx, norm_cache)
        grads["norm"] = {"scale": dscale, "bias": dbias}
        _, dkernel, _ = conv2d_backward(dx, conv_cache, need_dx=False)
        grads["conv"] = {"kernel": dkernel}
        return grads

"""VGG: nothing but 3x3 convolutions, one after the other."""

from __future__ import annotations

import itertools

from flax import nnx
from jax import Array
from jax.nn import relu

from jax_nn.conv import Conv, adaptive_avg_pool, max_pool
from jax_nn.layers import Linear, flatten
from jax_nn.norm import BatchNorm

# Depth -> convolutions in each of the five stages (columns A, B, D, E of the paper's table 1).
PLANS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(nnx.Module):
    """x (n, h, w, c) -> five stages of [conv -> norm -> relu] and a max pool -> average pool -> linears -> logits.

    Simonyan & Zisserman 2014, arXiv:1409.1556, with batch norm and without dropout. The stages have
    ``width`` times 1, 2, 4, 8, 8 channels. A convolution before a norm has no bias: the norm would
    take it out again. The default is small, for images of 32 pixels; the paper's VGG-11 is
    ``input_shape=(224, 224, 3), width=64, pool=7, hidden=(4096, 4096), classes=1000``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (32, 32, 3),
        depth: int = 11,
        width: int = 16,
        batch_norm: bool = True,
        pool: int = 1,
        hidden: tuple[int, ...] = (),
        classes: int = 10,
        rngs: nnx.Rngs,
    ):
        plan = PLANS[depth]
        outs = [width * many for many, count in zip((1, 2, 4, 8, 8), plan, strict=True) for _ in range(count)]
        channels = itertools.pairwise([input_shape[-1], *outs])
        self.convs = nnx.List(Conv(i, o, 3, padding=1, bias=not batch_norm, rngs=rngs) for i, o in channels)
        self.norms = nnx.List(BatchNorm(o, rngs=rngs) for o in outs if batch_norm)
        self.ends = tuple(itertools.accumulate(plan))  # a stage ends after so many convolutions
        self.pool = pool
        units = [pool * pool * outs[-1], *hidden]
        self.hidden = nnx.List(Linear(i, o, rngs=rngs) for i, o in itertools.pairwise(units))
        self.output = Linear(units[-1], classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Return the logits."""
        for k, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms:
                x = self.norms[k](x)
            x = relu(x)
            if k + 1 in self.ends:
                x = max_pool(x, window=2)
        x = adaptive_avg_pool(x, (self.pool, self.pool))
        h = flatten(x)
        for layer in self.hidden:
            h = relu(layer(h))
        return self.output(h)

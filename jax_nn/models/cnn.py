"""A small convolutional network, the descendant of LeNet."""

from __future__ import annotations

from itertools import pairwise

from flax import nnx
from jax import Array

from jax_nn.conv import Conv, max_pool
from jax_nn.layers import Linear, flatten, relu
from jax_nn.norm import BatchNorm


class CNN(nnx.Module):
    """x (n, h, w, c) -> [conv -> max pool -> norm -> relu]s, one a channel count -> linear -> relu -> linear -> logits.

    The plan of LeCun et al. 1998, "Gradient-based learning applied to document
    recognition", with relu and max pooling; sizes are arguments. ``pools`` is the
    window of each pool: 1 is none, and 2 is meant where nothing is said. The larger
    of two relus is the relu of the larger: behind the pool it has a quarter to do.
    With ``batch_norm`` the convolutions have no bias: the norm would take it out again.
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
        rngs: nnx.Rngs,
    ):
        h, w, c = input_shape
        sizes = (c, *channels)
        bias = not batch_norm
        self.convs = nnx.List(Conv(i, o, kernel, padding=padding, bias=bias, rngs=rngs) for i, o in pairwise(sizes))
        self.norms = nnx.List(BatchNorm(o, rngs=rngs) for o in channels if batch_norm)
        self.pools = tuple(pools) or (2,) * len(channels)
        for pool in self.pools:
            h, w = ((size + 2 * padding - kernel + 1) // pool for size in (h, w))
        self.hidden = Linear(h * w * sizes[-1], hidden, rngs=rngs)
        self.output = Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Return the logits."""
        for k, (conv, pool) in enumerate(zip(self.convs, self.pools, strict=True)):
            x = conv(x)
            if pool > 1:
                x = max_pool(x, window=pool)
            if self.norms:
                x = self.norms[k](x)
            x = relu(x)
        h = flatten(x)
        h = self.hidden(h)
        h = relu(h)
        return self.output(h)

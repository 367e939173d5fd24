"""A small convolutional network, the descendant of LeNet."""

from __future__ import annotations

from itertools import pairwise

from flax import nnx
from jax import Array

from jax_nn.conv import Conv, max_pool
from jax_nn.layers import Linear, flatten, relu


class CNN(nnx.Module):
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
        rngs: nnx.Rngs,
    ):
        h, w, c = input_shape
        sizes = (c, *channels)
        self.convs = nnx.List(Conv(i, o, kernel, padding=padding, rngs=rngs) for i, o in pairwise(sizes))
        self.pools = tuple(pools) or (2,) * len(channels)
        for pool in self.pools:
            h, w = ((size + 2 * padding - kernel + 1) // pool for size in (h, w))
        self.hidden = Linear(h * w * sizes[-1], hidden, rngs=rngs)
        self.output = Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Return the logits."""
        for conv, pool in zip(self.convs, self.pools, strict=True):
            x = conv(x)
            x = relu(x)
            x = max_pool(x, window=pool) if pool > 1 else x
        h = flatten(x)
        h = self.hidden(h)
        h = relu(h)
        return self.output(h)

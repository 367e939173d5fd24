"""A small convolutional network, the descendant of LeNet."""

from __future__ import annotations

from itertools import pairwise

from flax import nnx
from jax import Array
from jax.nn import relu

from jax_nn.conv import Conv, max_pool
from jax_nn.layers import Linear, flatten


class CNN(nnx.Module):
    """x (n, h, w, c) -> [conv -> relu -> max pool 2] for each of ``channels`` -> linear -> relu -> linear -> logits.

    The plan of LeCun et al. 1998, "Gradient-based learning applied to document
    recognition", with relu and max pooling; sizes are arguments.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (28, 28, 1),
        channels: tuple[int, ...] = (16, 32),
        kernel: int = 5,
        padding: int = 0,
        hidden: int = 128,
        classes: int = 10,
        rngs: nnx.Rngs,
    ):
        h, w, c = input_shape
        sizes = (c, *channels)
        self.convs = nnx.List(Conv(i, o, kernel, padding=padding, rngs=rngs) for i, o in pairwise(sizes))
        for _ in channels:
            h, w = ((size + 2 * padding - kernel + 1) // 2 for size in (h, w))
        self.hidden = Linear(h * w * sizes[-1], hidden, rngs=rngs)
        self.output = Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Return the logits."""
        for conv in self.convs:
            x = conv(x)
            x = relu(x)
            x = max_pool(x, window=2)
        h = flatten(x)
        h = self.hidden(h)
        h = relu(h)
        return self.output(h)

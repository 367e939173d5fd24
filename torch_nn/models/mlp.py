"""Multi-layer perceptron: linear maps with a nonlinearity between them."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from torch_nn.layers import Linear, activation, flatten


class MLP(nn.Module):
    """x (n, c, h, w) -> flatten -> [linear -> activation] for each of ``hidden`` -> linear -> logits (n, classes).

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
        super().__init__()
        sizes = (math.prod(input_shape), *hidden)
        self.hidden = nn.ModuleList(Linear(i, o) for i, o in pairwise(sizes))
        self.output = Linear(sizes[-1], classes)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        act = activation(self.activation)
        h = flatten(x)
        for layer in self.hidden:
            h = layer(h)
            h = act(h)
        return self.output(h)

"""LeNet-5, a convolutional network for handwritten digits."""

from __future__ import annotations

from torch import Tensor, nn, tanh

from torch_nn.conv import Conv, avg_pool
from torch_nn.layers import Linear, flatten


class LeNet5(nn.Module):
    """x (n, c, h, w) -> C1 -> S2 -> C3 -> S4 -> C5 -> F6 -> logits (n, classes), with the names of the paper.

    LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document
    recognition", figure 2, with four modern choices: tanh instead of 1.7159 tanh(⅔ x), plain
    averages instead of trained subsampling, every map of C3 connected to every map of S2, and a
    linear output with softmax instead of radial basis functions. ``padding=2`` enlarges 28 pixels
    to the paper's 32.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (28, 28, 1),
        padding: int = 2,
        classes: int = 10,
    ):
        super().__init__()
        h, w, c = input_shape
        self.c1 = Conv(c, 6, 5, padding=padding)
        self.c3 = Conv(6, 16, 5)
        h, w = (((size + 2 * padding - 4) // 2 - 4) // 2 for size in (h, w))
        self.c5 = Linear(h * w * 16, 120)
        self.f6 = Linear(120, 84)
        self.output = Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = tanh(self.c1(x))
        x = avg_pool(x, window=2)
        x = tanh(self.c3(x))
        x = avg_pool(x, window=2)
        h = flatten(x)
        h = tanh(self.c5(h))
        h = tanh(self.f6(h))
        return self.output(h)

"""RNN: classify an image by reading it row by row."""

from __future__ import annotations

from torch import Tensor, nn

from torch_nn import recurrent
from torch_nn.layers import Linear


class RNN(nn.Module):
    """x (n, c, h, w) -> rnn over the h rows of w·c numbers -> last state -> linear -> logits.

    Elman 1990, "Finding structure in time". On its way to the first row a gradient is multiplied by Wₕ once
    per row. Wₕ is initialised orthogonal, so at first the gradient neither explodes nor vanishes by that.
    """

    def __init__(self, *, input_shape: tuple[int, ...] = (28, 28, 1), hidden: int = 128, classes: int = 10):
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}: the state needs at least 1 number")
        _, w, c = input_shape
        self.rnn = recurrent.RNNLayer(w * c, hidden)
        self.output = Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = x.permute(0, 2, 3, 1).flatten(2)  # (n, t, w·c), channels fastest
        _, h = self.rnn(x)
        return self.output(h[0])

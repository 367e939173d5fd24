"""RNN: an image read row by row."""

from __future__ import annotations

from torch import Tensor, nn

from torch_nn import recurrent
from torch_nn.layers import Linear


class RNN(nn.Module):
    """x (n, c, h, w) -> rnn over the h rows, each of w·c numbers -> its last state -> linear -> logits.

    Elman 1990, "Finding structure in time". A gradient comes back to the first row through as many
    products with Wₕ as there are rows; orthogonal at first, Wₕ neither stretches nor shrinks it.
    """

    def __init__(self, *, input_shape: tuple[int, ...] = (28, 28, 1), hidden: int = 128, classes: int = 10):
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}: the state needs at least 1 number")
        _, w, c = input_shape
        self.rnn = recurrent.RNN(w * c, hidden)
        self.output = Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = x.permute(0, 2, 3, 1).flatten(2)  # (n, t, w·c), channels fastest
        _, h = self.rnn(x)
        return self.output(h[0])

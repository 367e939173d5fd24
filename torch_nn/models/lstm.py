"""LSTM: an image read row by row, by a network that can keep what it has seen."""

from __future__ import annotations

from torch import Tensor, nn

from torch_nn import recurrent
from torch_nn.layers import Linear


class LSTM(nn.Module):
    """x (n, c, h, w) -> lstm over the h rows, each of w·c numbers -> its last state -> linear -> logits.

    Hochreiter & Schmidhuber 1997, "Long short-term memory"; reading digits as sequences
    became a test of recurrent networks with Le et al. 2015, arXiv:1504.00941 (there by pixels).
    """

    def __init__(self, *, input_shape: tuple[int, ...] = (28, 28, 1), hidden: int = 128, classes: int = 10):
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}: the state needs at least 1 number")
        _, w, c = input_shape
        self.lstm = recurrent.LSTM(w * c, hidden)
        self.output = Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = x.permute(0, 2, 3, 1).flatten(2)  # (n, t, w·c), channels fastest
        _, (h, _) = self.lstm(x)
        return self.output(h[0])

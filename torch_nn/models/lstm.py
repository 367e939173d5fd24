"""LSTM: classify an image by reading it row by row, with gates that preserve what was read."""

from __future__ import annotations

from torch import Tensor, nn

from torch_nn import recurrent
from torch_nn.layers import Linear


class LSTM(nn.Module):
    """x (n, c, h, w) -> lstm over the h rows of w·c numbers -> last state -> linear -> logits.

    Hochreiter & Schmidhuber 1997, "Long short-term memory". Le et al. 2015, arXiv:1504.00941, introduced
    digits read as sequences as a benchmark, pixel by pixel.
    """

    def __init__(self, *, input_shape: tuple[int, ...] = (28, 28, 1), hidden: int = 128, classes: int = 10):
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}: the state needs at least 1 number")
        _, w, c = input_shape
        self.lstm = recurrent.LSTMLayer(w * c, hidden)
        self.output = Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = x.permute(0, 2, 3, 1).flatten(2)  # (n, t, w·c), channels fastest
        _, (h, _) = self.lstm(x)
        return self.output(h[0])

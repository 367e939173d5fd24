"""LSTM: classify an image by reading it row by row, with gates that preserve what was read."""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_nn import recurrent
from jax_nn.layers import Linear


class LSTM(nnx.Module):
    """x (n, h, w, c) -> lstm over the h rows of w·c numbers -> last state -> linear -> logits.

    Hochreiter & Schmidhuber 1997, "Long short-term memory". Le et al. 2015, arXiv:1504.00941, introduced
    digits read as sequences as a benchmark, pixel by pixel.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (28, 28, 1),
        hidden: int = 128,
        classes: int = 10,
        rngs: nnx.Rngs,
    ):
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}: the state needs at least 1 number")
        _, w, c = input_shape
        self.lstm = recurrent.LSTMLayer(w * c, hidden, rngs=rngs)
        self.output = Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Return the logits."""
        n, t, w, c = x.shape
        x = x.reshape(n, t, w * c)
        _, h, _ = self.lstm(x)
        return self.output(h)

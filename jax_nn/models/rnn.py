"""RNN: classify an image by reading it row by row."""

from __future__ import annotations

from flax import nnx
from jax import Array

from jax_nn import recurrent
from jax_nn.layers import Linear


class RNN(nnx.Module):
    """x (n, h, w, c) -> rnn over the h rows of w·c numbers -> last state -> linear -> logits.

    Elman 1990, "Finding structure in time". On its way to the first row a gradient is multiplied by Wₕ once
    per row. Wₕ is initialised orthogonal, so at first the gradient neither explodes nor vanishes by that.
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
        self.rnn = recurrent.RNNLayer(w * c, hidden, rngs=rngs)
        self.output = Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Return the logits."""
        n, t, w, c = x.shape
        x = x.reshape(n, t, w * c)
        _, h = self.rnn(x)
        return self.output(h)

"""RNN: an image as a sequence of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.layers import linear_backward, linear_forward, linear_init
from numpy_nn.norm import EVAL, Mode
from numpy_nn.recurrent import rnn_backward, rnn_forward, rnn_init
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree


class RNN:
    """x (n, h, w, c) -> rnn over the h rows, each of w·c numbers -> its last state -> linear -> logits.

    Elman 1990, "Finding structure in time". The gradient of the first row is multiplied by Wₕ once
    for every row after it; Wₕ starts orthogonal and so keeps its norm.
    """

    def __init__(self, *, input_shape: tuple[int, ...] = (28, 28, 1), hidden: int = 128, classes: int = 10):
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}: the state needs at least 1 number")
        _, w, c = input_shape
        self.features = w * c
        self.hidden = hidden
        self.classes = classes

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: what ``rnn_init`` says, Glorot for the output."""
        rnn = rnn_init(rng, self.features, self.hidden)
        output = linear_init(rng, self.hidden, self.classes, "glorot_uniform")
        return {"params": {"rnn": rnn, "output": output}, "stats": {}}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w c"], mode: Mode = EVAL
    ) -> tuple[Float[Array, "n v"], Tree, Any]:
        """Return logits, running statistics (none here) and the cache of backward."""
        n, t, w, c = x.shape
        x = x.reshape(n, t, w * c)
        _, h, rnn_cache = rnn_forward(x, params["rnn"])
        logits, output_cache = linear_forward(h, **params["output"])
        return logits, stats, (rnn_cache, output_cache)

    def backward(self, dlogits: Float[Array, "n v"], cache: Any) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        rnn_cache, output_cache = cache
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        doutput = {"kernel": dkernel, "bias": dbias}
        _, drnn, _ = rnn_backward(None, dh, rnn_cache)
        return {"rnn": drnn, "output": doutput}

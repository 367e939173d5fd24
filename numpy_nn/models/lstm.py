"""LSTM: an image as a sequence of rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.layers import linear_backward, linear_forward, linear_init
from numpy_nn.norm import EVAL, Mode
from numpy_nn.recurrent import lstm_backward, lstm_forward, lstm_init
from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree


class LSTM:
    """x (n, h, w, c) -> lstm over the h rows, each of w·c numbers -> its last state -> linear -> logits.

    Hochreiter & Schmidhuber 1997, "Long short-term memory"; reading digits as sequences
    became a test of recurrent networks with Le et al. 2015, arXiv:1504.00941 (there by pixels).
    """

    def __init__(self, *, input_shape: tuple[int, ...] = (28, 28, 1), hidden: int = 128, classes: int = 10):
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}: the state needs at least 1 number")
        _, w, c = input_shape
        self.features = w * c
        self.hidden = hidden
        self.classes = classes

    def init(self, rng: np.random.Generator) -> Tree:
        """Initial parameters in float64: see ``lstm_init``; Glorot for the output."""
        lstm = lstm_init(rng, self.features, self.hidden)
        output = linear_init(rng, self.hidden, self.classes, "glorot_uniform")
        return {"params": {"lstm": lstm, "output": output}, "stats": {}}

    def forward(
        self, params: Tree, stats: Tree, x: Float[Array, "n h w c"], mode: Mode = EVAL
    ) -> tuple[Float[Array, "n v"], Tree, Any]:
        """Return logits, running statistics (none here) and the cache of backward."""
        n, t, w, c = x.shape
        x = x.reshape(n, t, w * c)
        _, h, _, lstm_cache = lstm_forward(x, params["lstm"])
        logits, output_cache = linear_forward(h, **params["output"])
        return logits, stats, (lstm_cache, output_cache)

    def backward(self, dlogits: Float[Array, "n v"], cache: Any) -> Tree:
        """The lines of forward in reverse order; returns the gradients, a tree like ``params``."""
        lstm_cache, output_cache = cache
        dh, dkernel, dbias = linear_backward(dlogits, output_cache)
        doutput = {"kernel": dkernel, "bias": dbias}
        _, dlstm, _, _ = lstm_backward(None, dh, None, lstm_cache)
        return {"lstm": dlstm, "output": doutput}

"""Losses: a mean over the batch, as (forward, backward) pairs.

Labels below zero mark padding: they count for nothing, in the loss and in its
gradient. ``backward`` takes ``dloss``, the gradient of whatever comes after the
loss (1 at the end of a network; less when a batch is shared by several threads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numpy_nn.shapes import Array, Float, Int

Cache = Any


def log_softmax(x: Float[Array, "*n v"]) -> Float[Array, "*n v"]:
    """log softmax(x) = x - m - log Σ e^(x - m), with m = max x, so that no exponential overflows."""
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax_cross_entropy_forward(
    logits: Float[Array, "n v"], labels: Int[Array, " n"]
) -> tuple[Float[Array, ""] | np.floating, Cache]:
    """loss = -1/n Σₙ log softmax(logits)[n, label]."""
    valid = labels >= 0
    log_p = log_softmax(logits)
    picked = np.take_along_axis(log_p, np.maximum(labels, 0)[:, None].astype(np.intp), axis=1)[:, 0]
    n = max(int(valid.sum()), 1)
    loss = -(picked * valid).sum() / n
    return loss, (log_p, labels, valid, n)


def softmax_cross_entropy_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """dlogits = dloss/n · (softmax(logits) - onehot(labels))."""
    log_p, labels, valid, n = cache
    dlogits = np.exp(log_p)
    dlogits[np.arange(len(labels)), labels] -= 1
    dlogits *= (valid * (dloss / n)).astype(dlogits.dtype)[:, None]
    return dlogits


def mean_squared_error_forward(
    outputs: Float[Array, "n v"], labels: Int[Array, " n"]
) -> tuple[Float[Array, ""] | np.floating, Cache]:
    """loss = 1/(n v) Σ (outputs - onehot(labels))²."""
    valid = labels >= 0
    error = outputs.copy()
    error[np.arange(len(labels)), labels] -= 1
    error *= valid[:, None]
    size = max(int(valid.sum()), 1) * outputs.shape[1]
    return (error * error).sum() / size, (error, size)


def mean_squared_error_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """doutputs = dloss · 2/(n v) · (outputs - onehot(labels))."""
    error, size = cache
    return error * (2 * dloss / size)


LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "cross_entropy": (softmax_cross_entropy_forward, softmax_cross_entropy_backward),
    "mse": (mean_squared_error_forward, mean_squared_error_backward),
}

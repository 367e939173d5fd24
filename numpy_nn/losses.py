"""Losses: a mean over the batch, as (forward, backward) pairs.

Labels below zero mark padding: they count for nothing, in the loss and in its
gradient. ``backward`` takes ``dloss``, the gradient of whatever comes after the
loss (1 at the end of a network; less when a batch is shared by several threads).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numpy_nn.layers import sigmoid, softplus_forward
from numpy_nn.shapes import Array, Float, Int

Cache = Any
Loss = Float[Array, ""] | np.floating


# --- one right answer -------------------------------------------------------------------------------------------------


def log_softmax(x: Float[Array, "*n v"]) -> Float[Array, "*n v"]:
    """log softmax(x) = x - m - log Σ e^(x - m), with m = max x, so that no exponential overflows."""
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax_cross_entropy_forward(
    logits: Float[Array, "n v"], labels: Int[Array, " n"], *, label_smoothing: float = 0.0
) -> tuple[Loss, Cache]:
    """loss = -1/n Σₙ Σᵥ q log softmax(logits),  q = (1 - ε) onehot(labels) + ε/v.

    ε is ``label_smoothing`` (Szegedy et al. 2015, arXiv:1512.00567); at ε = 0 only the label's logarithm is left.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing {label_smoothing}: it must lie between 0 and 1")
    valid = labels >= 0
    log_p = log_softmax(logits)
    gain = np.take_along_axis(log_p, np.maximum(labels, 0)[:, None].astype(np.intp), axis=1)[:, 0]
    if label_smoothing:
        gain = (1 - label_smoothing) * gain + label_smoothing * log_p.mean(axis=1)
    n = max(int(valid.sum()), 1)
    loss = -(gain * valid).sum() / n
    return loss, (log_p, labels, valid, n, label_smoothing)


def softmax_cross_entropy_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """dlogits = dloss/n · (softmax(logits) - q)."""
    log_p, labels, valid, n, label_smoothing = cache
    dlogits = np.exp(log_p)
    dlogits[np.arange(len(labels)), labels] -= 1 - label_smoothing
    if label_smoothing:
        dlogits -= label_smoothing / log_p.shape[1]
    dlogits *= (valid * (dloss / n)).astype(dlogits.dtype)[:, None]
    return dlogits


# --- each output for itself: is it this class? ------------------------------------------------------------------------


def onehot(labels: Int[Array, " n"], v: int, dtype: Any) -> tuple[Float[Array, "n v"], Float[Array, "n 1"], int]:
    """Return (targets, which rows count, how many numbers count); the target is 1 at the label, 0 elsewhere."""
    valid = (labels >= 0).astype(dtype)[:, None]
    target = np.zeros((len(labels), v), dtype)
    target[np.arange(len(labels)), labels] = 1
    return target, valid, max(int(valid.sum()), 1) * v


def mean_squared_error_forward(outputs: Float[Array, "n v"], labels: Int[Array, " n"]) -> tuple[Loss, Cache]:
    """loss = 1/(n v) Σ (outputs - onehot(labels))²."""
    target, valid, size = onehot(labels, outputs.shape[1], outputs.dtype)
    error = (outputs - target) * valid
    return (error * error).sum() / size, (error, size)


def mean_squared_error_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """doutputs = dloss · 2/(n v) · (outputs - onehot(labels))."""
    error, size = cache
    return error * (2 * dloss / size)


def huber_forward(outputs: Float[Array, "n v"], labels: Int[Array, " n"], *, delta: float = 1.0) -> tuple[Loss, Cache]:
    """loss = 1/(n v) Σ c (e - c/2), where e = outputs - onehot(labels) and c is e cut off at ±δ.

    That is e²/2 near zero and δ (|e| - δ/2) beyond δ, where outliers stop pulling
    harder (Huber 1964, "Robust estimation of a location parameter").
    """
    target, valid, size = onehot(labels, outputs.shape[1], outputs.dtype)
    error = (outputs - target) * valid
    cut = np.clip(error, -delta, delta)
    return (cut * (error - cut / 2)).sum() / size, (cut, size)


def huber_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """doutputs = dloss/(n v) · c."""
    cut, size = cache
    return cut * (dloss / size)


def binary_cross_entropy_forward(logits: Float[Array, "n v"], labels: Int[Array, " n"]) -> tuple[Loss, Cache]:
    """loss = -1/(n v) Σ (z log σ(x) + (1 - z) log(1 - σ(x))) = 1/(n v) Σ (softplus(x) - x z), z = onehot(labels).

    The second form takes logits x of any size: no logarithm of zero.
    """
    target, valid, size = onehot(labels, logits.shape[1], logits.dtype)
    each, _ = softplus_forward(logits)
    each -= logits * target
    each *= valid
    return each.sum() / size, (logits, target, valid, size)


def binary_cross_entropy_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """dlogits = dloss/(n v) · (σ(x) - z)."""
    logits, target, valid, size = cache
    return (sigmoid(logits) - target) * valid * (dloss / size)


LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "cross_entropy": (softmax_cross_entropy_forward, softmax_cross_entropy_backward),
    "mse": (mean_squared_error_forward, mean_squared_error_backward),
    "huber": (huber_forward, huber_backward),
    "binary_cross_entropy": (binary_cross_entropy_forward, binary_cross_entropy_backward),
}

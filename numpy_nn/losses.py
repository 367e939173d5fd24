"""Losses: a mean over the batch, as (forward, backward) pairs.

Labels are class numbers (n,), or distributions over the classes (n, v) such as mixup makes; ``rows`` makes them of the
outputs and labels of sequences. Labels below zero mark padding, which adds nothing to the loss and its gradient.
``backward`` takes ``dloss``, ∂objective/∂loss: 1 for a whole batch, less for a shard or a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numpy_nn.layers import sigmoid, softplus_forward
from numpy_nn.shapes import Array, Float, Int

Cache = Any
Loss = Float[Array, ""] | np.floating


Labels = Int[Array, " n"] | Float[Array, "n v"]


def targets(labels: Labels, v: int, dtype: Any) -> tuple[Float[Array, "n v"], Float[Array, "n 1"], int]:
    """Return (target outputs, 1 for rows that count and 0 for padding, number of rows that count)."""
    if labels.ndim == 2:
        target = labels.astype(dtype)
    else:
        target = np.zeros((len(labels), v), dtype)
        target[np.arange(len(labels)), labels] = 1
    valid = (labels.reshape(len(labels), -1) >= 0).all(axis=1, keepdims=True).astype(dtype)
    return target, valid, max(int(valid.sum()), 1)


def rows(outputs: Float[Array, "n *t v"], labels: Array) -> tuple[Float[Array, "_ v"], Array]:
    """Make each token of a sequence a row: outputs (n, t, v) and labels (n, t) -> (n·t, v) and (n·t,).

    Outputs (n, v) of images are returned as they are, with their labels.
    """
    if outputs.ndim == 2:
        return outputs, labels
    return outputs.reshape(-1, outputs.shape[-1]), labels.reshape(-1)


def correct(outputs: Float[Array, "n v"], labels: Labels) -> int:
    """Number of rows whose largest output is at the label; the label of a distribution is its largest entry."""
    return int((outputs.argmax(axis=1) == (labels.argmax(axis=1) if labels.ndim == 2 else labels)).sum())


# --- one class per image ----------------------------------------------------------------------------------------------


def log_softmax(x: Float[Array, "*n v"]) -> Float[Array, "*n v"]:
    """log softmax(x) = x - m - log Σ e^(x - m), with m = max x, so that no exponential overflows."""
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax_cross_entropy_forward(
    logits: Float[Array, "n v"], labels: Labels, *, label_smoothing: float = 0.0
) -> tuple[Loss, Cache]:
    """loss = -1/n Σₙ Σᵥ q log softmax(logits),  q = (1 - ε) target + ε/v.

    ε is ``label_smoothing`` (Szegedy et al. 2015, arXiv:1512.00567).
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing {label_smoothing}: it must lie between 0 and 1")
    v = logits.shape[1]
    q, valid, n = targets(labels, v, logits.dtype)
    if label_smoothing:
        q = (1 - label_smoothing) * q + label_smoothing / v
    log_p = log_softmax(logits)
    return -(q * log_p * valid).sum() / n, (log_p, q, valid, n)


def softmax_cross_entropy_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """dlogits = dloss/n · (softmax(logits) - q)."""
    log_p, q, valid, n = cache
    return (np.exp(log_p) - q) * valid * (dloss / n)


# --- every output by itself: is it this class? ------------------------------------------------------------------------


def mean_squared_error_forward(outputs: Float[Array, "n v"], labels: Labels) -> tuple[Loss, Cache]:
    """loss = 1/(n v) Σ (outputs - target)²."""
    v = outputs.shape[1]
    target, valid, n = targets(labels, v, outputs.dtype)
    error = (outputs - target) * valid
    return (error * error).sum() / (n * v), (error, n * v)


def mean_squared_error_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """doutputs = dloss · 2/(n v) · (outputs - target)."""
    error, size = cache
    return error * (2 * dloss / size)


def huber_forward(outputs: Float[Array, "n v"], labels: Labels, *, delta: float = 1.0) -> tuple[Loss, Cache]:
    """loss = 1/(n v) Σ c (e - c/2), where e = outputs - target and c is e cut off at ±δ.

    That is e²/2 up to δ and δ (|e| - δ/2) beyond, where the gradient of an outlier no longer grows
    (Huber 1964, "Robust estimation of a location parameter").
    """
    v = outputs.shape[1]
    target, valid, n = targets(labels, v, outputs.dtype)
    error = (outputs - target) * valid
    cut = np.clip(error, -delta, delta)
    return (cut * (error - cut / 2)).sum() / (n * v), (cut, n * v)


def huber_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """doutputs = dloss/(n v) · c."""
    cut, size = cache
    return cut * (dloss / size)


def binary_cross_entropy_forward(logits: Float[Array, "n v"], labels: Labels) -> tuple[Loss, Cache]:
    """loss = -1/(n v) Σ (z log σ(x) + (1 - z) log(1 - σ(x))) = 1/(n v) Σ (softplus(x) - x z), z = target.

    The second form has no logarithm of zero, however large the logits x are.
    """
    v = logits.shape[1]
    target, valid, n = targets(labels, v, logits.dtype)
    each, _ = softplus_forward(logits)
    each -= logits * target
    each *= valid
    return each.sum() / (n * v), (logits, target, valid, n * v)


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

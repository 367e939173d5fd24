"""Losses: a mean over the batch, as (forward, backward) pairs.

Labels are class numbers (n,), or distributions over the classes (n, v) such as mixup makes; ``rows`` makes them of the
outputs and labels of sequences. Labels below zero mark padding, which adds nothing to the loss and its gradient.
``backward`` takes ``dloss``, ∂objective/∂loss: 1 for a whole batch, less for a shard or a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    logits: Float[Array, "n v"],
    labels: Labels,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> tuple[Loss, Cache]:
    """loss = -1/n Σₙ w Σᵥ q log softmax(logits),  q = (1 - ε) target + ε/v,  w = Σᵥ target · class weight.

    ε is ``label_smoothing`` (Szegedy et al. 2015, arXiv:1512.00567). Weights (v,) make rare classes count for more; the
    sum is divided by n, not by Σ w as in PyTorch's ``weight``, so that parts of a batch add up to the whole.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing {label_smoothing}: it must lie between 0 and 1")
    v = logits.shape[1]
    q, valid, n = targets(labels, v, logits.dtype)
    if class_weights is not None:
        valid = valid * (q @ class_weight_vector(class_weights, v, logits.dtype))[:, None]
    if label_smoothing:
        q = (1 - label_smoothing) * q + label_smoothing / v
    log_p = log_softmax(logits)
    return -(q * log_p * valid).sum() / n, (log_p, q, valid, n)


def softmax_cross_entropy_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """dlogits = dloss/n · (softmax(logits) - q)."""
    log_p, q, valid, n = cache
    return (np.exp(log_p) - q) * valid * (dloss / n)


def class_weight_vector(weights: Sequence[float], v: int, dtype: Any) -> Float[Array, " v"]:
    """The weights as an array; ValueError unless there is one for each class."""
    if len(weights) != v:
        raise ValueError(f"class_weights has {len(weights)} weights for {v} classes: give one each")
    return np.asarray(weights, dtype)


def kl_divergence_forward(logits: Float[Array, "n v"], labels: Labels) -> tuple[Loss, Cache]:
    """loss = 1/n Σₙ Σᵥ q (log q - log softmax(logits)), q = target (Kullback & Leibler 1951).

    Cross-entropy less the entropy of the targets: 0 where the network is as uncertain as they are. For class numbers
    the two are equal.
    """
    q, valid, n = targets(labels, logits.shape[1], logits.dtype)
    log_p = log_softmax(logits)
    log_q = np.log(q, out=np.zeros_like(q), where=q > 0)  # 0 log 0 = 0
    return (q * (log_q - log_p) * valid).sum() / n, (log_p, q, valid, n)


def kl_divergence_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """dlogits = dloss/n · (softmax(logits) - q): the entropy of the targets has no gradient."""
    return softmax_cross_entropy_backward(dloss, cache)


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


def focal_forward(logits: Float[Array, "n v"], labels: Labels, *, gamma: float = 2.0) -> tuple[Loss, Cache]:
    """loss = 1/(n v) Σ m^γ · bce, where bce is binary cross-entropy and m = (1 - z) σ(x) + z σ(-x), z = target.

    m is the probability given to the wrong answer. Easy outputs, with a small m, hardly count, so that the many easy
    negatives do not drown the few positives (Lin et al. 2017, arXiv:1708.02002, without α).
    """
    if gamma < 0:
        raise ValueError(f"gamma {gamma}: it must not be negative")
    v = logits.shape[1]
    target, valid, n = targets(labels, v, logits.dtype)
    bce, _ = softplus_forward(logits)
    bce -= logits * target
    p = sigmoid(logits)
    m = (1 - target) * p + target * sigmoid(-logits)
    focus = m**gamma * valid
    return (focus * bce).sum() / (n * v), (target, p, m, focus, bce, gamma, n * v)


def focal_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """dlogits = dloss/(n v) · m^γ (p - z + γ · bce · m'/m),  m' = p (1 - p) (1 - 2 z)."""
    target, p, m, focus, bce, gamma, size = cache
    slope = p * (1 - p) * (1 - 2 * target) / m
    return focus * (p - target + gamma * bce * slope) * (dloss / size)


def hinge_forward(outputs: Float[Array, "n v"], labels: Labels) -> tuple[Loss, Cache]:
    """loss = 1/(n v) Σ max(0, 1 - s x), where s = 2 target - 1 is 1 at the label and -1 at all others.

    Each output is a support vector machine, one against the rest (Cortes & Vapnik 1995): beyond the margin of 1 it
    costs nothing and has no gradient.
    """
    v = outputs.shape[1]
    target, valid, n = targets(labels, v, outputs.dtype)
    sign = (2 * target - 1) * valid
    short = np.maximum(valid - sign * outputs, 0)
    return short.sum() / (n * v), (sign * (short > 0), n * v)


def hinge_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """doutputs = -dloss/(n v) · s where s x < 1, else 0."""
    sign, size = cache
    return -sign * (dloss / size)


LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "cross_entropy": (softmax_cross_entropy_forward, softmax_cross_entropy_backward),
    "mse": (mean_squared_error_forward, mean_squared_error_backward),
    "huber": (huber_forward, huber_backward),
    "binary_cross_entropy": (binary_cross_entropy_forward, binary_cross_entropy_backward),
    "kl": (kl_divergence_forward, kl_divergence_backward),
    "focal": (focal_forward, focal_backward),
    "hinge": (hinge_forward, hinge_backward),
}

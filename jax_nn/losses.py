"""Losses: a mean over the batch.

Outputs are (n, v). Labels are class numbers (n,), or distributions over the classes (n, v) such as those of mixup.
Labels below zero are padding and are not counted. ``rows`` makes such outputs and labels of those of sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from jax import Array


def rows(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Make each token of a sequence a row: outputs (n, t, v) and labels (n, t) -> (n·t, v) and (n·t,).

    Outputs (n, v) of images are returned as they are, with their labels.
    """
    if outputs.ndim == 2:
        return outputs, labels
    return outputs.reshape(-1, outputs.shape[-1]), labels.reshape(-1)


def _mean_over_valid(losses: Array, labels: Array) -> Array:
    valid = (labels.reshape(len(labels), -1) >= 0).all(axis=1)
    return jnp.where(valid, losses, 0).sum() / jnp.maximum(valid.sum(), 1).astype(losses.dtype)


def _targets(labels: Array, like: Array) -> Array:
    """Return the targets (n, v): distributions as they are, class numbers as one-hot vectors."""
    return labels.astype(like.dtype) if labels.ndim == 2 else jax.nn.one_hot(labels, like.shape[1], dtype=like.dtype)


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> Array:
    """loss = -1/n Σₙ w Σᵥ q log softmax(logits),  q = (1 - ε) target + ε/v,  w = Σᵥ target · class weight."""
    targets = _targets(labels, logits)
    losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))
    if class_weights is not None:
        losses *= targets @ _class_weights(class_weights, logits)
    return _mean_over_valid(losses, labels)


def _class_weights(weights: Sequence[float], like: Array) -> Array:
    if len(weights) != like.shape[1]:
        raise ValueError(f"class_weights has {len(weights)} weights for {like.shape[1]} classes: give one each")
    return jnp.asarray(weights, like.dtype)


def kl_divergence(logits: Array, labels: Array) -> Array:
    """loss = 1/n Σₙ Σᵥ q (log q - log softmax(logits)), q = target."""
    losses = optax.kl_divergence(jax.nn.log_softmax(logits), _targets(labels, logits))
    return _mean_over_valid(losses, labels)


def mean_squared_error(outputs: Array, labels: Array) -> Array:
    """loss = 1/(n v) Σ (outputs - target)²."""
    losses = optax.squared_error(outputs, _targets(labels, outputs))
    return _mean_over_valid(losses.mean(axis=1), labels)


def huber(outputs: Array, labels: Array, *, delta: float = 1.0) -> Array:
    """loss = 1/(n v) Σ c (e - c/2), where e = outputs - target and c is e clipped to ±δ."""
    losses = optax.huber_loss(outputs, _targets(labels, outputs), delta=delta)
    return _mean_over_valid(losses.mean(axis=1), labels)


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """loss = -1/(n v) Σ (z log σ(x) + (1 - z) log(1 - σ(x))), z = target."""
    losses = optax.sigmoid_binary_cross_entropy(logits, _targets(labels, logits))
    return _mean_over_valid(losses.mean(axis=1), labels)


def focal(logits: Array, labels: Array, *, gamma: float = 2.0) -> Array:
    """loss = 1/(n v) Σ m^γ · bce, m = (1 - z) σ(x) + z σ(-x), z = target."""
    losses = optax.sigmoid_focal_loss(logits, _targets(labels, logits), gamma=gamma)
    return _mean_over_valid(losses.mean(axis=1), labels)


def hinge(outputs: Array, labels: Array) -> Array:
    """loss = 1/(n v) Σ max(0, 1 - s x), s = 2 target - 1."""
    losses = optax.hinge_loss(outputs, 2 * _targets(labels, outputs) - 1)
    return _mean_over_valid(losses.mean(axis=1), labels)


LOSSES: dict[str, Callable[..., Array]] = {
    "cross_entropy": softmax_cross_entropy,
    "mse": mean_squared_error,
    "huber": huber,
    "binary_cross_entropy": binary_cross_entropy,
    "kl": kl_divergence,
    "focal": focal,
    "hinge": hinge,
}


def correct(logits: Array, labels: Array) -> Array:
    """Return the number of samples whose largest logit is the label, or the largest entry of the distribution."""
    return (logits.argmax(axis=1) == (labels.argmax(axis=1) if labels.ndim == 2 else labels)).sum()

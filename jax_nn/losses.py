"""Losses: a mean over the batch; labels below zero are padding and count for nothing."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array


def _mean_over_valid(losses: Array, labels: Array) -> Array:
    valid = labels >= 0
    return jnp.where(valid, losses, 0).sum() / jnp.maximum(valid.sum(), 1).astype(losses.dtype)


def _onehot(labels: Array, like: Array) -> Array:
    return jax.nn.one_hot(labels, like.shape[1], dtype=like.dtype)


def softmax_cross_entropy(logits: Array, labels: Array, *, label_smoothing: float = 0.0) -> Array:
    """loss = -1/n Σₙ Σᵥ q log softmax(logits),  q = (1 - ε) onehot(labels) + ε/v, ε = label_smoothing."""
    targets = optax.smooth_labels(_onehot(labels, logits), label_smoothing)
    return _mean_over_valid(optax.softmax_cross_entropy(logits, targets), labels)


def mean_squared_error(outputs: Array, labels: Array) -> Array:
    """loss = 1/(n v) Σ (outputs - onehot(labels))²."""
    losses = optax.squared_error(outputs, _onehot(labels, outputs))
    return _mean_over_valid(losses.mean(axis=1), labels)


def huber(outputs: Array, labels: Array, *, delta: float = 1.0) -> Array:
    """loss = 1/(n v) Σ c (e - c/2), where e = outputs - onehot(labels) and c is e cut off at ±δ."""
    losses = optax.huber_loss(outputs, _onehot(labels, outputs), delta=delta)
    return _mean_over_valid(losses.mean(axis=1), labels)


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """loss = -1/(n v) Σ (z log σ(x) + (1 - z) log(1 - σ(x))), z = onehot(labels)."""
    losses = optax.sigmoid_binary_cross_entropy(logits, _onehot(labels, logits))
    return _mean_over_valid(losses.mean(axis=1), labels)


LOSSES: dict[str, Callable[..., Array]] = {
    "cross_entropy": softmax_cross_entropy,
    "mse": mean_squared_error,
    "huber": huber,
    "binary_cross_entropy": binary_cross_entropy,
}


def correct(logits: Array, labels: Array) -> Array:
    """Number of labels that the largest logit names."""
    return (logits.argmax(axis=1) == labels).sum()

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


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    """loss = -1/n Σₙ log softmax(logits)[n, label]."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return _mean_over_valid(losses, labels)


def mean_squared_error(outputs: Array, labels: Array) -> Array:
    """loss = 1/(n v) Σ (outputs - onehot(labels))²."""
    onehot = jax.nn.one_hot(labels, outputs.shape[1], dtype=outputs.dtype)
    return _mean_over_valid(((outputs - onehot) ** 2).mean(axis=1), labels)


LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "cross_entropy": softmax_cross_entropy,
    "mse": mean_squared_error,
}


def correct(logits: Array, labels: Array) -> Array:
    """Number of labels that the largest logit names."""
    return (logits.argmax(axis=1) == labels).sum()

"""Losses: a mean over the batch; labels below zero are padding and count for nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """loss = -1/n Σₙ log softmax(logits)[n, label]."""
    valid = labels >= 0
    loss = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    return (loss * valid).sum() / valid.sum().clamp(min=1)


def mean_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """loss = 1/(n v) Σ (outputs - onehot(labels))²."""
    valid = labels >= 0
    error = outputs - F.one_hot(labels.clamp(min=0), outputs.shape[1]).to(outputs.dtype)
    return ((error * error).mean(dim=1) * valid).sum() / valid.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": softmax_cross_entropy,
    "mse": mean_squared_error,
}


@torch.no_grad()
def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of labels that the largest logit names."""
    return (logits.argmax(dim=1) == labels).sum()

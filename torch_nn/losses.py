"""Losses: a mean over the batch.

Outputs are (n, v). Labels are class numbers (n,), or distributions over the classes (n, v) such as those of mixup.
Labels below zero are padding and are not counted. ``rows`` makes such outputs and labels of those of sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def rows(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Make each token of a sequence a row: outputs (n, t, v) and labels (n, t) -> (n·t, v) and (n·t,).

    Outputs (n, v) of images are returned as they are, with their labels.
    """
    if outputs.ndim == 2:
        return outputs, labels
    return outputs.flatten(0, 1), labels.flatten()


def _mean_over_valid(losses: Tensor, labels: Tensor) -> Tensor:
    valid = (labels.reshape(len(labels), -1) >= 0).all(dim=1)
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def _targets(labels: Tensor, like: Tensor) -> Tensor:
    """Return the targets (n, v): distributions as they are, class numbers as one-hot vectors."""
    return labels if labels.ndim == 2 else F.one_hot(labels.clamp(min=0), like.shape[1]).to(like.dtype)


def softmax_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
) -> Tensor:
    """loss = -1/n Σₙ w Σᵥ q log softmax(logits),  q = (1 - ε) target + ε/v,  w = Σᵥ target · class weight."""
    losses = F.cross_entropy(logits, labels.clamp(min=0), reduction="none", label_smoothing=label_smoothing)
    if class_weights is not None:
        losses = losses * (_targets(labels, logits) @ _class_weights(class_weights, logits))
    return _mean_over_valid(losses, labels)


def _class_weights(weights: Sequence[float], like: Tensor) -> Tensor:
    if len(weights) != like.shape[1]:
        raise ValueError(f"class_weights has {len(weights)} weights for {like.shape[1]} classes: give one each")
    return like.new_tensor(weights)


def kl_divergence(logits: Tensor, labels: Tensor) -> Tensor:
    """loss = 1/n Σₙ Σᵥ q (log q - log softmax(logits)), q = target."""
    losses = F.kl_div(F.log_softmax(logits, dim=1), _targets(labels, logits), reduction="none")
    return _mean_over_valid(losses.sum(dim=1), labels)


def mean_squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """loss = 1/(n v) Σ (outputs - target)²."""
    losses = F.mse_loss(outputs, _targets(labels, outputs), reduction="none")
    return _mean_over_valid(losses.mean(dim=1), labels)


def huber(outputs: Tensor, labels: Tensor, *, delta: float = 1.0) -> Tensor:
    """loss = 1/(n v) Σ c (e - c/2), where e = outputs - target and c is e clipped to ±δ."""
    losses = F.huber_loss(outputs, _targets(labels, outputs), reduction="none", delta=delta)
    return _mean_over_valid(losses.mean(dim=1), labels)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """loss = -1/(n v) Σ (z log σ(x) + (1 - z) log(1 - σ(x))), z = target."""
    losses = F.binary_cross_entropy_with_logits(logits, _targets(labels, logits), reduction="none")
    return _mean_over_valid(losses.mean(dim=1), labels)


def focal(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """loss = 1/(n v) Σ m^γ · bce, m = (1 - z) σ(x) + z σ(-x), z = target."""
    z = _targets(labels, logits)
    bce = F.binary_cross_entropy_with_logits(logits, z, reduction="none")
    log_m = torch.logaddexp(torch.log(1 - z) + F.logsigmoid(logits), torch.log(z) + F.logsigmoid(-logits))
    return _mean_over_valid((torch.exp(gamma * log_m) * bce).mean(dim=1), labels)


def hinge(outputs: Tensor, labels: Tensor) -> Tensor:
    """loss = 1/(n v) Σ max(0, 1 - s x), s = 2 target - 1."""
    losses = F.relu(1 - (2 * _targets(labels, outputs) - 1) * outputs)
    return _mean_over_valid(losses.mean(dim=1), labels)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": softmax_cross_entropy,
    "mse": mean_squared_error,
    "huber": huber,
    "binary_cross_entropy": binary_cross_entropy,
    "kl": kl_divergence,
    "focal": focal,
    "hinge": hinge,
}


@torch.no_grad()
def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of samples whose largest logit is the label, or the largest entry of the distribution."""
    return (logits.argmax(dim=1) == (labels.argmax(dim=1) if labels.ndim == 2 else labels)).sum()

"""A small network with every kind of operation that ports get wrong, in PyTorch; ``jax_port.py`` is the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Scale(torch.autograd.Function):
    """y = 2 x, with its gradient written by hand."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, dy):
        return 2 * dy


def standardise(x: Tensor) -> Tensor:
    """Rows of mean 0 and variance 1."""
    mean = x.mean(1, keepdim=True)
    var = x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / torch.sqrt(var + 1e-5)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ/√d) v."""
    scores = q @ k.transpose(1, 2)
    scores = scores / q.shape[-1] ** 0.5
    weights = scores.softmax(-1)
    return weights @ v


class Net(nn.Module):
    """Images (n, 3, 8, 8) -> logits (n, 5)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6, eps=1e-5, momentum=0.1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.hidden = nn.Linear(6 * 6 * 6, 16)
        self.layer_norm = nn.LayerNorm(16, eps=1e-5)
        self.query, self.key, self.value = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.expand = nn.Linear(16, 24)
        self.output = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.norm(x)
        x = F.relu(x)
        shortcut = x
        x = self.conv2(x)
        x = F.leaky_relu(x, 0.1)
        x = x + shortcut
        x = F.interpolate(x, size=(6, 6), mode="bilinear", align_corners=False)
        x = x.permute(0, 2, 3, 1)
        x = x.flatten(1)
        x = self.hidden(x)
        x = self.layer_norm(x)
        tokens = x.unflatten(1, (4, 4))
        tokens = attend(self.query(tokens), self.key(tokens), self.value(tokens))
        x = x + tokens.flatten(1)
        h = self.expand(x)
        h = F.gelu(h)
        h = standardise(h)
        h = Scale.apply(h)
        return self.output(h)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of -log p of the labels, smoothed by 0.1."""
    logp = logits.log_softmax(1)
    chosen = logp.gather(1, labels[:, None])[:, 0]
    losses = -0.9 * chosen - 0.1 * logp.mean(1)
    return losses.mean()


class Loss(nn.Module):
    """Rows (n, 7) and labels (n,) -> the loss of a linear classifier."""

    def __init__(self):
        super().__init__()
        self.output = nn.Linear(7, 5)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.output(x), labels)

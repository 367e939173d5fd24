"""Linear maps, embeddings and activations: those of PyTorch, under the names that all tracks share."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Linear = nn.Linear
Embedding = nn.Embedding

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # slope 0.01
    "elu": F.elu,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "softplus": lambda x: -F.logsigmoid(-x),  # F.softplus returns x itself for x > 20
    "silu": F.silu,
    "gelu": F.gelu,  # the exact form, with erf
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return an activation by name; ValueError for an unknown one lists the known names."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def flatten(x: Tensor) -> Tensor:
    """Flatten images, (n, c, h, w) -> (n, h·w·c), with channels varying fastest; a view if x is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1)

"""Linear maps and activations: PyTorch's own, by the names that all tracks use."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Linear = nn.Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # slope 0.01
    "elu": F.elu,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "softplus": lambda x: -F.logsigmoid(-x),  # F.softplus drops log(1 + e⁻ˣ) beyond x = 20
    "silu": F.silu,
    "gelu": F.gelu,  # the exact form, with erf
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """Look up an activation by name; an unknown name is answered with the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def flatten(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, h·w·c), channels fastest, as the other tracks flatten; free when x is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1)

"""The networks, by name."""

from __future__ import annotations

from typing import Any

from numpy_nn.models.cnn import CNN
from numpy_nn.models.mlp import MLP

MODELS: dict[str, Any] = {"mlp": MLP, "cnn": CNN}

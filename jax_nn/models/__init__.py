"""The networks, by name."""

from __future__ import annotations

from flax import nnx

from jax_nn.models.cnn import CNN
from jax_nn.models.lenet5 import LeNet5
from jax_nn.models.mlp import MLP

MODELS: dict[str, type[nnx.Module]] = {"mlp": MLP, "cnn": CNN, "lenet5": LeNet5}

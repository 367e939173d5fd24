"""The models, by name."""

from __future__ import annotations

from flax import nnx

from jax_nn.models.cnn import CNN
from jax_nn.models.densenet import DenseNet
from jax_nn.models.gpt import GPT
from jax_nn.models.lenet5 import LeNet5
from jax_nn.models.lstm import LSTM
from jax_nn.models.mlp import MLP
from jax_nn.models.resnet import ResNet
from jax_nn.models.rnn import RNN
from jax_nn.models.vgg import VGG
from jax_nn.models.vit import ViT
from numpy_nn.network_file import network_class

MODELS: dict[str, type[nnx.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "lenet5": LeNet5,
    "vgg": VGG,
    "resnet": ResNet,
    "densenet": DenseNet,
    "rnn": RNN,
    "lstm": LSTM,
    "vit": ViT,
    "gpt": GPT,
}


def get(name: str) -> type[nnx.Module]:
    """Return the class of this name in ``MODELS``, or ``Jax`` in the file of this name; ValueError if none."""
    return network_class(MODELS, name, "Jax")

"""The networks by name."""

from __future__ import annotations

from typing import Any

from numpy_nn.models.cnn import CNN
from numpy_nn.models.densenet import DenseNet
from numpy_nn.models.gpt import GPT
from numpy_nn.models.lenet5 import LeNet5
from numpy_nn.models.lstm import LSTM
from numpy_nn.models.mlp import MLP
from numpy_nn.models.resnet import ResNet
from numpy_nn.models.rnn import RNN
from numpy_nn.models.vgg import VGG
from numpy_nn.models.vit import ViT
from numpy_nn.network_file import network_class

MODELS: dict[str, Any] = {
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


def get(name: str) -> Any:
    """Return the class of this name in ``MODELS``, or ``Numpy`` in the file of this name; ValueError if none."""
    return network_class(MODELS, name, "Numpy")

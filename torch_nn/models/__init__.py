"""The models, by name."""

from __future__ import annotations

from torch import nn

from numpy_nn.network_file import network_class
from torch_nn.models.cnn import CNN
from torch_nn.models.densenet import DenseNet
from torch_nn.models.gpt import GPT
from torch_nn.models.lenet5 import LeNet5
from torch_nn.models.lstm import LSTM
from torch_nn.models.mlp import MLP
from torch_nn.models.resnet import ResNet
from torch_nn.models.rnn import RNN
from torch_nn.models.vgg import VGG
from torch_nn.models.vit import ViT

MODELS: dict[str, type[nn.Module]] = {
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


def get(name: str) -> type[nn.Module]:
    """Return the class of this name in ``MODELS``, or ``Torch`` in the file of this name; ValueError if none."""
    return network_class(MODELS, name, "Torch")

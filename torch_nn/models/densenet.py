"""DenseNet: each layer receives the outputs of all layers before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from torch_nn.conv import Conv, avg_pool, global_avg_pool, max_pool
from torch_nn.layers import Linear
from torch_nn.norm import BatchNorm


class DenseLayer(nn.Module):
    """y = [x, new(x)],  new = norm -> relu -> 1x1 conv to ``wide`` channels -> norm -> relu -> 3x3 conv to ``o``."""

    def __init__(self, i: int, wide: int, o: int):
        super().__init__()
        self.norm1 = BatchNorm(i)
        self.conv1 = Conv(i, wide, 1, bias=False)
        self.norm2 = BatchNorm(wide)
        self.conv2 = Conv(wide, o, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, i, h, w) -> (n, i + o, h, w)."""
        h = self.norm1(x)
        h = relu(h)
        h = self.conv1(h)
        h = self.norm2(h)
        h = relu(h)
        h = self.conv2(h)
        return torch.cat([x, h], dim=1)


class Transition(nn.Module):
    """norm -> relu -> 1x1 conv to fewer channels -> average pool 2."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.norm = BatchNorm(i)
        self.conv = Conv(i, o, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, i, h, w) -> (n, o, h/2, w/2)."""
        x = self.norm(x)
        x = relu(x)
        x = self.conv(x)
        return avg_pool(x, window=2)


class DenseNet(nn.Module):
    """x (n, c, h, w) -> conv -> blocks of dense layers, transitions between them -> norm -> relu -> mean -> linear.

    Huang, Liu, van der Maaten & Weinberger 2017, arXiv:1608.06993, variant BC: each layer adds ``growth`` channels
    through a bottleneck of ``bottleneck · growth``; a transition keeps the fraction ``compression`` of the channels.
    ``blocks`` are the numbers of layers per block. DenseNet-BC-100 for 32 pixels has ``blocks=(16, 16, 16)``;
    DenseNet-121 is ``input_shape=(224, 224, 3), blocks=(6, 12, 24, 16), growth=32, stem="large", classes=1000``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (32, 32, 3),
        blocks: tuple[int, ...] = (4, 4, 4),
        growth: int = 12,
        bottleneck: int = 4,
        compression: float = 0.5,
        stem: str = "small",
        classes: int = 10,
    ):
        super().__init__()
        i = 2 * growth
        kernel, stride, padding = (7, 2, 3) if stem == "large" else (3, 1, 1)
        self.conv = Conv(input_shape[-1], i, kernel, stride=stride, padding=padding, bias=False)
        self.stem = stem
        if stem == "large":
            self.norm = BatchNorm(i)
        self.layers = nn.ModuleList()
        for count in blocks:
            if self.layers:
                self.layers.append(Transition(i, int(i * compression)))
                i = int(i * compression)
            for _ in range(count):
                self.layers.append(DenseLayer(i, bottleneck * growth, growth))
                i += growth
        self.final_norm = BatchNorm(i)
        self.output = Linear(i, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.conv(x)
        if self.stem == "large":
            x = self.norm(x)
            x = relu(x)
            x = max_pool(x, window=3, stride=2, padding=1)
        for layer in self.layers:
            x = layer(x)
        x = self.final_norm(x)
        x = relu(x)
        h = global_avg_pool(x)
        return self.output(h)

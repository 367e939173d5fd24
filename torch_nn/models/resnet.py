"""ResNet: each block adds its output to its input, so that the gradient has a path around it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from torch_nn.conv import Conv, global_avg_pool, max_pool
from torch_nn.layers import Linear
from torch_nn.norm import BatchNorm


class ResidualBlock(nn.Module):
    """y = relu(branch(x) + shortcut(x)),  branch = conv -> norm -> relu -> conv -> norm.

    The shortcut is the identity where the shapes allow it. Elsewhere it takes every other pixel
    and fills the new channels with zeros ("pad", option A of the paper, no parameters), or
    applies a 1x1 convolution and a norm ("project", option B).
    """

    def __init__(self, i: int, o: int, *, stride: int, shortcut: str):
        super().__init__()
        self.conv1 = Conv(i, o, 3, stride=stride, padding=1, bias=False)
        self.norm1 = BatchNorm(o)
        self.conv2 = Conv(o, o, 3, padding=1, bias=False)
        self.norm2 = BatchNorm(o)
        self.stride, self.extra = stride, (o - i) // 2  # zero channels on each side of the old ones
        self.kind = "identity" if stride == 1 and i == o else shortcut
        if self.kind == "project":
            self.project = Conv(i, o, 1, stride=stride, bias=False)
            self.project_norm = BatchNorm(o)

    def shortcut(self, x: Tensor) -> Tensor:
        """Return x in the shape of the branch's output."""
        if self.kind == "pad":
            x = x[:, :, :: self.stride, :: self.stride]
            x = pad(x, (0, 0, 0, 0, self.extra, self.extra))
        if self.kind == "project":
            x = self.project(x)
            x = self.project_norm(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """x (n, i, h, w) -> (n, o, h/stride, w/stride)."""
        h = self.conv1(x)
        h = self.norm1(h)
        h = relu(h)
        h = self.conv2(h)
        h = self.norm2(h)
        return relu(h + self.shortcut(x))


class ResNet(nn.Module):
    """x (n, c, h, w) -> conv -> norm -> relu -> blocks -> mean over the image -> linear -> logits.

    He, Zhang, Ren & Sun 2015, arXiv:1512.03385. ``stages`` are the numbers of blocks per stage; every
    stage but the first halves the image. The default is ResNet-20 for 32 pixels; 32, 44 and 56 have
    ``stages`` (5, 5, 5), (7, 7, 7), (9, 9, 9). ResNet-18 for ImageNet is ``input_shape=(224, 224, 3),
    stages=(2, 2, 2, 2), channels=(64, 128, 256, 512), stem="large", shortcut="project", classes=1000``,
    and ResNet-34 has ``stages=(3, 4, 6, 3)``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (32, 32, 3),
        stages: tuple[int, ...] = (3, 3, 3),
        channels: tuple[int, ...] = (16, 32, 64),
        stem: str = "small",
        shortcut: str = "pad",
        classes: int = 10,
    ):
        super().__init__()
        i = channels[0]
        kernel, stride, padding = (7, 2, 3) if stem == "large" else (3, 1, 1)
        self.conv = Conv(input_shape[-1], i, kernel, stride=stride, padding=padding, bias=False)
        self.norm = BatchNorm(i)
        self.stem = stem
        self.blocks = nn.ModuleList()
        for stage, (count, o) in enumerate(zip(stages, channels, strict=True)):
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                self.blocks.append(ResidualBlock(i, o, stride=stride, shortcut=shortcut))
                i = o
        self.output = Linear(i, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.conv(x)
        x = self.norm(x)
        x = relu(x)
        if self.stem == "large":
            x = max_pool(x, window=3, stride=2, padding=1)
        for block in self.blocks:
            x = block(x)
        h = global_avg_pool(x)
        return self.output(h)

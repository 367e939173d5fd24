"""VGG: a deep stack of 3x3 convolutions."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn.functional import relu

from torch_nn.conv import Conv, adaptive_avg_pool, max_pool
from torch_nn.layers import Linear, flatten
from torch_nn.norm import BatchNorm


class VGG(nn.Module):
    """x (n, c, h, w) -> stages of [conv -> norm -> relu] and a max pool -> average pool -> linears -> logits.

    Simonyan & Zisserman 2014, arXiv:1409.1556, with batch norm and without dropout. ``stages`` are the numbers of
    convolutions per stage; before a norm they have no bias, because the norm would subtract it. The pool comes before
    the relu: max(relu(a), relu(b)) = relu(max(a, b)), so pooling first needs a quarter of the ReLUs. The default is a
    narrow VGG-11 for 32 pixels; 13, 16 and 19 have ``stages`` (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4).
    VGG-11 for ImageNet is ``input_shape=(224, 224, 3), channels=(64, 128, 256, 512, 512), pool=7,
    hidden=(4096, 4096), classes=1000``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (32, 32, 3),
        stages: tuple[int, ...] = (1, 1, 2, 2, 2),
        channels: tuple[int, ...] = (16, 32, 64, 128, 128),
        batch_norm: bool = True,
        pool: int = 1,
        hidden: tuple[int, ...] = (),
        classes: int = 10,
    ):
        super().__init__()
        outs = [o for count, o in zip(stages, channels, strict=True) for _ in range(count)]
        sizes = itertools.pairwise([input_shape[-1], *outs])
        self.convs = nn.ModuleList(Conv(i, o, 3, padding=1, bias=not batch_norm) for i, o in sizes)
        self.norms = nn.ModuleList(BatchNorm(o) for o in outs if batch_norm)
        self.ends = tuple(itertools.accumulate(stages))  # number of convolutions up to the end of each stage
        self.pool = pool
        units = [pool * pool * outs[-1], *hidden]
        self.hidden = nn.ModuleList(Linear(i, o) for i, o in itertools.pairwise(units))
        self.output = Linear(units[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        for k, conv in enumerate(self.convs):
            x = conv(x)
            if self.norms:
                x = self.norms[k](x)
            if k + 1 in self.ends:
                x = max_pool(x, window=2)
            x = relu(x)
        x = adaptive_avg_pool(x, (self.pool, self.pool))
        h = flatten(x)
        for layer in self.hidden:
            h = relu(layer(h))
        return self.output(h)

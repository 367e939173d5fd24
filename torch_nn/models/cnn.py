"""A small convolutional network in the tradition of LeNet."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import relu

from torch_nn.conv import Conv, max_pool
from torch_nn.layers import Linear, flatten
from torch_nn.norm import BatchNorm


class CNN(nn.Module):
    """x (n, c, h, w) -> [conv -> max pool -> norm -> relu] per channel count -> linear -> relu -> linear -> logits.

    The layout of LeCun et al. 1998, "Gradient-based learning applied to document recognition",
    with ReLU and max pooling. ``pools`` are the windows of the pools: 2 by default, 1 for none.
    max(relu(a), relu(b)) = relu(max(a, b)), so pooling first needs a quarter of the ReLUs.
    With ``batch_norm`` the convolutions have no bias, because the norm would subtract it.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (28, 28, 1),
        channels: tuple[int, ...] = (16, 32),
        kernel: int = 5,
        padding: int = 0,
        pools: tuple[int, ...] = (),
        batch_norm: bool = False,
        hidden: int = 128,
        classes: int = 10,
    ):
        super().__init__()
        h, w, c = input_shape
        sizes = (c, *channels)
        bias = not batch_norm
        self.convs = nn.ModuleList(Conv(i, o, kernel, padding=padding, bias=bias) for i, o in pairwise(sizes))
        self.norms = nn.ModuleList(BatchNorm(o) for o in channels if batch_norm)
        self.pools = tuple(pools) or (2,) * len(channels)
        for pool in self.pools:
            h, w = ((size + 2 * padding - kernel + 1) // pool for size in (h, w))
        self.hidden = Linear(h * w * sizes[-1], hidden)
        self.output = Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        for k, (conv, pool) in enumerate(zip(self.convs, self.pools, strict=True)):
            x = conv(x)
            if pool > 1:
                x = max_pool(x, window=pool)
            if self.norms:
                x = self.norms[k](x)
            x = relu(x)
        h = flatten(x)
        h = self.hidden(h)
        h = relu(h)
        return self.output(h)

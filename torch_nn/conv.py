"""Convolution and pooling over images (n, c, h, w), kept in memory as channels_last."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Conv2d):
    """nn.Conv2d by the arguments that all tracks use; padding is an integer on all four sides."""

    def __init__(
        self, i: int, o: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1, bias: bool = True
    ):
        super().__init__(i, o, kernel, stride=stride, padding=padding, groups=groups, bias=bias)


def max_pool(x: Tensor, window: int = 2, stride: int | None = None, padding: int = 0) -> Tensor:
    """The largest pixel of each window; on a tie the gradient goes to the first."""
    return F.max_pool2d(x, window, stride, padding)


def avg_pool(x: Tensor, window: int = 2, stride: int | None = None, padding: int = 0) -> Tensor:
    """The mean of each window; padding counts as zeros, and in the divisor."""
    return F.avg_pool2d(x, window, stride, padding)


def global_avg_pool(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, c): the mean of each channel."""
    return x.mean(dim=(2, 3))


def adaptive_avg_pool(x: Tensor, out: tuple[int, int]) -> Tensor:
    """(n, c, h, w) -> (n, c, *out): pixel p is the mean of pixels ⌊p·size/out⌋ to ⌈(p + 1)·size/out⌉."""
    return F.adaptive_avg_pool2d(x, out)

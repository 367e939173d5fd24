"""Convolution and pooling over images (n, c, h, w), in memory as channels_last."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Conv2d):
    """nn.Conv2d with the arguments that all tracks share; ``padding`` is an integer, equal on all four sides."""

    def __init__(
        self, i: int, o: int, kernel: int, *, stride: int = 1, padding: int = 0, groups: int = 1, bias: bool = True
    ):
        super().__init__(i, o, kernel, stride=stride, padding=padding, groups=groups, bias=bias)


def max_pool(x: Tensor, window: int = 2, stride: int | None = None, padding: int = 0) -> Tensor:
    """Max pooling, (n, c, h, w) -> (n, c, oh, ow); on a tie the gradient goes to the first pixel of the window."""
    return F.max_pool2d(x, window, stride, padding)


def avg_pool(x: Tensor, window: int = 2, stride: int | None = None, padding: int = 0) -> Tensor:
    """Average pooling, (n, c, h, w) -> (n, c, oh, ow); padding counts as zeros, and in the divisor."""
    return F.avg_pool2d(x, window, stride, padding)


def global_avg_pool(x: Tensor) -> Tensor:
    """Return the mean of each channel: (n, c, h, w) -> (n, c)."""
    return x.mean(dim=(2, 3))


def adaptive_avg_pool(x: Tensor, out: tuple[int, int]) -> Tensor:
    """Average pooling to a given size, (n, c, h, w) -> (n, c, *out).

    Pixel p of the output is the mean of pixels ⌊p·size/out⌋ up to, excluding, ⌈(p + 1)·size/out⌉.
    """
    return F.adaptive_avg_pool2d(x, out)

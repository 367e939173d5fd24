"""Mixed precision: products of bfloat16 numbers, updates of float32 weights.

bfloat16 has the range of float32 and the first 8 of its 24 binary digits, so that no loss need be scaled
(Kalamkar et al. 2019, arXiv:1905.12322); updates smaller than those digits are what the float32 weights
are kept for (Micikevicius et al. 2018, arXiv:1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# precision: what the weights and everything else that lasts are kept in
KEPT = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


PRODUCTS = {F.linear, F.conv2d, F.scaled_dot_product_attention, torch.lstm, torch.rnn_tanh}


def in_bfloat16(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """PyTorch's autocast: products of bfloat16 copies of weights and input, and what follows from them; float32 logits.

    Weights, running statistics, softmax, loss and update are float32. On a processor without bfloat16 arithmetic it
    is ``Rounded`` instead: PyTorch has some kernels for it there, no LSTM, and convolutions whose gradients it adds
    up in bfloat16.
    """

    def mixed(x: Tensor) -> Tensor:
        native = x.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        with torch.autocast(x.device.type, torch.bfloat16) if native else Rounded():
            return forward(x).float()

    return mixed


class Rounded(TorchFunctionMode):
    """Products of numbers that bfloat16 has, computed in float32, and rounded; backward, their gradients likewise."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of PyTorch."""
        if function in PRODUCTS:
            return rounded(function(*rounded(args), **(kwargs or {})))
        return function(*args, **(kwargs or {}))


def rounded(value: Any) -> Any:
    """Float tensors, or lists of them, as the nearest bfloat16 numbers; anything else as it is."""
    if isinstance(value, Tensor):
        return value.bfloat16().to(value.dtype) if value.is_floating_point() else value
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value

"""Mixed precision: bfloat16 matmuls, float32 parameters and updates.

bfloat16 has the range of float32 with 8 instead of 24 significant bits, so the loss needs no scaling
(Kalamkar et al. 2019, arXiv:1905.12322). Updates too small for those 8 bits still add up in float32
parameters (Micikevicius et al. 2018, arXiv:1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# precision: dtype of parameters, statistics and optimizer state
PARAM_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}

MATMULS = {F.linear, F.conv2d, F.scaled_dot_product_attention, torch.lstm, torch.rnn_tanh}


def with_bfloat16_matmuls(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the forward function under PyTorch's autocast to bfloat16, with float32 outputs.

    Parameters, running statistics, softmax, loss and update stay float32. On a CPU without bfloat16 arithmetic,
    ``EmulatedBfloat16`` replaces autocast: PyTorch has no LSTM kernel for it there, and its convolutions accumulate
    gradients in bfloat16.
    """

    def mixed(x: Tensor) -> Tensor:
        native = x.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        with torch.autocast(x.device.type, torch.bfloat16) if native else EmulatedBfloat16():
            return forward(x).float()

    return mixed


class EmulatedBfloat16(TorchFunctionMode):
    """Emulate bfloat16 matmuls: round operands and results to bfloat16, in backward too; compute in float32."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, rounding around it if it is a matmul."""
        if function in MATMULS:
            return rounded(function(*rounded(args), **(kwargs or {})))
        return function(*args, **(kwargs or {}))


def rounded(value: Any) -> Any:
    """Round float tensors, also in lists and tuples, to the nearest bfloat16 values; return other values unchanged."""
    if isinstance(value, Tensor):
        return value.bfloat16().to(value.dtype) if value.is_floating_point() else value
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value

"""Mixed precision: products of bfloat16 numbers, updates of float32 weights.

bfloat16 has the range of float32 and the first 8 of its 24 binary digits, so that no loss need be scaled
(Kalamkar et al. 2019, arXiv:1905.12322); updates smaller than those digits are what the float32 weights
are kept for (Micikevicius et al. 2018, arXiv:1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# precision: what the weights and everything else that lasts are kept in
KEPT = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


def in_bfloat16(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """PyTorch's autocast: products of bfloat16 copies of weights and input, and what follows from them; float32 logits.

    Weights, running statistics, softmax, loss and update are float32.
    """

    def mixed(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return forward(x).float()

    return mixed

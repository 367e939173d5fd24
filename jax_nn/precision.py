"""Mixed precision: bfloat16 matmuls, float32 parameters and updates.

bfloat16 has the range of float32 with 8 instead of 24 significant bits, so the loss needs no scaling
(Kalamkar et al. 2019, arXiv:1905.12322). Updates too small for those 8 bits still add up in float32
parameters (Micikevicius et al. 2018, arXiv:1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

# precision: dtype of parameters, statistics and optimizer state
PARAM_DTYPES = {"float32": "float32", "float64": "float64", "bfloat16": "float32"}


def use_bfloat16_matmuls(network: nnx.Module) -> None:
    """Make linear maps and convolutions multiply bfloat16 copies of their input and kernel.

    Everything else stays float32: parameters, biases, normalisation, softmax, loss and update.
    """
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Linear):
            module.dot_general = with_bfloat16_operands(module.dot_general)
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = with_bfloat16_operands(module.conv_general_dilated)


def with_bfloat16_operands(matmul: Callable[..., Array]) -> Callable[..., Array]:
    """Return the matmul with operands rounded to bfloat16; gradients through it are rounded likewise."""

    def bfloat16_matmul(x: Array, kernel: Array, *arguments: Any, **options: Any) -> Array:
        y = matmul(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), *arguments, **options)
        return y.astype(x.dtype)

    return bfloat16_matmul

"""Mixed precision: products of bfloat16 numbers, updates of float32 weights.

bfloat16 has the range of float32 and the first 8 of its 24 binary digits, so that no loss need be scaled
(Kalamkar et al. 2019, arXiv:1905.12322); updates smaller than those digits are what the float32 weights
are kept for (Micikevicius et al. 2018, arXiv:1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array

# precision: what the weights and everything else that lasts are kept in
KEPT = {"float32": "float32", "float64": "float64", "bfloat16": "float32"}


def in_bfloat16(network: nnx.Module) -> None:
    """Linear maps and convolutions multiply bfloat16 copies of their input and their weights.

    All else is float32: the weights, what is added to a product, normalisation, softmax, loss, update.
    """
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Linear):
            module.dot_general = rounded(module.dot_general)
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = rounded(module.conv_general_dilated)


def rounded(product: Callable[..., Array]) -> Callable[..., Array]:
    """The same product of bfloat16 numbers; what comes back through it is rounded likewise."""

    def of_bfloat16(x: Array, kernel: Array, *arguments: Any, **how: Any) -> Array:
        y = product(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), *arguments, **how)
        return y.astype(x.dtype)

    return of_bfloat16

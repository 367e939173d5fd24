"""Canonical tree <-> JAX.

NNX keeps parameters in nested dictionaries with the names and layouts of the
canonical tree; only positions in a list are integers there. Everything else is
the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from numpy_nn.tree import Tree, tree_map


def to_jax(tree: Mapping[str, Any], dtype: Any) -> dict[Any, Any]:
    """Canonical tree to a JAX pytree: list positions become integers, floats become ``dtype``."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return to_jax(value, dtype)
        value = np.asarray(value)
        if np.issubdtype(value.dtype, np.floating):
            value = value.astype(dtype, copy=False)  # by NumPy: JAX would compile a program for each shape
        # a fresh buffer each time: the training step donates its input, and must not write into the caller's array
        return jax.device_put(value, may_alias=False)

    return {int(key) if key.isdecimal() else key: convert(value) for key, value in tree.items()}


def to_numpy(tree: Mapping[Any, Any]) -> Tree:
    """JAX pytree to canonical tree, copied to the host."""
    return tree_map(np.array, names(tree))


def names(tree: Mapping[Any, Any]) -> Tree:
    """The same tree by canonical names, its leaves untouched (they may be shapes without values)."""
    return {str(key): names(value) if isinstance(value, Mapping) else value for key, value in tree.items()}

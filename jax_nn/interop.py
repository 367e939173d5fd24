"""Canonical tree <-> JAX pytree.

NNX keeps parameters in nested dictionaries with the names and layouts of the canonical tree.
Only list positions differ: they are integers in NNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from numpy_nn.tree import Tree, tree_map


def to_jax(tree: Mapping[str, Any], dtype: Any) -> dict[Any, Any]:
    """Copy a canonical tree to a JAX pytree: list positions become integers, floats become ``dtype``."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return to_jax(value, dtype)
        value = np.asarray(value)
        # copied by NumPy: device_put shares aligned arrays even with may_alias=False, and the training step writes into
        # its donated input; cast by NumPy: JAX would compile a program for each shape
        return jax.device_put(value.astype(dtype if np.issubdtype(value.dtype, np.floating) else value.dtype))

    return {int(key) if key.isdecimal() else key: convert(value) for key, value in tree.items()}


def to_numpy(tree: Mapping[Any, Any]) -> Tree:
    """Copy a JAX pytree to a canonical tree on the host."""
    return tree_map(np.array, names(tree))


def names(tree: Mapping[Any, Any]) -> Tree:
    """Return the tree under canonical names; the leaves stay as they are, arrays or shapes without values."""
    return {str(key): names(value) if isinstance(value, Mapping) else value for key, value in tree.items()}

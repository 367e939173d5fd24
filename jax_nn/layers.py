"""Linear maps and activations: Flax's own, by the names that all tracks use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

Linear = nnx.Linear


def relu(x: Array) -> Array:
    """max(0, x), with gradient 0 at 0, and NaN where x is.

    XLA fuses it with its neighbours; ``jax.nn.relu``, a function with a gradient of its own, it computes
    once more for everybody who reads the result.
    """
    return jnp.where(x <= 0, 0, x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "leaky_relu": lambda x: jnp.where(x > 0, x, 0.01 * x),  # jax.nn.leaky_relu has slope 1 at 0, the others 0.01
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),  # the exact form, with erf
}


def activation(name: str) -> Callable[[Array], Array]:
    """Look up an activation by name; an unknown name is answered with the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def flatten(x: Array) -> Array:
    """(n, h, w, c) -> (n, h·w·c), channels fastest."""
    return x.reshape(len(x), -1)

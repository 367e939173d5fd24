"""Linear maps, embeddings and activations: those of Flax, under the names that all tracks share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

Linear = nnx.Linear


class Embedding(nnx.Embed):
    """y = E[token], with E (v, d)."""

    def __init__(self, v: int, d: int, *, rngs: nnx.Rngs):
        super().__init__(v, d, rngs=rngs)
        self.dtype = None  # compute in the dtype of E; otherwise in float32, for a float64 E too


def relu(x: Array) -> Array:
    """max(0, x), with gradient 0 at x = 0; NaN stays NaN.

    XLA fuses this form with its neighbours. It recomputes ``jax.nn.relu``, which has a custom gradient, for each use.
    """
    return jnp.where(x <= 0, 0, x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "leaky_relu": lambda x: jnp.where(
        x > 0, x, 0.01 * x
    ),  # jax.nn.leaky_relu has slope 1 at x = 0, the other tracks 0.01
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),  # the exact form, with erf
}


def activation(name: str) -> Callable[[Array], Array]:
    """Return an activation by name; ValueError for an unknown one lists the known names."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def flatten(x: Array) -> Array:
    """Flatten images, (n, h, w, c) -> (n, h·w·c), with channels varying fastest."""
    return x.reshape(len(x), -1)

"""Linear maps, activations, and how their first values are drawn.

Operations come in pairs,

    y, cache = x_forward(x, ...)          what backward needs is kept in cache
    dx, ... = x_backward(dy, cache)       gradients in the order of forward's arguments

and a gradient is its variable with a ``d``: ``dx`` is ∂loss/∂x and has the shape of ``x``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from numpy_nn.shapes import Array, Float
from numpy_nn.tree import Tree

Cache = Any


# --- first values -----------------------------------------------------------------------------------------------------


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """N(0, 2/fan_in): keeps the variance through a relu (He et al. 2015, arXiv:1502.01852)."""
    return rng.normal(0.0, math.sqrt(2.0 / fan_in), shape)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """U(-a, a) with a² = 6/(fan_in + fan_out): forward and backward in balance (Glorot & Bengio 2010)."""
    a = math.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-a, a, shape)


def lecun_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """N(0, 1/fan_in): keeps the variance through a linear map (LeCun et al. 1998, "Efficient BackProp")."""
    return rng.normal(0.0, math.sqrt(1.0 / fan_in), shape)


INITIALIZERS = {"he_normal": he_normal, "glorot_uniform": glorot_uniform, "lecun_normal": lecun_normal}


def linear_init(rng: np.random.Generator, i: int, o: int, init: str = "he_normal") -> Tree:
    """Parameters of a linear map: ``kernel (i, o)`` drawn by ``init``, ``bias (o,)`` zero."""
    return {"kernel": INITIALIZERS[init](rng, (i, o), i, o), "bias": np.zeros(o)}


# --- linear -----------------------------------------------------------------------------------------------------------


def linear_forward(
    x: Float[Array, "*n i"], kernel: Float[Array, "i o"], bias: Float[Array, " o"]
) -> tuple[Float[Array, "*n o"], Cache]:
    """y = x W + b."""
    y = x @ kernel
    y += bias
    return y, (x, kernel)


def linear_backward(
    dy: Float[Array, "*n o"], cache: Cache, *, need_dx: bool = True
) -> tuple[Float[Array, "*n i"] | None, Float[Array, "i o"], Float[Array, " o"]]:
    """dx = dy Wᵀ,  dW = xᵀ dy,  db = Σₙ dy.

    The first layer of a network passes ``need_dx=False``: nobody asks for the
    gradient of the image, and it would cost as much as the layer itself.
    """
    x, kernel = cache
    dy_rows = dy.reshape(-1, dy.shape[-1])
    dx = dy @ kernel.T if need_dx else None
    dkernel = x.reshape(-1, x.shape[-1]).T @ dy_rows
    dbias = dy_rows.sum(axis=0)
    return dx, dkernel, dbias


def flatten_forward(x: Float[Array, "n *rest"]) -> tuple[Float[Array, "n d"], Cache]:
    """(n, h, w, c) -> (n, h·w·c), channels fastest."""
    return x.reshape(len(x), -1), x.shape


def flatten_backward(dy: Float[Array, "n d"], cache: Cache) -> Float[Array, "n *rest"]:
    """The gradient takes the shape that x had."""
    return dy.reshape(cache)


# --- activations ------------------------------------------------------------------------------------------------------


def relu_forward(x: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Cache]:
    """y = max(x, 0)."""
    y = np.maximum(x, 0)
    return y, y


def relu_backward(dy: Float[Array, "*n"], cache: Cache) -> Float[Array, "*n"]:
    """dx = dy · [y > 0]; at the kink the derivative is 0, as in JAX and PyTorch."""
    y = cache
    return dy * (y > 0)


def leaky_relu_forward(x: Float[Array, "*n"], slope: float = 0.01) -> tuple[Float[Array, "*n"], Cache]:
    """y = x where x > 0, slope · x elsewhere (Maas et al. 2013)."""
    return np.where(x > 0, x, slope * x), (x, slope)


def leaky_relu_backward(dy: Float[Array, "*n"], cache: Cache) -> Float[Array, "*n"]:
    """dx = dy where x > 0, slope · dy elsewhere."""
    x, slope = cache
    return np.where(x > 0, dy, slope * dy)


def sigmoid_forward(x: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Cache]:
    """y = 1/(1 + e⁻ˣ), written with e^-|x| so that neither branch overflows."""
    e = np.exp(-np.abs(x))
    y = np.where(x >= 0, 1, e) / (1 + e)
    return y, y


def sigmoid_backward(dy: Float[Array, "*n"], cache: Cache) -> Float[Array, "*n"]:
    """dx = dy · y (1 - y)."""
    y = cache
    return dy * y * (1 - y)


def tanh_forward(x: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Cache]:
    """y = tanh x."""
    y = np.tanh(x)
    return y, y


def tanh_backward(dy: Float[Array, "*n"], cache: Cache) -> Float[Array, "*n"]:
    """dx = dy · (1 - y²)."""
    y = cache
    return dy * (1 - y * y)


ACTIVATIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "relu": (relu_forward, relu_backward),
    "leaky_relu": (leaky_relu_forward, leaky_relu_backward),
    "sigmoid": (sigmoid_forward, sigmoid_backward),
    "tanh": (tanh_forward, tanh_backward),
}


def activation(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Look up ``(forward, backward)`` by name; an unknown name is answered with the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]

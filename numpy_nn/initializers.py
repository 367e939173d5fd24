"""Initializers: distributions from which the kernel of a layer is drawn, in float64.

``fan_in`` is the number of inputs of an output, ``fan_out`` the number of outputs that depend on an input.
"""

from __future__ import annotations

import math

import numpy as np

from numpy_nn.shapes import Array


def he_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """N(0, 2/fan_in): keeps the second moment through a relu (He et al. 2015, arXiv:1502.01852)."""
    return rng.normal(0.0, math.sqrt(2.0 / fan_in), shape)


def glorot_uniform(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """U(-a, a) with a² = 6/(fan_in + fan_out): a mean of the forward and backward rules (Glorot & Bengio 2010)."""
    a = math.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-a, a, shape)


def lecun_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """N(0, 1/fan_in): keeps the variance through a linear map (LeCun et al. 1998, "Efficient BackProp")."""
    return rng.normal(0.0, math.sqrt(1.0 / fan_in), shape)


def orthogonal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Array:
    """Orthonormal columns, or rows if there are fewer rows: keeps norms (Saxe et al. 2013, arXiv:1312.6120)."""
    rows, columns = shape
    q, r = np.linalg.qr(rng.normal(size=(max(shape), min(shape))))
    q *= np.sign(np.diag(r))  # without this q would not be uniform among the orthogonal matrices
    return q if rows >= columns else q.T


INITIALIZERS = {
    "he_normal": he_normal,
    "glorot_uniform": glorot_uniform,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
}

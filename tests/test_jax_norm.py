"""JAX's batch norm and relu: the gradients written by hand are those that JAX would find."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_nn import norm
from jax_nn.layers import relu


def plain(x, scale, bias):
    mean = x.mean(axis=(0, 1, 2))
    var = jnp.square(x - mean).mean(axis=(0, 1, 2))
    return (x - mean) / jnp.sqrt(var + norm.EPS) * scale + bias


@pytest.mark.parametrize("shape", [(4, 5, 3, 2), (2, 1, 1, 3), (1, 7, 4, 1)])
def test_gradients_of_batch_norm(shape, rng):
    with jax.enable_x64(True):
        x = jnp.asarray(100 + rng.standard_normal(shape))
        scale, bias = jnp.asarray(rng.standard_normal((2, shape[-1])))
        dy = jnp.asarray(rng.standard_normal(shape))
        ours, ours_back = jax.vjp(lambda *arguments: norm.normalized(None, *arguments)[0], x, scale, bias)
        theirs, theirs_back = jax.vjp(plain, x, scale, bias)
        for a, b in zip((ours, *ours_back(dy)), (theirs, *theirs_back(dy)), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)  # observed: 3e-13


def test_batch_norm_far_from_zero_in_float32(rng):
    """Mean 1,000, deviation 1: a variance by way of E[x²] would have no right digit."""
    x, dy = jnp.asarray(rng.standard_normal((2, 32, 8, 8, 3)), jnp.float32)
    x += 1000
    one, zero = jnp.ones(3), jnp.zeros(3)
    y, back = jax.vjp(lambda x: norm.normalized(None, x, one, zero)[0], x)
    with jax.enable_x64(True):
        exact, exact_back = jax.vjp(lambda x: plain(x, 1.0, 0.0), jnp.asarray(x, jnp.float64))
        np.testing.assert_allclose(y, exact, rtol=0, atol=1e-3)
        expected = exact_back(jnp.asarray(dy, jnp.float64))
        np.testing.assert_allclose(back(dy)[0], expected[0], rtol=0, atol=1e-3)


def test_relu_and_its_gradient_at_zero_and_beside_numbers():
    x = jnp.float32([-jnp.inf, -1, -0.0, 0.0, 2, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(relu(x), [0, 0, 0, 0, 2, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(jax.vmap(jax.grad(relu))(x)[:-1], [0, 0, 0, 0, 1, 1])
    assert relu(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16

"""JAX's convolution as it runs on a CPU, the same numbers as XLA's, forward and in both gradients; and its relu."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_nn import conv
from jax_nn.layers import relu

CASES = [  # (n, h, w, i), (kernel, o), stride, padding
    ((6, 9, 11, 2), (3, 3), 1, 0),
    ((6, 9, 11, 3), (3, 2), 1, 1),  # fewer channels out than in: dW is that of dy around the pixels of x
    ((4, 7, 10, 5), (3, 2), 1, 0),
    ((6, 9, 12, 2), (3, 3), 2, 1),  # a column is seen by no window
    ((5, 10, 12, 5), (5, 3), 2, 0),  # and a row, with fewer channels out than in
    ((4, 9, 12, 3), (3, 4), 3, 2),
    ((3, 8, 9, 4), (1, 3), 2, 0),
    ((3, 8, 9, 4), (2, 3), 1, 3),  # more padding than kernel: dy is larger than x
    ((3, 8, 9, 2), (2, 3), 1, 3),
    ((2, 5, 5, 1), (5, 4), 1, 0),  # one window
    ((1, 6, 7, 3), (4, 3), 1, 2),  # one image
    ((3, 12, 12, 1), (5, 4), 1, 0),  # outputs as wide as two groups of pixels
    ((3, 9, 10, 7), (3, 4), 1, 1),  # groups of two
    ((3, 9, 10, 8), (3, 4), 1, 1),  # no groups
]


def xla(x, kernel, stride, padding):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=layout)


@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), CASES)
def test_convolution_matches_xla(shape, kernel, stride, padding, rng):
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal(shape))
        weights = jnp.asarray(rng.standard_normal((kernel[0], kernel[0], shape[3], kernel[1])))

        @jax.jit
        def all_of(x, weights, dy):
            ours, ours_back = jax.vjp(lambda x, w: conv.convolve_on_cpu(stride, padding, x, w), x, weights)
            theirs, theirs_back = jax.vjp(lambda x, w: xla(x, w, stride, padding), x, weights)
            return (ours, *ours_back(dy)), (theirs, *theirs_back(dy))

        dy = jnp.asarray(rng.standard_normal(xla(x, weights, stride, padding).shape))
        for ours, theirs in zip(*all_of(x, weights, dy), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)  # observed: 6e-14


def test_bfloat16_sums_in_float32(rng):
    x, dy = (jnp.asarray(rng.standard_normal((64, 8, 8, 1)) + 3, jnp.bfloat16) for _ in range(2))
    found = conv.kernel_gradient(x, dy, 1, 1, 1)
    exact = np.sum(np.float64(x) * np.float64(dy))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found.item(), exact, rtol=0.01)


def test_relu_and_its_gradient_at_zero_and_nan():
    x = jnp.float32([-jnp.inf, -1, -0.0, 0.0, 2, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(relu(x), [0, 0, 0, 0, 2, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(jax.vmap(jax.grad(relu))(x)[:-1], [0, 0, 0, 0, 1, 1])
    assert relu(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16

"""Every NumPy operation, forward and backward, against differences, JAX and PyTorch.

A row of ``CASES`` is tested in all ways: to test a new operation, add a row.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gradcheck import (
    Case,
    assert_close,
    cotangents,
    draw,
    gradients_by_differences,
    gradients_numpy,
    run_jax,
    run_numpy,
    run_torch,
)
from jax import lax

from numpy_nn import conv, layers, losses

# Tolerances: a decade above the largest gap seen over all rows (gap: see gradcheck), which is given here.
DIFFERENCES = 2e-9  # 1.5e-10, at ε = 1e-5
AUTOGRAD = 5e-15  # 5.2e-16
FLOAT32 = 2e-6  # 1.4e-7

RNG = np.random.default_rng(7)
ZEROS = np.array([[-1.0, 0.0, 2.0], [0.0, -0.0, 1.0]])  # on the kink
EXTREME = np.array([[-1000.0, -30.0, -1e-9, 0.0], [1e-9, 1.0, 30.0, 1000.0]])
TIES = RNG.integers(0, 3, (2, 6, 5, 2)).astype(float)
LABELS = np.array([2, 0, 3, 3], np.int32)
PADDED = np.array([2, -1, 3, -1], np.int32)
NOTHING = np.full(4, -1, np.int32)
LOGITS_1000 = np.array([[1000.0, -1000, 0, 3], [0, 1000, 0, 0], [-1000, -1000, -1000, -1000], [5, 4, 3, 1000]])


# --- the same functions, elsewhere ------------------------------------------------------------------------------------


def jax_conv(stride: int = 1, padding: int = 0, groups: int = 1) -> Any:
    def apply(x: Any, kernel: Any, bias: Any) -> Any:
        return bias + lax.conv_general_dilated(
            x, kernel, (stride, stride), [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip

    return apply


def nchw(function: Any, **options: Any) -> Any:
    """A PyTorch function of images (n, c, h, w), for images (n, h, w, c)."""
    return lambda x, *rest: function(x.permute(0, 3, 1, 2), *rest, **options).permute(0, 2, 3, 1)


def torch_conv(**options: Any) -> Any:
    return lambda x, kernel, bias: nchw(F.conv2d, **options)(x, kernel.permute(3, 2, 0, 1), bias)


def jax_pool(start: float, function: Any, window: int, stride: int, padding: int = 0) -> Any:
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lambda x: lax.reduce_window(x, start, function, (1, window, window, 1), (1, stride, stride, 1), edges)


def jax_avg_pool(window: int, stride: int, padding: int = 0) -> Any:
    return lambda x: jax_pool(0.0, lax.add, window, stride, padding)(x) / window**2


def counted(labels: np.ndarray, per_row: Any) -> Any:
    """Mean over the rows whose label is not negative, of a loss given per row."""
    valid = labels >= 0
    clean = np.maximum(labels, 0)
    return lambda x: (per_row(x, clean) * valid.astype(np.float64)).sum() / max(int(valid.sum()), 1)


def jax_loss(labels: np.ndarray, per_row: Any) -> Any:
    return counted(labels, lambda x, clean: per_row(x, jax.nn.one_hot(clean, x.shape[1], dtype=x.dtype)))


def torch_loss(labels: np.ndarray, per_row: Any) -> Any:
    def apply(x: Any) -> Any:
        valid = torch.tensor(labels >= 0)
        rows = per_row(x, torch.tensor(np.maximum(labels, 0), dtype=torch.int64))
        return (rows * valid).sum() / max(int(valid.sum()), 1)

    return apply


def torch_onehot_loss(labels: np.ndarray, elementwise: Any) -> Any:
    def per_row(x: Any, clean: Any) -> Any:
        return elementwise(x, F.one_hot(clean, x.shape[1]).to(x.dtype), reduction="none").mean(dim=1)

    return torch_loss(labels, per_row)


def jax_cross_entropy(x: Any, onehot: Any) -> Any:
    return -(onehot * jax.nn.log_softmax(x)).sum(axis=1)


def torch_cross_entropy(x: Any, clean: Any) -> Any:
    return F.cross_entropy(x, clean, reduction="none")


# --- the table --------------------------------------------------------------------------------------------------------

CASES = [
    Case("linear", layers.linear_forward, layers.linear_backward,
         [(3, 5), (5, 4), (4,)], lambda x, w, b: x @ w + b, lambda x, w, b: F.linear(x, w.T, b)),
    Case("linear over time", layers.linear_forward, layers.linear_backward,
         [(2, 3, 5), (5, 4), (4,)], lambda x, w, b: x @ w + b, lambda x, w, b: F.linear(x, w.T, b)),
    Case("flatten", layers.flatten_forward, layers.flatten_backward,
         [(2, 3, 4, 5)], lambda x: x.reshape(2, -1), lambda x: x.flatten(1)),
]  # fmt: skip

ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "relu": (jax.nn.relu, F.relu),
    # jax.nn.leaky_relu takes slope 1 at 0, PyTorch and this project 0.01
    "leaky_relu": (lambda x: jnp.where(x > 0, x, 0.01 * x), F.leaky_relu),
    "sigmoid": (jax.nn.sigmoid, torch.sigmoid),
    "tanh": (jnp.tanh, torch.tanh),
}
for name, (forward, backward) in layers.ACTIVATIONS.items():
    CASES += [
        Case(name, forward, backward, [(3, 2, 4)], *ACTIVATIONS[name]),
        Case(f"{name} extreme", forward, backward, [EXTREME], *ACTIVATIONS[name], smooth=False),
    ]

for shape, (kh, kw), stride, padding in [
    ((2, 6, 5, 2), (3, 2), 1, 0),
    ((2, 5, 7, 2), (2, 3), 2, 1),
    ((2, 7, 4, 1), (3, 3), 3, 2),
    ((2, 4, 5, 3), (1, 1), 1, 0),
    ((2, 5, 4, 3), (1, 1), 2, 0),
    ((2, 3, 4, 2), (3, 4), 1, 0),
]:
    options = {"stride": stride, "padding": padding}
    CASES.append(
        Case(f"conv2d {shape} {kh}x{kw} stride {stride} padding {padding}", conv.conv2d_forward, conv.conv2d_backward,
             [shape, (kh, kw, shape[-1], 3), (3,)], jax_conv(**options), torch_conv(**options), options),
    )  # fmt: skip

for name, image, window, stride, padding in [
    ("", (2, 6, 4, 2), 2, 2, 0),
    (" overlapping", (2, 7, 5, 2), 3, 2, 0),
    (" padded", (2, 5, 6, 2), 3, 2, 1),
    (" apart", (2, 7, 8, 1), 2, 3, 0),
    (" ties", TIES, 3, 1, 1),
]:
    options = {"window": window, "stride": stride, "padding": padding}
    smooth = image is not TIES
    CASES += [
        Case(f"max_pool{name}", conv.max_pool_forward, conv.max_pool_backward, [image],
             jax_pool(-np.inf, lax.max, window, stride, padding),
             nchw(F.max_pool2d, kernel_size=window, stride=stride, padding=padding), options, smooth),
        Case(f"avg_pool{name}", conv.avg_pool_forward, conv.avg_pool_backward, [image],
             jax_avg_pool(window, stride, padding),
             nchw(F.avg_pool2d, kernel_size=window, stride=stride, padding=padding), options, smooth),
    ]  # fmt: skip

LOSSES: dict[str, tuple[Any, Any]] = {
    "cross_entropy": (jax_cross_entropy, lambda labels: torch_loss(labels, torch_cross_entropy)),
    "mse": (lambda x, onehot: ((x - onehot) ** 2).mean(axis=1), lambda labels: torch_onehot_loss(labels, F.mse_loss)),
}
for name, (forward, backward) in losses.LOSSES.items():
    per_row, in_torch = LOSSES[name]
    for kind, logits, labels in [
        ("", (4, 5), LABELS),
        (" with padded labels", (4, 5), PADDED),
        (" of nothing but padding", (4, 5), NOTHING),
        (" at 1000", LOGITS_1000, LABELS),
    ]:
        CASES.append(
            Case(f"{name}{kind}", forward, backward, [logits],
                 jax_loss(labels, per_row), in_torch(labels), {"labels": labels}, smooth=logits is not LOGITS_1000),
        )  # fmt: skip

cases = pytest.mark.parametrize("case", CASES, ids=str)
smooth_cases = pytest.mark.parametrize("case", [case for case in CASES if case.smooth], ids=str)


# --- what every row must pass -----------------------------------------------------------------------------------------


@smooth_cases
def test_backward_agrees_with_central_differences(case: Case) -> None:
    args = draw(case)
    outputs, cache = run_numpy(case, args)
    douts = cotangents(case, outputs)
    want = gradients_by_differences(case, args, douts)
    assert_close(gradients_numpy(case, douts, cache), want, DIFFERENCES, f"{case.name} d")


@cases
@pytest.mark.parametrize("engine", [run_jax, run_torch], ids=["jax", "torch"])
def test_agrees_with_autograd(case: Case, engine: Any) -> None:
    args = draw(case)
    outputs, cache = run_numpy(case, args)
    douts = cotangents(case, outputs)
    want_outputs, want_grads = engine(case, args, douts)
    assert_close(outputs, want_outputs, AUTOGRAD, f"{case.name} output")
    assert_close(gradients_numpy(case, douts, cache), want_grads, AUTOGRAD, f"{case.name} d")


@cases
def test_float32_stays_float32_and_arguments_stay_untouched(case: Case) -> None:
    args = draw(case, np.float32)
    outputs, cache = run_numpy(case, args)
    douts = cotangents(case, outputs)
    before = jax.tree.map(np.copy, (args, outputs, douts))
    grads = gradients_numpy(case, douts, cache)
    again = gradients_numpy(case, douts, cache)
    for leaf in jax.tree.leaves((outputs, grads)):
        assert leaf.dtype == np.float32
    assert_close((args, outputs, douts), before, 0.0, f"{case.name} was written to:")
    assert_close(again, grads, 0.0, f"{case.name} second backward d")
    want, _ = run_numpy(case, draw(case))
    assert_close(outputs, want, FLOAT32, f"{case.name} in float32")


# --- first values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variance"),
    [("he_normal", 2 / 300), ("glorot_uniform", 2 / (300 + 200)), ("lecun_normal", 1 / 300)],
)
def test_initializers_have_the_promised_mean_and_variance(name: str, variance: float) -> None:
    values = layers.INITIALIZERS[name](RNG, (300, 200), 300, 200)
    assert values.shape == (300, 200)
    assert abs(values.mean()) < 5 * np.sqrt(variance / values.size)  # five standard errors
    assert abs(values.var() / variance - 1) < 5 * np.sqrt(2 / values.size)
    if name == "glorot_uniform":
        assert np.abs(values).max() <= np.sqrt(6 / 500)


def test_a_convolution_counts_its_window_in_the_fan() -> None:
    params = conv.conv2d_init(np.random.default_rng(0), 5, 16, 32)
    assert params["kernel"].shape == (5, 5, 16, 32)
    assert abs(params["kernel"].var() * 5 * 5 * 16 / 2 - 1) < 0.1
    assert not params["bias"].any()


# --- what cannot work says so -----------------------------------------------------------------------------------------


def test_a_window_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="window of 5 does not fit into 4 pixels"):
        conv.conv2d_forward(np.zeros((1, 4, 9, 1)), np.zeros((5, 5, 1, 1)), np.zeros(1))


def test_an_unknown_activation_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown activation 'rely'; known: relu"):
        layers.activation("rely")


def test_the_first_layer_may_skip_the_gradient_of_its_input() -> None:
    x, w, b = RNG.normal(size=(2, 4, 4, 1)), RNG.normal(size=(3, 3, 1, 2)), RNG.normal(size=2)
    y, cache = conv.conv2d_forward(x, w, b)
    full, short = conv.conv2d_backward(y, cache), conv.conv2d_backward(y, cache, need_dx=False)
    assert short[0] is None
    assert_close(short[1:], full[1:], 0.0, "conv2d d")

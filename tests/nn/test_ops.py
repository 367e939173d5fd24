"""Every NumPy operation, forward and backward, against differences, JAX and PyTorch."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import torch
from support.gradcheck import (
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
from support.op_cases import CASES, LABELS, PADDED, TOKENS
from support.op_cases_deep import CASES as DEEP_CASES

from numpy_nn import attention, conv, conv_tiled, layers, losses, norm, recurrent
from numpy_nn.initializers import INITIALIZERS

# Tolerances: a decade above the largest gap seen over all rows (gap: see gradcheck), which is given here.
DIFFERENCES = 1e-8  # 1.0e-9, at ε = 1e-5
AUTOGRAD = 5e-13  # 3.1e-14: an attention's key bias, whose gradient is 0 but for rounding; all else 7e-15
FLOAT32 = 5e-6  # 3.6e-7

RNG = np.random.default_rng(7)

cases = pytest.mark.parametrize("case", CASES + DEEP_CASES, ids=str)
smooth_cases = pytest.mark.parametrize("case", [case for case in CASES + DEEP_CASES if case.smooth], ids=str)


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
def test_operation_agrees_with_autograd(case: Case, engine: Any) -> None:
    args = draw(case)
    outputs, cache = run_numpy(case, args)
    douts = cotangents(case, outputs)
    want_outputs, want_grads = engine(case, args, douts)
    assert_close(outputs, want_outputs, AUTOGRAD, f"{case.name} output")
    assert_close(gradients_numpy(case, douts, cache), want_grads, AUTOGRAD, f"{case.name} d")


@cases
def test_float32_stays_float32_and_arguments_stay_untouched(case: Case) -> None:
    args = draw(case, np.float32)
    given = jax.tree.map(np.copy, args)
    outputs, cache = run_numpy(case, args)
    assert_close(args, given, 0.0, f"{case.name} forward wrote to its arguments:")
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
def test_initializers_have_the_documented_mean_and_variance(name: str, variance: float) -> None:
    values = INITIALIZERS[name](RNG, (300, 200), 300, 200)
    assert values.shape == (300, 200)
    assert abs(values.mean()) < 5 * np.sqrt(variance / values.size)  # five standard errors
    assert abs(values.var() / variance - 1) < 5 * np.sqrt(2 / values.size)
    if name == "glorot_uniform":
        assert np.abs(values).max() <= np.sqrt(6 / 500)


def test_convolution_fan_includes_its_window() -> None:
    params = conv.conv2d_init(np.random.default_rng(0), 5, 16, 32)
    assert params["kernel"].shape == (5, 5, 16, 32)
    assert abs(params["kernel"].var() * 5 * 5 * 16 / 2 - 1) < 0.1
    assert not params["bias"].any()
    assert conv.conv2d_init(RNG, 1, 4, 6, groups=2, bias=False)["kernel"].shape == (1, 1, 2, 6)
    assert list(conv.conv2d_init(RNG, 3, 4, 6, bias=False)) == ["kernel"]


def test_orthogonal_kernels_preserve_norms() -> None:
    for rows, columns in [(4, 4), (7, 3), (3, 7)]:
        kernel = INITIALIZERS["orthogonal"](RNG, (rows, columns), rows, columns)
        assert kernel.shape == (rows, columns)
        small = kernel.T @ kernel if rows >= columns else kernel @ kernel.T
        assert_close(small, np.eye(min(rows, columns)), 1e-14, "QᵀQ")


def test_normal_cdf_matches_math_erf() -> None:
    x = np.linspace(-12, 12, 10_001)
    want = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    assert np.abs(layers.normal(x)[0] - want).max() < 1e-14  # 1.4e-15
    assert np.abs(layers.normal(x.astype(np.float32))[0] - want).max() < 2e-6  # 2.0e-7
    assert np.isnan(layers.normal(np.array([np.nan]))[0])


def test_dropout_keeps_the_mean_and_drops_at_its_rate() -> None:
    x = np.ones((200, 300), np.float32)
    mask = layers.dropout_mask(RNG, x.shape, 0.3)
    y, _ = layers.dropout_forward(x, mask, 0.3)
    error = np.sqrt(0.3 / 0.7 / x.size)  # standard error of the mean of y
    assert abs(float(y.mean()) - 1) < 5 * error
    assert_close(np.unique(y), np.array([0, 1 / 0.7]), 1e-6, "y")
    assert layers.dropout_mask(RNG, (100,), 0.0).all()


CONVOLUTIONS = [  # kernel size, stride
    ((1, 1), 1), ((2, 2), 2), ((3, 3), 1), ((5, 5), 1), ((3, 2), 1), ((3, 4), 1), ((3, 1), 1), ((3, 3), 2), ((2, 3), 3),
]  # fmt: skip
ROUNDING = 1e-13  # 1.4e-15


@pytest.mark.parametrize(("size", "stride"), CONVOLUTIONS)
@pytest.mark.parametrize("width", [7, 8, 9])
@pytest.mark.parametrize("need_dx", [True, False])
def test_every_algorithm_of_a_convolution_equals_the_formula(
    size: tuple[int, int], stride: int, width: int, need_dx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, kernel = RNG.normal(size=(5, 6, width, 3)), RNG.normal(size=(*size, 3, 4))
    y = conv.im2col_forward(x, kernel, stride=stride)
    dy = RNG.normal(size=y.shape)
    want = y, *conv.im2col_backward(dy, x, kernel, need_dx, stride=stride)
    monkeypatch.setattr(conv_tiled, "TILE", 2 * y[0].size * 3 * size[0] * size[1])  # about two images in a tile
    algorithms = {"chosen": conv.algorithm(kernel, stride, 1)}
    options = {"stride": stride, "groups": 1}
    algorithms["tiled"] = partial(conv_tiled.tiled_forward, **options), partial(conv_tiled.tiled_backward, **options)
    if stride == 1:
        algorithms["packed"] = conv_tiled.packed_forward, conv_tiled.packed_backward
    for name, (forward, backward) in algorithms.items():
        found = forward(x, kernel), *backward(dy, x, kernel, need_dx)
        assert_close(found if need_dx else found[::2], want if need_dx else want[::2], ROUNDING, f"{name} ")


@pytest.mark.parametrize(("groups", "stride"), [(2, 1), (2, 2), (4, 1)])
def test_a_grouped_convolution_equals_the_formula_of_each_group(groups: int, stride: int) -> None:
    x, kernel = RNG.normal(size=(3, 6, 7, 4)), RNG.normal(size=(3, 2, 4 // groups, 8))
    y, cache = conv.conv2d_forward(x, kernel, stride=stride, groups=groups)
    dy = RNG.normal(size=y.shape)
    split = (np.split(array, groups, axis=-1) for array in (x, kernel, dy))
    wants = [
        (conv.im2col_forward(xg, kg, stride=stride), *conv.im2col_backward(dyg, xg, kg, True, stride=stride))
        for xg, kg, dyg in zip(*split, strict=True)
    ]
    found = y, *conv.conv2d_backward(dy, cache)[:2]
    assert_close(found, [np.concatenate(each, axis=-1) for each in zip(*wants, strict=True)], ROUNDING, "grouped ")


# --- batch norm: what is kept from step to step, and batches in parts ------------------------------------------------


def test_running_statistics_follow_those_of_pytorch() -> None:
    module = torch.nn.BatchNorm2d(3, dtype=torch.float64)
    stats, scale, bias = norm.stats_init(3), *norm.norm_init(3).values()
    for _ in range(4):
        x = RNG.normal(2.0, 3.0, (2, 3, 2, 3))
        y, stats, _ = norm.batch_norm_forward(x, scale, bias, stats, norm.TRAIN)
        module(torch.tensor(x).permute(0, 3, 1, 2))
    want = {"mean": module.running_mean.numpy(), "var": module.running_var.numpy()}
    assert_close(stats, want, 1e-14, "running ")  # 8.9e-16
    y, kept, _ = norm.batch_norm_forward(x, scale, bias, stats)
    want_y = module.eval()(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    assert_close(y, want_y, 1e-14, "y")
    assert kept is stats


def test_batch_norm_of_two_shards_equals_one_batch() -> None:
    x, dy = RNG.normal(1.0, 2.0, (2, 6, 3, 2, 4))
    params, stats = norm.norm_init(4), norm.stats_init(4)
    y, new_stats, cache = norm.batch_norm_forward(x, **params, stats=stats, mode=norm.TRAIN)
    dx, *dparams = norm.batch_norm_backward(dy, cache)

    meeting, brought = threading.Barrier(2), {}

    def all_mean(array: np.ndarray) -> np.ndarray:
        brought[threading.get_ident()] = array
        meeting.wait()
        mean = np.mean(list(brought.values()), axis=0)
        meeting.wait()
        return mean

    def part(half: int) -> Any:
        mine = slice(3 * half, 3 * half + 3)
        mode = norm.Mode(train=True, shards=2, all_mean=all_mean)
        y, new_stats, cache = norm.batch_norm_forward(x[mine], **params, stats=stats, mode=mode)
        return y, new_stats, norm.batch_norm_backward(dy[mine], cache)

    with ThreadPoolExecutor(2) as pool:
        (y0, stats0, (dx0, *dparams0)), (y1, stats1, (dx1, *dparams1)) = pool.map(part, range(2))
    assert_close((stats0, stats1), (new_stats, new_stats), 1e-14, "running ")
    assert_close((np.concatenate([y0, y1]), np.concatenate([dx0, dx1])), (y, dx), 1e-14, "y, dx")
    assert_close([a + b for a, b in zip(dparams0, dparams1, strict=True)], dparams, 1e-14, "d")


# --- recurrence: ends of sequences, and gradients nobody asks for -----------------------------------------------------


PAIRS = [
    (recurrent.rnn_init, recurrent.rnn_forward, recurrent.rnn_backward),
    (recurrent.lstm_init, recurrent.lstm_forward, recurrent.lstm_backward),
]


@pytest.mark.parametrize(("init", "forward", "backward"), PAIRS, ids=["rnn", "lstm"])
def test_steps_after_the_end_of_a_sequence_have_no_effect(init: Any, forward: Any, backward: Any) -> None:
    params, lengths, x = init(RNG, 2, 5), np.array([4, 2, 1]), RNG.normal(size=(3, 4, 2))
    after = np.arange(4) >= lengths[:, None]
    ys, *last, cache = forward(x, params, lengths=lengths)
    others, *other_last, _ = forward(np.where(after[:, :, None], 1e3, x), params, lengths=lengths)
    assert_close((others, other_last), (ys, last), 0.0, "outputs")
    assert not ys[after].any()
    assert_close(last[0], ys[np.arange(3), lengths - 1], 0.0, "last state")
    # None is a gradient of zeros
    dlast = [RNG.normal(size=(3, 5)), *([None] * (len(last) - 1))]
    dx, *rest = backward(None, *dlast, cache)
    assert_close(
        (dx, *rest), backward(np.zeros_like(ys), *(0 * last[0] if d is None else d for d in dlast), cache), 0.0, "d"
    )
    assert not dx[after].any()


def test_recurrent_kernels_start_orthogonal_and_forget_bias_at_one() -> None:
    params = recurrent.lstm_init(RNG, 3, 4)
    assert jax.tree.map(np.shape, params) == {
        "dense_i": {"kernel": (3, 16)},
        "dense_h": {"kernel": (4, 16), "bias": (16,)},
    }
    for gate in np.split(params["dense_h"]["kernel"], 4, axis=1):
        assert_close(gate.T @ gate, np.eye(4), 1e-14, "QᵀQ")
    assert_close(params["dense_h"]["bias"], np.repeat([0.0, 1.0, 0.0, 0.0], 4), 0.0, "bias (i f g o)")


# --- what cannot work says so -----------------------------------------------------------------------------------------


X, K, B = np.zeros((1, 4, 9, 2)), np.zeros((5, 5, 2, 1)), np.zeros(1)
ROWS, RNN = np.zeros((2, 3, 4)), recurrent.rnn_init(RNG, 4, 5)
REFUSED = {
    "a window of 5 does not fit into 4 pixels": lambda: conv.conv2d_forward(X, K, B),
    "2 channels do not fit 1 group.* of a kernel for 1 each": lambda: conv.conv2d_forward(X, K[:3, :3, :1], B),
    "groups=2 must divide both the 2 input and the 1 output": lambda: conv.conv2d_forward(X, K[:3, :3], B, groups=2),
    "groups=3 must divide both the 4 input and the 6 output": lambda: conv.conv2d_init(RNG, 3, 4, 6, groups=3),
    "padding 2 is more than half of a window of 3": lambda: conv.max_pool_forward(X, window=3, padding=2),
    "unknown activation 'rely'; known: relu, leaky_relu": lambda: layers.activation("rely"),
    "dropout rate 1.0: it must be at least 0 and less than 1": lambda: layers.dropout_forward(B, B == 0, 1.0),
    "tokens between 0 and 5: they must lie between 0 and 4": lambda: layers.embedding_forward(TOKENS, np.eye(5)),
    "tokens between -1 and 3": lambda: layers.embedding_forward(PADDED, np.eye(5)),
    "label_smoothing 1.5: it must lie between 0 and 1": lambda: losses.softmax_cross_entropy_forward(
        np.eye(4), LABELS, label_smoothing=1.5
    ),
    "at least two values per channel": lambda: norm.batch_norm_forward(
        np.zeros((1, 3)), **norm.norm_init(3), stats=norm.stats_init(3), mode=norm.TRAIN
    ),
    "sequence 1 has length 0: it must lie between 1 and 3": lambda: recurrent.rnn_forward(
        ROWS, RNN, lengths=np.array([3, 0])
    ),
    "sequence 0 has length 4: it must lie between 1 and 3": lambda: recurrent.rnn_forward(
        ROWS, RNN, lengths=np.array([4, 1])
    ),
    "4 heads cannot share 6 features": lambda: attention.split_heads(np.zeros((1, 2, 6)), 4),
}


@pytest.mark.parametrize(("message", "call"), REFUSED.items())
def test_invalid_arguments_are_refused_by_name(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_first_layer_may_skip_its_input_gradient() -> None:
    x, w, b = RNG.normal(size=(2, 4, 4, 1)), RNG.normal(size=(3, 3, 1, 2)), RNG.normal(size=2)
    y, cache = conv.conv2d_forward(x, w, b)
    full, short = conv.conv2d_backward(y, cache), conv.conv2d_backward(y, cache, need_dx=False)
    assert short[0] is None
    assert_close(short[1:], full[1:], 0.0, "conv2d d")

"""The table of operations, first part: linear maps, activations, images, losses.

Each row is an operation and the same function in JAX and in PyTorch. ``test_ops.py``
tests a row in every way: to test a new operation, add a row.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F
from jax import lax
from support.gradcheck import Case
from torchvision.ops import sigmoid_focal_loss

from jax_nn import layers as jax_layers
from numpy_nn import conv, layers, losses

RNG = np.random.default_rng(7)
ZEROS = np.array([[-1.0, 0.0, 2.0], [0.0, -0.0, 1.0]])  # on the kink
EXTREME = np.array([[-1000.0, -30.0, -1e-9, 0.0], [1e-9, 1.0, 30.0, 1000.0]])
TIES = RNG.integers(0, 3, (2, 6, 5, 2)).astype(float)
STAYS = RNG.random((3, 4)) > 0.3
TOKENS = np.array([[0, 5, 5, 2], [5, 1, 0, 0]], np.int32)
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


def jax_focal(x: Any, z: Any, gamma: float = 2.0) -> Any:
    return optax.sigmoid_focal_loss(x, z, gamma=gamma).mean(axis=1)


def torch_focal(x: Any, z: Any, reduction: str, gamma: float = 2.0) -> Any:
    return sigmoid_focal_loss(x, z, alpha=-1, gamma=gamma, reduction=reduction)


def torch_hinge(x: Any, z: Any, reduction: str) -> Any:
    assert reduction == "none"
    return torch.where(
        z == 1, F.relu(1 - x), F.hinge_embedding_loss(-x, -torch.ones_like(x), margin=1, reduction="none")
    )


# --- the table --------------------------------------------------------------------------------------------------------

CASES = [
    Case("linear", layers.linear_forward, layers.linear_backward,
         [(3, 5), (5, 4), (4,)], lambda x, w, b: x @ w + b, lambda x, w, b: F.linear(x, w.T, b)),
    Case("linear over time", layers.linear_forward, layers.linear_backward,
         [(2, 3, 5), (5, 4), (4,)], lambda x, w, b: x @ w + b, lambda x, w, b: F.linear(x, w.T, b)),
    Case("flatten", layers.flatten_forward, layers.flatten_backward,
         [(2, 3, 4, 5)], lambda x: x.reshape(2, -1), lambda x: x.flatten(1)),
    Case("dropout", layers.dropout_forward, layers.dropout_backward,
         [(3, 4)], lambda x: x * STAYS / 0.7, lambda x: x * torch.tensor(STAYS) / 0.7, {"mask": STAYS, "rate": 0.3}),
    Case("concatenate", layers.concatenate_forward, layers.concatenate_backward,
         [(2, 3, 1), (2, 3, 4), (2, 3, 2)], lambda *xs: jnp.concatenate(xs, -1), lambda *xs: torch.cat(xs, -1)),
    Case("embedding", lambda e: layers.embedding_forward(TOKENS, e), layers.embedding_backward,
         [(6, 3)], lambda e: e[TOKENS], lambda e: F.embedding(torch.tensor(TOKENS), e)),
]  # fmt: skip

ACTIVATIONS: dict[str, tuple[Any, Any]] = {
    "relu": (jax_layers.relu, F.relu),
    # jax.nn.leaky_relu takes slope 1 at 0, PyTorch and this project 0.01
    "leaky_relu": (lambda x: jnp.where(x > 0, x, 0.01 * x), F.leaky_relu),
    "sigmoid": (jax.nn.sigmoid, torch.sigmoid),
    "tanh": (jnp.tanh, torch.tanh),
    "elu": (jax.nn.elu, F.elu),
    "softplus": (jax.nn.softplus, lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "silu": (jax.nn.silu, F.silu),
    "gelu": (lambda x: jax.nn.gelu(x, approximate=False), F.gelu),
}
for name, (forward, backward) in layers.ACTIVATIONS.items():
    CASES += [
        Case(name, forward, backward, [(3, 2, 4)], *ACTIVATIONS[name]),
        Case(f"{name} extreme", forward, backward, [EXTREME], *ACTIVATIONS[name], smooth=False),
    ]

for name, shape, kernel, stride, padding, groups in [
    ("", (2, 6, 5, 2), (3, 2, 2, 3), 1, 0, 1),
    (" stride 2", (2, 5, 7, 2), (2, 3, 2, 3), 2, 1, 1),
    (" stride 3 padding 2", (2, 7, 4, 1), (3, 3, 1, 3), 3, 2, 1),
    (" 1x1", (2, 4, 5, 3), (1, 1, 3, 2), 1, 0, 1),
    (" 1x1 stride 2", (2, 5, 4, 3), (1, 1, 3, 2), 2, 0, 1),
    (" of the whole image", (2, 3, 4, 2), (3, 4, 2, 3), 1, 0, 1),
    (" grouped", (2, 5, 4, 4), (3, 2, 2, 6), 1, 1, 2),
    (" depthwise", (2, 4, 5, 3), (2, 3, 1, 6), 2, 1, 3),
    (" 1x1 grouped", (2, 3, 2, 6), (1, 1, 2, 3), 1, 0, 3),
]:
    options = {"stride": stride, "padding": padding, "groups": groups}
    CASES.append(
        Case(f"conv2d{name}", conv.conv2d_forward, conv.conv2d_backward,
             [shape, kernel, kernel[-1:]], jax_conv(**options), torch_conv(**options), options),
    )  # fmt: skip

CASES.append(
    Case("conv2d without bias", conv.conv2d_forward, conv.conv2d_backward,
         [(2, 5, 4, 2), (3, 2, 2, 3)], partial(jax_conv(2, 1), bias=0.0),
         partial(torch_conv(stride=2, padding=1), bias=None), {"stride": 2, "padding": 1}),
)  # fmt: skip

for name, image, window, stride, padding in [
    ("", (2, 6, 4, 2), 2, 2, 0),
    (" overlapping", (2, 7, 5, 2), 3, 2, 0),
    (" padded", (2, 5, 6, 2), 3, 2, 1),
    (" apart", (2, 7, 8, 1), 2, 3, 0),
    (" ties", TIES, 3, 1, 1),
    (" ties side by side", TIES, 2, 2, 0),
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

for out in [(1, 1), (2, 3), (3, 2), (5, 4), (7, 3)]:
    p, q = conv.averages(5, out[0]), conv.averages(4, out[1])
    CASES.append(
        Case(f"adaptive_avg_pool {out}", conv.adaptive_avg_pool_forward, conv.adaptive_avg_pool_backward,
             [(2, 5, 4, 3)], lambda x, p=p, q=q: jnp.einsum("ph,nhwc,qw->npqc", p, x, q),
             nchw(F.adaptive_avg_pool2d, output_size=out), {"out": out}),
    )  # fmt: skip
CASES.append(
    Case("global_avg_pool", conv.global_avg_pool_forward, conv.global_avg_pool_backward,
         [(2, 3, 4, 5)], lambda x: x.mean((1, 2)), lambda x: x.mean((1, 2))),
)  # fmt: skip

LOSSES: dict[str, tuple[Any, Any]] = {
    "cross_entropy": (jax_cross_entropy, lambda labels: torch_loss(labels, torch_cross_entropy)),
    "mse": (lambda x, z: ((x - z) ** 2).mean(axis=1), lambda labels: torch_onehot_loss(labels, F.mse_loss)),
    "huber": (
        lambda x, z: optax.huber_loss(x, z).mean(axis=1),
        lambda labels: torch_onehot_loss(labels, F.huber_loss),
    ),
    "binary_cross_entropy": (
        lambda x, z: optax.sigmoid_binary_cross_entropy(x, z).mean(axis=1),
        lambda labels: torch_onehot_loss(labels, F.binary_cross_entropy_with_logits),
    ),
    "kl": (jax_cross_entropy, lambda labels: torch_loss(labels, torch_cross_entropy)),  # the same for class numbers
    "focal": (jax_focal, lambda labels: torch_onehot_loss(labels, torch_focal)),
    "hinge": (
        lambda x, z: optax.hinge_loss(x, 2 * z - 1).mean(axis=1),
        lambda labels: torch_onehot_loss(labels, torch_hinge),
    ),
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
for smoothing in (0.1, 1.0):
    CASES.append(
        Case(f"cross_entropy smoothed {smoothing}", *losses.LOSSES["cross_entropy"], [(4, 5)],
             jax_loss(PADDED, lambda x, z, s=smoothing: jax_cross_entropy(x, optax.smooth_labels(z, s))),
             torch_loss(PADDED, partial(F.cross_entropy, reduction="none", label_smoothing=smoothing)),
             {"labels": PADDED, "label_smoothing": smoothing}),
    )  # fmt: skip
WEIGHTS = (0.5, 2.0, 1.0, 0.0, 3.0)
CASES.append(
    Case("cross_entropy with class weights", *losses.LOSSES["cross_entropy"], [(4, 5)],
         jax_loss(PADDED, lambda x, z: jax_cross_entropy(x, z) * (z @ jnp.asarray(WEIGHTS))),
         torch_loss(PADDED, lambda x, y: F.cross_entropy(x, y, x.new_tensor(WEIGHTS), reduction="none")),
         {"labels": PADDED, "class_weights": WEIGHTS}),
)  # fmt: skip
for gamma in (0.0, 0.5, 5.0):
    CASES.append(
        Case(f"focal {gamma}", *losses.LOSSES["focal"], [(4, 5)], jax_loss(PADDED, partial(jax_focal, gamma=gamma)),
             torch_onehot_loss(PADDED, partial(torch_focal, gamma=gamma)), {"labels": PADDED, "gamma": gamma}),
    )  # fmt: skip
CASES.append(
    Case("huber beyond delta 0.5", *losses.LOSSES["huber"], [(4, 5)],
         jax_loss(LABELS, lambda x, z: optax.huber_loss(x, z, delta=0.5).mean(axis=1)),
         torch_onehot_loss(LABELS, partial(F.huber_loss, delta=0.5)), {"labels": LABELS, "delta": 0.5}),
)  # fmt: skip

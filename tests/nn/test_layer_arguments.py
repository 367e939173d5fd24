"""Every argument of layers and initializers has an effect, which is the same in all tracks that have it.

Each table gives every argument a value that is not its default. A function whose signature has an argument that its
table does not know fails ``test_the_table_of_layers_knows_every_argument``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.gradcheck import assert_close
from support.signatures import assert_changed, optional, parameters
from torch import nn

import jax_nn.attention
import jax_nn.conv
import jax_nn.layers
import jax_nn.norm
import jax_nn.recurrent
import numpy_nn.attention
import numpy_nn.conv
import numpy_nn.initializers
import numpy_nn.layers
import numpy_nn.norm
import numpy_nn.recurrent
import torch_nn.attention
import torch_nn.conv
import torch_nn.layers
import torch_nn.norm
import torch_nn.recurrent
from jax_nn import interop as jax_interop
from numpy_nn.tree import Tree
from torch_nn import interop as torch_interop

ROUNDING = 1e-12  # observed: 1e-15


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


# --- layers -----------------------------------------------------------------------------------------------------------


def of_images(function: Callable[..., Any]) -> Callable[..., Any]:
    """A PyTorch function of images (n, c, h, w) as one of arrays (n, h, w, c)."""

    def apply(x: np.ndarray, **arguments: Any) -> Any:
        y = function(torch.tensor(x).permute(0, 3, 1, 2), **arguments)
        return y.permute(0, 2, 3, 1) if y.ndim == 4 else y

    return apply


def in_jax(build: Callable[..., nnx.Module], params: Tree) -> Callable[..., Any]:
    """A Flax module with these parameters, in float64."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))
    return nnx.merge(graphdef, jax_interop.to_jax(params, np.float64))


def in_torch(module: nn.Module, params: Tree) -> nn.Module:
    """A PyTorch module with these parameters, in float64."""
    module = module.double()
    torch_interop.params_from_tree(module, params)
    return module


def array(value: np.ndarray | None) -> Any:
    """An optional argument in JAX."""
    return None if value is None else jnp.asarray(value)


X = np.random.default_rng(5).normal(size=(2, 7, 6, 4))
ROWS = np.random.default_rng(6).normal(size=(3, 5, 4))
STATE = np.random.default_rng(7).normal(size=(3, 6))
DROPPED = np.random.default_rng(8).random((3, 5, 4)) > 0.3
SCALES = {"scale": np.linspace(0.5, 2, 4), "bias": np.linspace(-1, 1, 4)}


def convolutions(*, stride: int = 1, padding: int = 0, groups: int = 1, bias: bool = True) -> dict[str, Any]:
    params = numpy_nn.conv.conv2d_init(np.random.default_rng(0), 3, 4, 6, groups=groups, bias=bias)
    if bias:
        params["bias"] = np.arange(6.0)
    options = {"stride": stride, "padding": padding, "groups": groups}
    return {
        "numpy": numpy_nn.conv.conv2d_forward(X, params["kernel"], params.get("bias"), **options)[0],
        "jax": in_jax(partial(jax_nn.conv.Conv, 4, 6, 3, bias=bias, **options), params)(X),
        "torch": of_images(in_torch(torch_nn.conv.Conv(4, 6, 3, bias=bias, **options), params))(X),
    }


def pools(name: str) -> Callable[..., dict[str, Any]]:
    def pool(**options: Any) -> dict[str, Any]:
        return {
            "numpy": getattr(numpy_nn.conv, f"{name}_forward")(X, **options)[0],
            "jax": getattr(jax_nn.conv, name)(jnp.asarray(X), **options),
            "torch": of_images(getattr(torch_nn.conv, name))(X, **options),
        }

    return pool


def layer_norms(**options: Any) -> dict[str, Any]:
    return {
        "numpy": numpy_nn.norm.layer_norm_forward(ROWS, **SCALES, **options)[0],
        "jax": in_jax(partial(jax_nn.norm.LayerNorm, 4, **options), SCALES)(ROWS),
        "torch": in_torch(torch_nn.norm.LayerNorm(4, **options), SCALES)(torch.tensor(ROWS)),
    }


def multi_head_attentions(*, heads: int = 1, mask: np.ndarray | None = None) -> dict[str, Any]:
    params = numpy_nn.attention.attention_init(np.random.default_rng(0), 4)
    in_jax_ = in_jax(partial(jax_nn.attention.MultiHeadAttention, 4, heads=heads), params)
    in_torch_ = in_torch(torch_nn.attention.MultiHeadAttention(4, heads=heads), params)
    return {
        "numpy": numpy_nn.attention.multi_head_attention_forward(ROWS, params, heads=heads, mask=mask)[0],
        "jax": in_jax_(jnp.asarray(ROWS), array(mask)),
        "torch": in_torch_(torch.tensor(ROWS), None if mask is None else torch.tensor(mask)),
    }


def attentions(*, mask: np.ndarray | None = None) -> dict[str, Any]:
    q, k, v = (ROWS[:, None] * factor for factor in (1.0, 2.0, 3.0))
    return {
        "numpy": numpy_nn.attention.scaled_dot_product_attention_forward(q, k, v, mask=mask)[0],
        "jax": jax_nn.attention.scaled_dot_product_attention(*map(jnp.asarray, (q, k, v)), mask=array(mask)),
    }


def recurrences(name: str) -> Callable[..., dict[str, Any]]:
    """Arguments ``h`` and ``c`` are NumPy's alone: its states may start from other values than zero."""

    def run(**options: Any) -> dict[str, Any]:
        lower = name.lower()
        params = getattr(numpy_nn.recurrent, f"{lower}_init")(np.random.default_rng(0), 4, 6)
        found = {"numpy": getattr(numpy_nn.recurrent, f"{lower}_forward")(ROWS, params, **options)[0]}
        if options.keys() <= {"lengths"}:
            lengths = options.get("lengths")
            jax_layer = in_jax(partial(getattr(jax_nn.recurrent, f"{name}Layer"), 4, 6), params)
            torch_layer = in_torch(getattr(torch_nn.recurrent, f"{name}Layer")(4, 6), params)
            x = torch.tensor(ROWS)
            if lengths is None:
                in_torch_ = torch_layer(x)[0]
            else:
                packed = torch_nn.recurrent.pack(x, torch.tensor(lengths))
                in_torch_ = torch_nn.recurrent.unpack(torch_layer(packed)[0], x.shape[1])
            found |= {"jax": jax_layer(jnp.asarray(ROWS), array(lengths))[0], "torch": in_torch_}
        return found

    return run


def linears(*, bias: np.ndarray | None = None) -> dict[str, Any]:
    kernel = np.random.default_rng(0).normal(size=(4, 3))
    params = {"kernel": kernel} | ({} if bias is None else {"bias": bias})
    return {
        "numpy": numpy_nn.layers.linear_forward(ROWS, kernel, bias)[0],
        "jax": in_jax(partial(jax_nn.layers.Linear, 4, 3, use_bias=bias is not None), params)(ROWS),
        "torch": in_torch(torch_nn.layers.Linear(4, 3, bias=bias is not None), params)(torch.tensor(ROWS)),
    }


# name: (a function that returns the output of each track that has it, values that are no default)
CAUSAL = np.tri(5, dtype=bool)
LENGTHS = np.array([3, 5, 1], np.int32)
WINDOWS = {"window": 3, "stride": 1, "padding": 1}
LAYERS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "conv2d": (convolutions, {"stride": 2, "padding": 1, "groups": 2, "bias": False}),
    "max_pool": (pools("max_pool"), WINDOWS),
    "avg_pool": (pools("avg_pool"), WINDOWS),
    "adaptive_avg_pool": (lambda *, out=(1, 1): pools("adaptive_avg_pool")(out=out), {"out": (3, 2)}),
    "layer_norm": (layer_norms, {"eps": 0.3}),
    "scaled_dot_product_attention": (attentions, {"mask": CAUSAL}),
    "multi_head_attention": (multi_head_attentions, {"heads": 2, "mask": CAUSAL}),
    "rnn": (recurrences("RNN"), {"lengths": LENGTHS, "h": STATE}),
    "lstm": (recurrences("LSTM"), {"lengths": LENGTHS, "h": STATE, "c": STATE}),
    "linear": (linears, {"bias": np.arange(3.0)}),
    "leaky_relu": (lambda **slope: {"numpy": numpy_nn.layers.leaky_relu_forward(ROWS, **slope)[0]}, {"slope": 0.2}),
}
LAYER_ARGUMENTS = [(name, argument) for name, (_, values) in LAYERS.items() for argument in values]


@pytest.mark.parametrize(("name", "argument"), LAYER_ARGUMENTS)
def test_a_layers_argument_changes_its_output(name, argument):
    outputs, values = LAYERS[name]
    found = {track: np.asarray(torch.as_tensor(y).detach() if torch.is_tensor(y) else y)
             for track, y in outputs(**{argument: values[argument]}).items()}  # fmt: skip
    for track, y in found.items():
        assert_close(y, found["numpy"], ROUNDING, f"{track} {name} {argument}")
    assert_changed(found["numpy"], outputs()["numpy"], f"{name}: {argument}")


def test_batch_norm_uses_its_mode_and_statistics():
    """``stats`` and ``mode`` change the output and the statistics that come back, by the formula."""
    stats = {"mean": np.full(4, 0.3), "var": np.full(4, 1.7)}
    used, kept, _ = numpy_nn.norm.batch_norm_forward(X, **SCALES, stats=stats)
    np.testing.assert_allclose(used, (X - 0.3) / np.sqrt(1.7 + 1e-5) * SCALES["scale"] + SCALES["bias"], rtol=1e-12)
    assert kept is stats
    y, new, _ = numpy_nn.norm.batch_norm_forward(X, **SCALES, stats=stats, mode=numpy_nn.norm.TRAIN)
    mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2))
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(var + 1e-5) * SCALES["scale"] + SCALES["bias"], rtol=1e-12)
    np.testing.assert_allclose(new["mean"], 0.9 * 0.3 + 0.1 * mean, rtol=1e-12)
    np.testing.assert_allclose(new["var"], 0.9 * 1.7 + 0.1 * X.var((0, 1, 2), ddof=1), rtol=1e-12)


# --- initializers -----------------------------------------------------------------------------------------------------

VARIANCES = {  # of fan_in 36 · 8 / groups and fan_out 9 · 64 / groups, in a convolution of 3×3 from 32 to 64 channels
    "he_normal": lambda fan_in, fan_out: 2 / fan_in,
    "glorot_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "lecun_normal": lambda fan_in, fan_out: 1 / fan_in,
}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("init", VARIANCES)
def test_a_grouped_convolution_starts_with_the_variance_of_its_own_fan(init, groups):
    """An output sees the inputs of its group only: four groups have four times the variance."""
    kernel = numpy_nn.conv.conv2d_init(np.random.default_rng(0), 3, 32, 64, init, groups=groups, bias=False)["kernel"]
    expected = VARIANCES[init](9 * 32 // groups, 9 * 64 // groups)
    assert abs(kernel.var() / expected - 1) < 5 * np.sqrt(2 / kernel.size)  # five standard errors


@pytest.mark.parametrize("init", ["lecun_normal", "glorot_uniform"])
def test_a_linear_map_starts_from_the_initializer_that_is_asked_for(init):
    kernel = numpy_nn.layers.linear_init(np.random.default_rng(0), 100, 300, init)["kernel"]
    assert abs(kernel.var() / VARIANCES[init](100, 300) - 1) < 5 * np.sqrt(2 / kernel.size)
    assert list(numpy_nn.layers.linear_init(np.random.default_rng(0), 3, 4, bias=False)) == ["kernel"]


@pytest.mark.parametrize("name", numpy_nn.initializers.INITIALIZERS)
def test_an_initializer_depends_on_each_of_its_arguments(name):
    draw = numpy_nn.initializers.INITIALIZERS[name]
    given = {"rng": np.random.default_rng(0), "shape": (6, 4), "fan_in": 6, "fan_out": 4}
    assert parameters(draw) == set(given)
    for argument, other in {"rng": np.random.default_rng(1), "shape": (4, 6), "fan_in": 3, "fan_out": 9}.items():
        changed = draw(**{**given, "rng": np.random.default_rng(0), argument: other})
        depends = argument in ("rng", "shape") or (argument == "fan_in" and name != "orthogonal")
        if depends or (name, argument) == ("glorot_uniform", "fan_out"):
            assert_changed(changed, draw(**{**given, "rng": np.random.default_rng(0)}), f"{name}: {argument}")


# --- the tables are complete ------------------------------------------------------------------------------------------

# Arguments that other tests vary: parts of a batch, gradients that nobody needs, seeds.
ELSEWHERE = {
    "batch_norm": {"mode"},
    "conv2d_init": {"init", "groups", "bias"},
    "linear_init": {"init", "bias"},
}
OTHER_NAMES = {  # of the classes of JAX and PyTorch
    "Conv": "conv2d",
    "LayerNorm": "layer_norm",
    "MultiHeadAttention": "multi_head_attention",
    "RNNLayer": "rnn",
    "LSTMLayer": "lstm",
}


def public(module: Any) -> dict[str, Any]:
    """The functions and classes that a module defines for others, but for the steps of an algorithm."""
    return {
        name: each
        for name, each in vars(module).items()
        if getattr(each, "__module__", "") == module.__name__
        and not name.startswith(("_", "im2col", "kernel_gradient"))
    }


@pytest.mark.parametrize("module", ["layers", "conv", "norm", "attention", "recurrent"])
def test_the_table_of_layers_knows_every_argument(module):
    for name, function in public(getattr(numpy_nn, module)).items():
        if name.endswith(("_forward", "_init")):
            layer = name.removesuffix("_forward")
            known = set(LAYERS[layer][1]) if layer in LAYERS else ELSEWHERE.get(layer, set())
            assert optional(function) <= known, name
    for track in (jax_nn, torch_nn):
        for name, each in public(getattr(track, module)).items():
            own = [vars(each).get(method) for method in ("__init__", "__call__", "forward")]
            for function in filter(None, own) if inspect.isclass(each) else [each]:
                if inspect.isfunction(function) and optional(function) - {"rngs"}:
                    layer = OTHER_NAMES.get(name, name)
                    assert optional(function) - {"rngs"} <= set(LAYERS[layer][1]), f"{track.__name__}.{module}.{name}"

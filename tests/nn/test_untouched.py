"""No public call changes the arrays of its caller: a checksum of each before and after.

Every table is read by the public names of what it describes, so a function without an entry fails. The operations of
NumPy are rows of ``op_cases``, which ``test_ops`` checks in the same way; arrays of JAX cannot be written to, so only
the functions of its contract, which donate buffers, can do harm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.op_cases import CASES
from support.op_cases_deep import CASES as DEEP_CASES

import torch_nn.attention
import torch_nn.conv
import torch_nn.layers
import torch_nn.losses
import torch_nn.norm
import torch_nn.recurrent
from compare import tracks
from compare.checkpoint.digests import array_digests
from numpy_nn import attention, conv, layers, losses, norm, recurrent
from numpy_nn.models import MODELS
from numpy_nn.tree import tree_map

RNG = np.random.default_rng(11)


def aligned(array: Any) -> np.ndarray:
    """A copy at an address divisible by 64, which JAX shares with NumPy instead of copying it."""
    array = np.asarray(array)
    buffer = np.empty(array.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    moved = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


# --- the contract of the tracks ---------------------------------------------------------------------------------------

ARGUMENTS: dict[str, Any] = {
    "model": "vgg",  # with batch norm
    "model_args": {"input_shape": (8, 8, 1), "stages": (1, 1), "channels": (3, 4)},
    "optimizer": "adamw",
    "optimizer_args": {"weight_decay": 1e-2, "clip_norm": 0.1},
    "schedule": "cosine",
    "schedule_args": {"lr": 1e-2, "steps": 20},
    "mean": (0.13,),
    "std": (0.31,),
    "ema": 0.9,
}
CONTRACT = [name for name in vars(tracks.Track) if not name.startswith("_")]
CALLS: dict[str, Callable[[Any, Any, dict[str, Any]], Any]] = {
    "init_state": lambda track, state, given: track.init_state(given["snapshot"], **ARGUMENTS),
    "train_steps": lambda track, state, given: track.train_steps(state, given["x"], given["y"]),
    "eval_batch": lambda track, state, given: track.eval_batch(state, given["x"][0], given["y"][0]),
    "logits": lambda track, state, given: track.logits(state, given["x"][0]),
    "to_snapshot": lambda track, state, given: track.to_snapshot(state),
    "synchronize": lambda track, state, given: track.synchronize(state),
    "place_dataset": lambda track, state, given: track.place_dataset(state, given["x"][0], given["y"][0]),
    "device_facts": lambda track, state, given: track.device_facts(state),
}


@pytest.fixture(scope="module", params=tracks.TRACKS)
def trained(request):
    """A track, and the snapshot of a training of it that has every part: statistics, moments, an average."""
    track = tracks.load(request.param)
    first = MODELS[ARGUMENTS["model"]](**ARGUMENTS["model_args"]).init(np.random.default_rng(3))
    state, _ = track.train_steps(track.init_state(first, **ARGUMENTS), *batches())
    return track, track.to_snapshot(state)


def batches() -> tuple[np.ndarray, np.ndarray]:
    """Two batches of six images, and their labels."""
    x = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 8, 1), dtype=np.uint8)
    return x, np.arange(12, dtype=np.int32).reshape(2, 6) % 10


@pytest.mark.parametrize("name", CONTRACT)
def test_a_function_of_the_contract_leaves_every_array_as_it_was(name, trained):
    """Of its arguments, of the snapshot that the state was made from, and of one that was taken from the state."""
    track, snapshot = trained
    given = {"snapshot": tree_map(aligned, snapshot)} | dict(zip("xy", map(aligned, batches()), strict=True))
    state = track.init_state(given["snapshot"], **ARGUMENTS)
    given["taken"] = track.to_snapshot(state)
    before = array_digests(given)
    assert {"snapshot", "x", "y", "taken"} == {path.partition("/")[0] for path in before}
    result = CALLS[name](track, state, given)
    track.synchronize(result[0] if name == "train_steps" else state)  # JAX gives the buffers of the old state away
    assert array_digests(given) == before


# --- the functions of PyTorch -----------------------------------------------------------------------------------------

IMAGES, ROWS = RNG.normal(size=(2, 4, 6, 6)), RNG.normal(size=(3, 5, 4))
OUTPUTS, LABELS = RNG.normal(size=(4, 5)), np.array([2, -1, 3, 0])
LENGTHS = np.array([3, 5, 1])
Call = tuple[Callable[..., Any], tuple[np.ndarray, ...]]


def each(functions: dict[str, Callable[..., Any]], *arrays: np.ndarray) -> Call:
    """All of them, one after the other."""
    return lambda *given: [function(*given) for function in functions.values()], arrays


def packed(x: torch.Tensor, lengths: torch.Tensor) -> Any:
    return torch_nn.recurrent.unpack(torch_nn.recurrent.pack(x, lengths), x.shape[1])


LOSS = dict.fromkeys(
    ["softmax_cross_entropy", "kl_divergence", "mean_squared_error", "huber", "binary_cross_entropy", "focal", "hinge"],
    (OUTPUTS, LABELS),
)
# module.name: (a call of it, the arrays that it gets); a class is called as the layer that it is
TORCH: dict[str, Call] = {
    "layers.activation": each(torch_nn.layers.ACTIVATIONS, ROWS),
    "layers.flatten": (torch_nn.layers.flatten, (IMAGES,)),
    "conv.Conv": (torch_nn.conv.Conv(4, 6, 3, padding=1).double(), (IMAGES,)),
    "conv.max_pool": (torch_nn.conv.max_pool, (IMAGES,)),
    "conv.avg_pool": (torch_nn.conv.avg_pool, (IMAGES,)),
    "conv.global_avg_pool": (torch_nn.conv.global_avg_pool, (IMAGES,)),
    "conv.adaptive_avg_pool": (partial(torch_nn.conv.adaptive_avg_pool, out=(3, 2)), (IMAGES,)),
    "norm.BatchNorm": (torch_nn.norm.BatchNorm(4).double(), (IMAGES,)),
    "norm.LayerNorm": (torch_nn.norm.LayerNorm(4).double(), (ROWS,)),
    "attention.causal_mask": (lambda: torch_nn.attention.causal_mask(3), ()),
    "attention.MultiHeadAttention": (
        torch_nn.attention.MultiHeadAttention(4, heads=2).double(), (ROWS, np.tri(5, dtype=bool)),
    ),
    "attention.Tokens": (torch_nn.attention.Tokens(5, 4).double(), (ROWS,)),
    "attention.Positions": (torch_nn.attention.Positions(5, 4).double(), (ROWS,)),
    "recurrent.fix_input_bias": (lambda: torch_nn.recurrent.fix_input_bias(torch_nn.recurrent.RNNLayer(4, 6)), ()),
    "recurrent.RNNLayer": (torch_nn.recurrent.RNNLayer(4, 6).double(), (ROWS,)),
    "recurrent.LSTMLayer": (torch_nn.recurrent.LSTMLayer(4, 6).double(), (ROWS,)),
    "recurrent.pack": (packed, (ROWS, LENGTHS)),
    "recurrent.unpack": (packed, (ROWS, LENGTHS)),
    "losses.rows": (torch_nn.losses.rows, (ROWS, np.zeros((3, 5), np.int64))),
    "losses.correct": (torch_nn.losses.correct, (OUTPUTS, LABELS)),
    **{f"losses.{name}": (getattr(torch_nn.losses, name), arrays) for name, arrays in LOSS.items()},
}  # fmt: skip
MODULES = ("layers", "conv", "norm", "attention", "recurrent", "losses")


def public(module: Any) -> list[str]:
    """The functions and classes that a module defines for others."""
    own = (name for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__)
    return [name for name in own if not name.startswith("_")]


@pytest.mark.parametrize(
    "name", [f"{module}.{name}" for module in MODULES for name in public(getattr(torch_nn, module))]
)
def test_a_function_of_pytorch_leaves_its_arguments_as_they_were(name):
    """Backward too: a cache that is written to would be the caller's array."""
    call, arrays = TORCH[name]
    given = {f"{number}": array.copy() for number, array in enumerate(arrays)}
    before = array_digests(given)
    tensors = [torch.from_numpy(array) for array in given.values()]  # they share their memory
    call(*tensors)
    assert array_digests(given) == before


# --- the operations of NumPy ------------------------------------------------------------------------------------------


def named(function: Any) -> set[str]:
    """The name of an operation, through ``partial``; of a function made in the table, the names that it uses."""
    function = getattr(function, "func", function)
    made_here = function.__module__.startswith("support.")
    return {*function.__code__.co_names, *function.__code__.co_freevars} if made_here else {function.__name__}


def test_every_operation_of_numpy_is_a_row_of_the_table():
    """``test_ops`` compares the arguments of each row before and after."""
    rows = {name for case in CASES + DEEP_CASES for each in (case.forward, case.backward) for name in named(each)}
    modules = (layers, conv, norm, attention, recurrent, losses)
    operations = {name for each in modules for name in public(each) if name.endswith(("_forward", "_backward"))}
    steps = {"im2col_forward", "im2col_backward", "project_backward"}  # of a convolution, of a recurrent network
    assert operations - rows == steps

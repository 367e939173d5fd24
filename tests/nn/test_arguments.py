"""Every argument of optimizers, schedules and losses has an effect, which is the same in all tracks.

Each table gives every argument a value that is not its default. A function whose signature has an argument that its
table does not know fails ``test_the_tables_know_every_argument``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.gradcheck import assert_close
from support.signatures import assert_changed, optional, parameters
from torch import nn

import jax_nn.losses
import jax_nn.optim
import numpy_nn.losses
import numpy_nn.optim
import torch_nn.losses
import torch_nn.optim
from jax_nn import interop as jax_interop
from numpy_nn.tree import Tree, tree_map
from torch_nn import interop as torch_interop

ROUNDING = 1e-12  # observed: 1e-15


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


# --- optimizers -------------------------------------------------------------------------------------------------------

ADAM = {"beta1": 0.6, "beta2": 0.7, "eps": 0.3}
OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {},
    "momentum": {"decay": 0.5},
    "nesterov": {"decay": 0.5},
    "rmsprop": {"decay": 0.6, "eps": 0.3},
    "adam": ADAM,
    "adamw": ADAM,
    "lion": {"beta1": 0.3, "beta2": 0.4},
}
OF_ALL_OPTIMIZERS: dict[str, Any] = {
    "weight_decay": 0.3,
    "clip_norm": 0.4,
    "factors": {"kernel": 0.3, "bias": 2.0},
    "lr": 0.05,
}
START = {"kernel": np.random.default_rng(1).normal(size=(4, 3)), "bias": np.random.default_rng(2).normal(size=3)}


def gradients(step: int) -> Tree:
    """Gradients of a step, whose norm differs from step to step."""
    rng = np.random.default_rng(10 + step)
    return tree_map(lambda p: (1 + step) * rng.normal(size=p.shape), START)


def numpy_steps(name: str, *, steps: int = 3, scale: float = 1.0, lr: float = 0.1, **arguments: Any) -> Tree:
    params = tree_map(np.copy, START)
    opt = numpy_nn.optim.init(params, name)
    for step in range(steps):
        grads = tree_map(lambda g: scale * g, gradients(step))
        numpy_nn.optim.update(params, grads, opt, optimizer=name, lr=lr, **arguments)
    return params


def jax_steps(name: str, *, steps: int = 3, scale: float = 1.0, lr: float = 0.1, **arguments: Any) -> Tree:
    tx = jax_nn.optim.make(name, lambda count: lr, **arguments)
    params = jax_interop.to_jax(START, np.float64)
    state = tx.init(params)
    for step in range(steps):
        grads = jax_interop.to_jax(tree_map(lambda g: scale * g, gradients(step)), np.float64)
        updates, state = tx.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return jax_interop.to_numpy(params)


def torch_steps(
    name: str, *, steps: int = 3, scale: float = 1.0, lr: float = 0.1, clip_norm: float | None = None, **arguments: Any
) -> Tree:
    model = nn.Linear(4, 3, dtype=torch.float64)
    torch_interop.params_from_tree(model, START)
    optimizer = torch_nn.optim.make(name, model, **arguments)
    for step in range(steps):
        grads = gradients(step)
        for path, leaf, p in torch_interop.bindings(model):
            p.grad = torch_interop.to_tensor(scale * grads[path], leaf, p)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        if clip_norm is not None:
            torch_nn.optim.clip_by_global_norm(model, clip_norm)
        optimizer.step()
    return torch_interop.params_to_tree(model)


STEPS = {"numpy": numpy_steps, "jax": jax_steps, "torch": torch_steps}
OPTIMIZER_ARGUMENTS = [
    (name, argument, value)
    for name, own in OPTIMIZERS.items()
    for argument, value in {**own, **OF_ALL_OPTIMIZERS}.items()
]


@pytest.mark.parametrize(("name", "argument", "value"), OPTIMIZER_ARGUMENTS)
def test_an_optimizers_argument_changes_its_steps(name, argument, value):
    expected = numpy_steps(name, **{argument: value})
    for track in ("jax", "torch"):
        assert_close(STEPS[track](name, **{argument: value}), expected, ROUNDING, f"{track} {name} {argument} ")
    assert_changed(expected["kernel"], numpy_steps(name)["kernel"], f"{name}: {argument}")


@pytest.mark.parametrize("track", STEPS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_does_not_scale_small_gradients_up(name, track):
    """Norms from 0.0003 on, and a limit of 0.4: what is below it stays as it is, to the bit."""
    steps = partial(STEPS[track], name, scale=1e-4)
    assert_close(steps(clip_norm=0.4), steps(), 0.0, f"{track} {name} ")


@pytest.mark.parametrize("track", STEPS)
def test_clipped_gradients_have_the_norm_of_the_limit(track):
    moved = STEPS[track]("sgd", steps=1, lr=1.0, clip_norm=0.4)
    gap = np.concatenate([(moved[path] - START[path]).ravel() for path in START])
    assert np.linalg.norm(gap) == pytest.approx(0.4, rel=1e-12)


# --- schedules --------------------------------------------------------------------------------------------------------

SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "step": {"factor": 0.3, "at": (0.2, 0.4, 0.9)},
    "cosine": {"warmup": 0.3, "end": 0.2},
    "one_cycle": {"warmup": 0.5, "div": 4.0, "final_div": 3.0},
}
OF_ALL_SCHEDULES = {"lr": 0.7, "steps": 11}
SCHEDULE_ARGUMENTS = [
    (name, argument, value)
    for name, own in SCHEDULES.items()
    for argument, value in {**own, **OF_ALL_SCHEDULES}.items()
]


def rates(name: str, **arguments: Any) -> dict[str, np.ndarray]:
    """The learning rates of 20 steps and two more, by track."""
    arguments = {"lr": 0.3, "steps": 20, **arguments}
    made = {
        "numpy": numpy_nn.optim.schedule(name, **arguments),
        "torch": torch_nn.optim.SCHEDULES[name](**arguments),
    }
    in_jax = jax_nn.optim.SCHEDULES[name](**arguments)
    made["jax"] = lambda k: in_jax(jnp.int32(k))
    return {track: np.array([float(rate(k)) for k in range(22)]) for track, rate in made.items()}


@pytest.mark.parametrize(("name", "argument", "value"), SCHEDULE_ARGUMENTS)
def test_a_schedules_argument_changes_its_rates(name, argument, value):
    found = rates(name, **{argument: value})
    for track in ("jax", "torch"):
        np.testing.assert_allclose(found[track], found["numpy"], rtol=ROUNDING, atol=1e-15)
    if (name, argument) != ("constant", "steps"):
        assert_changed(found["numpy"], rates(name)["numpy"], f"{name}: {argument}")


def test_schedules_have_their_known_values():
    """Worked out by hand: at the first and last step of a phase, and in the middle of a half cosine."""
    assert rates("constant")["numpy"].tolist() == [0.3] * 22
    assert rates("step")["numpy"][[0, 9, 10, 14, 15, 21]] == pytest.approx([0.3, 0.3, 0.03, 0.03, 0.003, 0.003])
    cosine = rates("cosine", lr=1.0, warmup=0.2, end=0.5)["numpy"]  # warm-up over 4 steps, then 16
    assert cosine[[0, 2, 4, 12, 20, 21]] == pytest.approx([0.0, 0.5, 1.0, 0.75, 0.5, 0.5])
    cycle = rates("one_cycle", lr=1.0, warmup=0.4, div=5.0, final_div=10.0)["numpy"]  # 8 steps up, 12 down
    assert cycle[[0, 4, 8, 14, 20, 21]] == pytest.approx([0.2, 0.6, 1.0, 0.51, 0.02, 0.02])


# --- losses -----------------------------------------------------------------------------------------------------------

LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"label_smoothing": 0.3, "class_weights": (0.5, 1.0, 2.0, 0.2, 3.0)},
    "mse": {},
    "huber": {"delta": 0.4},
    "binary_cross_entropy": {},
    "kl": {},
    "focal": {"gamma": 0.7},
    "hinge": {},
}
OUTPUTS = np.random.default_rng(3).normal(size=(4, 5))
LABELS = {
    "classes": np.array([2, 0, 4, 4], np.int32),
    "padded": np.array([2, -1, 3, -1], np.int32),
    "distributions": np.random.default_rng(4).dirichlet(np.ones(5), 4),
}


def losses_and_gradients(name: str, labels: np.ndarray, **arguments: Any) -> dict[str, tuple[Any, Any]]:
    """Loss and gradient of each track's own function."""
    forward, backward = numpy_nn.losses.LOSSES[name]
    loss, cache = forward(OUTPUTS, labels, **arguments)
    in_jax = jax.value_and_grad(partial(jax_nn.losses.LOSSES[name], **arguments))(OUTPUTS, jnp.asarray(labels))
    outputs = torch.tensor(OUTPUTS, requires_grad=True)
    targets = torch.tensor(labels, dtype=torch.float64 if labels.ndim == 2 else torch.int64)
    in_torch = torch_nn.losses.LOSSES[name](outputs, targets, **arguments)
    in_torch.backward()
    return {
        "numpy": (loss, backward(1.0, cache)),
        "jax": in_jax,
        "torch": (in_torch.detach().numpy(), outputs.grad.numpy()),
    }


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, {}) for name in LOSSES] + [(name, {key: own[key]}) for name, own in LOSSES.items() for key in own],
)
def test_losses_and_gradients_agree_with_every_argument_and_kind_of_label(name, arguments, labels):
    found = losses_and_gradients(name, LABELS[labels], **arguments)
    for track in ("jax", "torch"):
        assert_close(found[track], found["numpy"], ROUNDING, f"{track} {name} {arguments} ")
    for argument in arguments:
        assert_changed(found["numpy"][0], losses_and_gradients(name, LABELS[labels])["numpy"][0], argument)


# --- the tables are complete ------------------------------------------------------------------------------------------


def test_the_tables_know_every_argument():
    for name, (formula, *_) in numpy_nn.optim.OPTIMIZERS.items():
        known = set(OPTIMIZERS[name])
        assert optional(formula) - {"lr", "t"} == known, name
        assert parameters(jax_nn.optim.OPTIMIZERS[name][0]) - {"lr", "weight_decay"} == known, name
        assert parameters(torch_nn.optim.OPTIMIZERS[name][0]) - {"groups"} == known, name
    shared = set(OF_ALL_OPTIMIZERS)
    passed = {"optimizer", "hyperparameters", "all_sum"}  # all_sum: of the processes, see test_parallel
    assert optional(numpy_nn.optim.update) - passed == shared
    assert parameters(jax_nn.optim.make) - {"name", "hyperparameters"} == shared
    assert parameters(torch_nn.optim.make) - {"name", "model", "hyperparameters"} == shared - {"lr", "clip_norm"}

    for module in (numpy_nn, jax_nn, torch_nn):
        for name, function in module.optim.SCHEDULES.items():
            assert parameters(function) - {"step"} == set(SCHEDULES[name]) | set(OF_ALL_SCHEDULES), (module, name)
        for name, loss in module.losses.LOSSES.items():
            function = loss[0] if module is numpy_nn else loss
            assert optional(function) == set(LOSSES[name]), (module, name)

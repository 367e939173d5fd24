"""The three tracks are one function: every model, every optimizer, every schedule, leaf by leaf."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_nn.layers
import jax_nn.losses
import jax_nn.models
import torch_nn.layers
import torch_nn.losses
import torch_nn.models
from compare.config import Config
from compare.files import CACHE
from compare.parity import __main__ as parity
from compare.parity import check
from compare.parity import process as parity_process
from compare.tracks import TRACKS
from compare.workers import process
from compare.workers.protocol import Job
from jax_nn import optim as jax_optim
from numpy_nn import optim as numpy_optim
from numpy_nn.layers import ACTIVATIONS
from numpy_nn.losses import LOSSES
from numpy_nn.models import MODELS
from torch_nn import optim as torch_optim

SMALL = {"input_shape": (12, 10, 3), "classes": 7}


# Those that the command proves in their own size, which every comparison does too.
NARROW: dict[str, Any] = {
    "cnn": {"input_shape": (16, 16, 1), "channels": (4, 6), "hidden": 12},
    "lenet5": {"input_shape": (16, 16, 1)},
}


def config(model: str, **changes: Any) -> Config:
    """A network as it is tested: small where the model lets itself be made small."""
    args = (check.EXAMPLES | NARROW).get(model, {})
    base = Config(preset=model, model=model, dataset="random images", model_args=args, lr=0.05)
    return dataclasses.replace(base, **changes)


def require_equal(config: Config, steps: int = 10) -> None:
    """Fail with the worst leaf of everything that is out of tolerance."""
    for row, _ in check.check_parity(config, list(TRACKS), steps=steps):
        bad = [check for check in row["checks"] if not check["passed"]]
        assert not bad, f"{row['preset']}: {row['a']} against {row['b']}: {bad}"


def test_all_tracks_have_the_same_names():
    assert list(MODELS) == list(jax_nn.models.MODELS) == list(torch_nn.models.MODELS)
    assert list(LOSSES) == list(jax_nn.losses.LOSSES) == list(torch_nn.losses.LOSSES)
    assert list(ACTIVATIONS) == list(jax_nn.layers.ACTIVATIONS) == list(torch_nn.layers.ACTIVATIONS)
    assert list(numpy_optim.OPTIMIZERS) == list(jax_optim.OPTIMIZERS) == list(torch_optim.OPTIMIZERS)
    assert list(numpy_optim.SCHEDULES) == list(jax_optim.SCHEDULES) == list(torch_optim.SCHEDULES)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("model", MODELS)
def test_models_agree(model, precision):
    require_equal(config(model, precision=precision))


@pytest.mark.parametrize(
    ("model", "args"),
    [
        ("mlp", {"hidden": (9, 5)}),
        ("cnn", {"channels": (4, 6), "kernel": 3, "padding": 1, "hidden": 11}),
        ("cnn", {"channels": (4, 6), "kernel": 3, "pools": (1, 2), "hidden": 11}),
        ("cnn", {"channels": (4, 6), "kernel": 3, "pools": (1, 2), "batch_norm": True, "hidden": 11}),
    ],
)
def test_models_agree_on_rectangular_colour_images(model, args):
    require_equal(config(model, model_args={**SMALL, **args}, precision="float64"))


def test_models_agree_without_hidden_layers():
    require_equal(config("mlp", model_args={**SMALL, "hidden": ()}, precision="float64"))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_agree(activation):
    args = {**SMALL, "hidden": (9, 5), "activation": activation}
    require_equal(config("mlp", model_args=args, precision="float64"))


@pytest.mark.parametrize(("clip_norm", "precision"), [(None, "float64"), (0.5, "float32")])
@pytest.mark.parametrize("optimizer", numpy_optim.OPTIMIZERS)
def test_optimizers_agree(optimizer, clip_norm, precision):
    args = {"weight_decay": 1e-2} | ({} if clip_norm is None else {"clip_norm": clip_norm})
    small = {**SMALL, "hidden": (9, 5)}
    lr = 0.05 if optimizer in ("sgd", "momentum", "nesterov") else 0.001
    require_equal(config("mlp", model_args=small, optimizer=optimizer, optimizer_args=args, lr=lr, precision=precision))


@pytest.mark.parametrize(
    ("loss", "loss_args"),
    [
        *((name, {}) for name in LOSSES),
        ("cross_entropy", {"label_smoothing": 0.1}),
        ("huber", {"delta": 0.2}),
        ("cross_entropy", {"class_weights": [0.5, 2.0, *[1.0] * 5], "label_smoothing": 0.1}),
        ("focal", {"gamma": 0.5}),
    ],
)
def test_losses_agree(loss, loss_args):
    args = {**SMALL, "hidden": (9,)}
    require_equal(config("mlp", model_args=args, loss=loss, loss_args=loss_args, precision="float64"))


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("name", numpy_optim.SCHEDULES)
def test_schedules_agree(name, steps):
    made = [numpy_optim.schedule(name, lr=0.3, steps=steps)]
    made += [module.SCHEDULES[name](lr=0.3, steps=steps) for module in (torch_optim, jax_optim)]
    for step in range(steps + 2):
        with jax.enable_x64(True):
            a, b, c = made[0](step), made[1](step), float(made[2](jnp.int32(step)))
        assert a == b
        assert c == pytest.approx(a, rel=1e-12, abs=1e-15)  # observed: 4e-15
    rates = [made[0](step) for step in range(steps)]
    assert all(0 <= rate <= 0.3 for rate in rates)


def test_wrong_leaf_is_found_and_named():
    a = {"hidden": {"kernel": np.array([1.0, 2.0]), "bias": np.array([0.0])}}
    b = {"hidden": {"kernel": np.array([1.0, 2.5]), "bias": np.array([0.0])}}
    found = check.distances(a, b)
    assert found["hidden/bias"] == (0.0, 0.0)
    assert list(found["hidden/kernel"]) == pytest.approx([0.5, 0.5 / np.hypot(1, 2.5)])
    for value, expected in ((np.nan, 1.0), (1e-9, 0.0)):
        assert check.distance(np.array([value]), np.array([expected])) == (np.inf, np.inf)


@pytest.mark.parametrize(("torch_is_off", "same"), [(1.9e-3, True), (2.1e-3, False)])
def test_a_failed_float32_check_is_compared_with_the_sensitivity(torch_is_off, same, monkeypatch):
    def compute(config: Config, track: str, *, perturbation: float = 0.0, **_: object) -> check.Quantities:
        off = perturbation / check.PERTURBATION * 1e-3 + (torch_is_off if track == "torch" else 0)
        apart, far = {"leaf": np.array([1 + off])}, {"leaf": np.array([1 + 200 * off])}
        logits = {"leaf": np.array([1 + off / 1000])}
        return check.Quantities(logits=logits, gradients=apart, losses=apart, parameters=far, optimizer={})

    monkeypatch.setattr(check, "compute", compute)
    ((row, _),) = check.check_parity(config("mlp", precision="float32"), ["numpy", "torch"])
    assert row["sensitivity"] == pytest.approx({"gradients": 1e-3, "losses": 1e-3, "parameters": 0.2})
    assert {check["what"]: check["tolerance"] for check in row["checks"]} == {
        "logits": 1e-5,
        "gradients": pytest.approx(2e-3),
        "losses": pytest.approx(2e-3),
    }
    assert (row["passed"], row["attempts"]) == ((True, 1) if same else (False, check.ATTEMPTS))


def test_a_perturbation_changes_every_quantity_a_little():
    small = config("mlp", model_args={**SMALL, "hidden": (9,)}, optimizer="adam", lr=0.001)
    moved = check.sensitivity(small, steps=2, attempt=1)
    assert list(moved) == ["gradients", "losses", "parameters", "optimizer"]
    assert all(1e-7 < each < 1e-3 for each in moved.values())


def test_a_parity_check_without_quantities_fails(monkeypatch):
    monkeypatch.setitem(check.TOLERANCES, "float64", {})
    small = {**SMALL, "hidden": (9,)}
    ((row, _),) = check.check_parity(config("mlp", model_args=small, precision="float64"), ["numpy", "torch"], steps=1)
    assert not row["passed"]


def test_command_names_the_first_leaf_out_of_tolerance(capsys, monkeypatch):
    monkeypatch.setitem(check.TOLERANCES, "float64", dict.fromkeys(check.TOLERANCES["float64"], 0.0))
    monkeypatch.setitem(check.EXAMPLES, "mlp", {**SMALL, "hidden": (9,)})
    assert parity.main(["mlp", "--tracks", "numpy", "torch", "--steps", "2"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED, first at: logits logits" in printed
    assert "The tracks differ." in printed


def test_command_succeeds_and_refuses_unknown_names(capsys, monkeypatch):
    monkeypatch.setitem(check.EXAMPLES, "mlp", {**SMALL, "hidden": (9,)})
    assert parity.main(["mlp", "--steps", "2", "--precision", "float32"]) == 0
    assert "The tracks are the same model." in capsys.readouterr().out
    assert parity.main(["perceptron"]) == 2
    assert "unknown model 'perceptron'. Known: mlp, cnn" in capsys.readouterr().err


def test_one_process_checks_all_that_is_on_one_device(monkeypatch):
    """A GPU needs variables of its own; compiled programs are kept for what is not timed, and only for that."""
    asked = []

    def call(*arguments: str, variables: dict[str, str], hear: object) -> list[dict[str, str]]:
        wanted = json.loads(arguments[2])
        asked.append((variables, [(each["preset"], each["precision"], each["device"]) for each in wanted]))
        return [{"preset": each["preset"]} for each in wanted]

    monkeypatch.setattr(process, "call", call)
    configs = [config("mlp", precision="float32"), config("cnn", precision="float32")]
    wanted = parity_process.wanted(configs)
    assert len(parity_process.check(wanted, ["numpy", "jax"], hear=print)) == 4
    ((variables, checked),) = asked
    assert checked == [(f"{name}", p, "cpu") for p in ("float64", "float32") for name in ("mlp", "cnn")]
    assert parity_process.parts(wanted, ["numpy", "jax"]) == 1 + 8
    assert Path(variables["JAX_COMPILATION_CACHE_DIR"]).parent == CACHE.expanduser()
    trainer = process.trainer(Job(configs[0], "jax", 1, Path()), log=Path())
    assert trainer._variables["JAX_ENABLE_COMPILATION_CACHE"] == "false"

    asked.clear()
    on_gpu = [dataclasses.replace(each, device="gpu", precision="bfloat16") for each in configs]
    parity_process.check(parity_process.wanted(on_gpu), ["numpy", "jax"], hear=print)
    assert [{device for *_, device in checked} for _, checked in asked] == [{"cpu"}, {"gpu"}]
    assert parity_process.parts(parity_process.wanted(on_gpu), ["numpy", "jax"]) == 2 + 4 + 2

"""Differences planted in a port: the report names the line that was changed, and says what is wrong with it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from support.paths import ROOT
from support.ports.planted import BACKWARD, FORWARD, TRAINING, Planted

from compare.ports import check

HERE = ROOT / "tests" / "support" / "ports"


def load(port: str, folder: Path, planted: Planted | None = None):
    """A port as a module, with what is planted in it; its file and the number of the line to be found."""
    source = (HERE / f"{port}_port.py").read_text("utf-8")
    line = 0
    if planted is not None:
        assert source.count(planted.right) == 1, f"{planted.right!r} stands {source.count(planted.right)} times"
        source = source.replace(planted.right, planted.wrong)
        sought = planted.line or planted.wrong.strip()
        lines = [k for k, text in enumerate(source.splitlines(), 1) if sought in text]
        assert len(lines) == 1, lines
        line = lines[0]
    file = folder / f"{port}_port.py"
    file.write_text(source, "utf-8")
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{port}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, line


def models(folder: Path, planted: Planted | None, name: str):
    """Both ports, and the line that was changed."""
    torch_port, in_torch = load("torch", folder, planted if planted and planted.port == "torch" else None)
    jax_port, in_jax = load("jax", folder, planted if planted and planted.port == "jax" else None)
    return getattr(torch_port, name)(), getattr(jax_port, name)(rngs=nnx.Rngs(0)), in_torch or in_jax


def inputs(name: str) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    if name == "Loss":
        return [rng.standard_normal((4, 7)), rng.integers(0, 5, 4)]
    return [rng.standard_normal((3, 8, 8, 3))]


@pytest.fixture(autouse=True)
def random_weights():
    import torch

    torch.manual_seed(0)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["Net", "Loss"])
def test_the_ports_are_the_same(name, train, tmp_path):
    a, b, _ = models(tmp_path, None, name)
    report = check(a, b, inputs(name), train=train)
    assert report.verdict == "same", report


def some_by_default(cases: list, every: int) -> list:
    """All cases; only each ``every``-th runs by default, the others with ``-m long``."""
    return [pytest.param(case, marks=() if k % every == 0 else pytest.mark.long) for k, case in enumerate(cases)]


CASES = [
    *((each, "forward") for each in FORWARD),
    *((each, "backward") for each in BACKWARD),
    *((each, "") for each in TRAINING),
]


@pytest.mark.parametrize("case", some_by_default(CASES, 6), ids=lambda case: str(case[0]))
def test_a_planted_difference_is_found(case, tmp_path):
    planted, direction = case
    a, b, line = models(tmp_path, planted, planted.model)
    # a leaf that is stated keeps its order: otherwise another order of flattening is repaired
    mapping = {"hidden/kernel": "hidden.weight"} if planted.name == "flatten-order" else None
    report = check(a, b, inputs(planted.model), train=not direction, mapping=mapping)
    assert report.verdict == "different", report
    first = report.first
    assert first.direction == (direction or planted.direction), report
    named = first.a if planted.port == "torch" else first.b
    assert named == f"{planted.port}_port.py:{line}", report
    assert re.search(planted.hint, f"{first.hint} {first.pattern}"), report


@pytest.mark.parametrize("planted", [each for each in FORWARD if each.name == "flatten-order"], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_weights_follow_the_order_of_flattening(planted, turned, tmp_path):
    a, b, _ = models(tmp_path, planted, "Net")
    report = check(*((b, a) if turned else (a, b)), inputs("Net"))
    assert report.verdict == "same", report
    assert any(re.search(r"hidden.*features reordered, as a flattens images of \(6, 6, 6\)", n) for n in report.notes)


def adam(**arguments):
    import torch

    return lambda parameters: torch.optim.Adam(parameters, lr=1e-3, **arguments)


def optimizers():
    """Pairs of a PyTorch optimizer and one of optax, and what the hint says of them; "" if they are the same."""
    import optax
    import torch

    def sgd(**arguments):
        return lambda parameters: torch.optim.SGD(parameters, lr=0.01, **arguments)

    def adamw(parameters):
        return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)

    return {
        "adam": (adam(), optax.adam(1e-3), ""),
        "adamw": (adamw, optax.adamw(1e-3, weight_decay=0.01), ""),
        "momentum": (sgd(momentum=0.9), optax.sgd(0.01, momentum=0.9), ""),
        "adam-eps": (adam(eps=1e-3), optax.adam(1e-3), r"Adam with ε = 1.0e-03; b by Adam with ε"),
        "adamw-l2": (adam(weight_decay=0.01), optax.adamw(1e-3, weight_decay=0.01), "Adam with L2 0.01.*AdamW with"),
        "nesterov": (sgd(momentum=0.9, nesterov=True), optax.sgd(0.01, momentum=0.9), "SGD|learning rate"),
        "dampening": (sgd(momentum=0.9, dampening=0.5), optax.sgd(0.01, momentum=0.9), "momentum convention"),
    }  # fmt: skip


@pytest.mark.parametrize("name", some_by_default([*optimizers()], 4))
def test_optimizers(name, tmp_path):
    first, second, hint = optimizers()[name]
    a, b, _ = models(tmp_path, None, "Net")
    report = check(a, b, inputs("Net"), steps=3, optimizer=(first, second))
    if not hint:
        assert report.verdict == "same", report
        assert any(row.note == "step 3" for row in report.rows)
        return
    assert report.verdict == "different"
    assert report.first.direction == "update"
    assert re.search(hint, report.first.hint), report

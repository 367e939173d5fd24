"""Differences planted in a port: the report names the line that was changed, and says what is wrong with it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from compare.ports import check

from .planted import BACKWARD, FORWARD, TRAINING, Planted

HERE = Path(__file__).parent


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


@pytest.mark.parametrize(
    ("planted", "direction"),
    [
        *((each, "forward") for each in FORWARD),
        *((each, "backward") for each in BACKWARD),
        *((each, "") for each in TRAINING),
    ],
    ids=str,
)
def test_a_planted_difference_is_found(planted, direction, tmp_path):
    a, b, line = models(tmp_path, planted, planted.model)
    report = check(a, b, inputs(planted.model), train=not direction)
    assert report.verdict == "different", report
    first = report.first
    assert first.direction == (direction or planted.direction), report
    named = first.a if planted.port == "torch" else first.b
    assert named == f"{planted.port}_port.py:{line}", report
    assert re.search(planted.hint, f"{first.hint} {first.pattern}"), report

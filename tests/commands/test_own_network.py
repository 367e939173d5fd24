"""Networks of the user: one file for every command, and what is said about a file that cannot be used."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.own_network import SMALL
from support.paths import ROOT

from compare import export, networks, overrides, predict, presets, run_all
from compare.checkpoint import store
from compare.config import Config
from compare.errors import UserError
from compare.parity import __main__ as parity
from compare.parity.check import check_parity
from compare.training.flops import training_flops
from compare.weights.npz import WeightsError
from compare.weights.open import open_network
from numpy_nn.tree import leaves


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write the small network, with replacements, under a name that no other test has loaded."""

    def write(*changes: tuple[str, str], name: str = "small.py") -> Path:
        text = SMALL
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        (tmp_path / name).write_text(text, "utf-8")
        return tmp_path / name

    return write


def of_file(file: Path, **changes: object) -> Config:
    return dataclasses.replace(presets.chosen([], file)[0], **changes)


def printed_files() -> dict[str, str]:
    """The complete files of the page, by name."""
    page = (ROOT / "docs/own-network.md").read_text("utf-8")
    return {name: text for text, name in re.findall(r"```python\n(# (\w+\.py).*?)```", page, re.DOTALL)}


# --- the page ---------------------------------------------------------------------------------------------------------

TINY = {
    "gru.py": {"input_shape": (6, 5, 2), "hidden": 4, "classes": 3},
    "convmixer.py": {"input_shape": (8, 8, 3), "patch": 2, "dim": 6, "depth": 2, "kernel": 3, "classes": 4},
}


@pytest.mark.parametrize("name", TINY)
def test_networks_of_the_page_are_the_same_in_all_their_tracks(name, tmp_path):
    (tmp_path / name).write_text(printed_files()[name], "utf-8")
    config = of_file(tmp_path / name, model_args=TINY[name], precision="float64")
    overrides.require_arguments(config)
    tracks = networks.available(config.model, ["numpy", "jax", "torch"], asked=False)
    assert tracks == (["jax", "torch"] if name == "convmixer.py" else ["numpy", "jax", "torch"])
    rows = check_parity(config, tracks, steps=4)
    assert len(rows) == (1 if name == "convmixer.py" else 3)
    assert all(row["passed"] for row, _ in rows), rows


# --- every command ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_run_all_trains_it_and_other_commands_read_it(write, tmp_path, monkeypatch, capsys):
    file = write()
    monkeypatch.chdir(tmp_path)  # a path is relative to where the user stands
    arguments = ["--network", "small.py", "--steps", "3", "--no-mlflow", "--out", "run", "--tracks", "numpy", "torch"]
    assert run_all.main(arguments) == 0
    results = json.loads((tmp_path / "run/results.json").read_text("utf-8"))
    assert {run["preset"] for run in results["runs"]} == {"small"}
    assert all(run["config"]["model"] == str(file) for run in results["runs"])
    assert [row["passed"] for row in results["parity"]] == [True, True]  # in float64 and in float32
    losses = [run["step_loss"] for run in results["runs"]]
    assert np.allclose(losses[0], losses[1], rtol=1e-5)

    folder = tmp_path / "run/checkpoints/small-torch-seed0"
    assert store.restore(folder)[1]["config"]["network_digest"] == networks.digest(str(file))
    with pytest.raises(WeightsError, match=rf"add --network {re.escape(str(file))}, which runs that file"):
        open_network(folder)
    seven = str(ROOT / "checkpoints/shipped/seven.png")
    arguments = [seven, "--checkpoint", str(folder), "--network", "small.py", "--tracks", "all"]
    assert predict.main(arguments) == 0
    gap = re.search(r"largest difference of a probability between the tracks: (\S+)", capsys.readouterr().out)
    assert gap is not None
    assert float(gap[1]) < 1e-5
    for how in ("safetensors", "npz"):
        assert export.main([str(folder), "--to", how, "--out", f"x.{how}", "--network", "small.py"]) == 0
    assert open_network(tmp_path / "x.npz", file).model == str(file)
    with pytest.raises(WeightsError, match=rf"holds a network of {re.escape(str(file))}: load it into the class Torch"):
        open_network(tmp_path / "x.safetensors", file)

    assert run_all.main(["--resume-from", str(folder), "--steps", "5", "--out", "more"]) == 2
    assert f"add --network {file}" in capsys.readouterr().err
    moved = file.rename(tmp_path / "moved.py")
    assert run_all.main(["--resume", "run"]) == 0  # everything is finished
    again = ["--resume-from", str(folder), "--network", "moved.py", "--steps", "5", "--tracks", "jax"]
    assert run_all.main([*again, "--no-mlflow", "--out", "more"]) == 0
    moved.write_text(moved.read_text("utf-8") + "\n", "utf-8")
    assert run_all.main([*again, "--out", "other"]) == 2
    assert "has changed: its SHA-256 was" in capsys.readouterr().err


@pytest.mark.long
def test_nothing_is_trained_unless_the_tracks_are_the_same(write, tmp_path, capsys):
    file = write(("return self.output(x.reshape", "return 1.1 * self.output(x.reshape"))
    arguments = ["--network", str(file), "--steps", "3", "--no-mlflow", "--out", str(tmp_path / "run")]
    assert run_all.main([*arguments, "--tracks", "jax", "torch"]) == 1
    results = json.loads((tmp_path / "run/results.json").read_text("utf-8"))
    assert [run["status"] for run in results["runs"]] == ["not started", "not started"]
    assert "nothing is trained or timed, because the tracks are not the same network" in capsys.readouterr().out


def test_the_parity_check_names_the_line(write, capsys):
    file = write(("return self.output(x.reshape", "return 1.1 * self.output(x.reshape"))
    assert parity.main(["--network", str(file), "--tracks", "jax", "torch", "--steps", "1"]) == 1
    told = capsys.readouterr().out
    (line,) = [k for k, text in enumerate(file.read_text("utf-8").splitlines(), 1) if "return 1.1 *" in text]
    assert re.search(rf"a \(Flax NNX\)  small.py:{line}\n      return 1.1 \* self.output", told)
    assert "constant factor" in told


def test_flops_are_those_of_the_same_network_of_the_project(write):
    own = of_file(write())
    built_in = dataclasses.replace(own, model="mlp", model_args={"hidden": ()})
    assert training_flops(own) == training_flops(built_in) > 0


def test_flops_of_a_network_of_texts_are_counted(tmp_path):
    file = tmp_path / "text.py"
    file.write_text("from numpy_nn.models.gpt import GPT as Numpy\nfrom torch_nn.models.gpt import GPT as Torch\n")
    own = of_file(file, dataset="shakespeare")
    expected = training_flops(dataclasses.replace(own, model="gpt"))
    assert expected < training_flops(own) < 1.05 * expected  # PyTorch computes q kᵀ again in the backward pass


def test_without_a_numpy_class_pytorch_draws_the_first_parameters(write):
    file = write(("class Numpy", "class Other"))
    draw = [networks.first_snapshot(str(file), {}, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    first, again, other = (leaves(each)["params/output/kernel"] for each in draw)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (784, 10)


# --- what cannot be used ----------------------------------------------------------------------------------------------


def test_a_missing_track_is_left_out_unless_it_was_asked_for(write, capsys):
    file = write(("class Numpy", "class Other"))
    assert networks.available(str(file), ["numpy", "jax", "torch"], asked=False) == ["jax", "torch"]
    assert parity.main(["--network", str(file), "--tracks", "numpy", "jax"]) == 2
    assert "has no class Numpy: choose --tracks jax torch" in capsys.readouterr().err


SIGNATURE = "def __init__(self, *, input_shape=(28, 28, 1), classes=10, rngs"
UNUSABLE = {
    r'does not import:\n  File ".*small.py", line 2, in <module>\n': [("import numpy as np", "import numpyy")],
    r'does not import:\n  File .*small.py", line 7\n.*\n.*\nSyntaxError': [("class Torch", "class Torch)")],
    "needs two of the classes .* and has only Numpy": [("class Torch", "class A"), ("class Jax", "class B")],
    r"Jax has other parameters than Numpy:\n  missing output/kernel \(784, 10\)\n": [
        ("self.output = nnx", "self.head = nnx"),
        ("self.output(x", "self.head(x"),
    ],
    r"Torch cannot be made:\nTypeError: act \(PReLU\) has parameters without a layout: weight. State their paths": [
        ("        super().__init__()\n", "        super().__init__()\n        self.act = nn.PReLU()\n"),
    ],
    r"Torch cannot be made:\nTypeError: Torch.names: the model has no parameter head.offset": [
        ('"output/bias": "head.bias"', '"output/bias": "head.offset"'),
        ("nn.Linear(h * w * c, classes)", "nn.Linear(h * w * c, classes, bias=False)"),
    ],
    "Jax and Numpy differ in the argument or default classes": [("classes=10, rngs", "classes=12, rngs")],
    "Jax and Numpy differ in the argument or default bias": [("classes=10, rngs", "classes=10, bias=None, rngs")],
    "Jax needs the keyword argument input_shape": [(SIGNATURE, "def __init__(self, *, classes=10, rngs")],
    "Jax takes input_shape: it must be a keyword argument with a default": [
        (SIGNATURE, SIGNATURE.replace("*, input_shape=(28, 28, 1)", "input_shape=(28, 28, 1), *"))
    ],
    r'Torch cannot be made:\n  File ".*small.py", line 11, in __init__\n    1 / 0\n': [
        ("        super().__init__()\n", "        super().__init__()\n        1 / 0\n")
    ],
}


@pytest.mark.parametrize(("message", "changes"), UNUSABLE.items())
def test_files_that_cannot_be_used(write, message, changes):
    with pytest.raises(UserError, match=message):
        overrides.require_arguments(of_file(write(*changes)))


def test_a_file_that_is_not_there_and_two_presets(tmp_path, capsys):
    assert run_all.main(["--network", str(tmp_path / "none.py")]) == 2
    assert "none.py: no such file" in capsys.readouterr().err
    assert run_all.main(["mlp-mnist", "cnn-mnist", "--network", str(tmp_path / "none.py")]) == 2
    assert "--network takes the settings of one preset, not of 2" in capsys.readouterr().err

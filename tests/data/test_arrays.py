"""Arrays of the user as a dataset: what is accepted gives the same bytes, and what is not is named with its remedy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from support.paths import ROOT

import jax_nn.train
import numpy_nn.train
import torch_nn.train
from compare import cli, generate, run_all
from compare.config import Config
from compare.data import load
from compare.errors import UserError
from compare.overrides import fitted
from numpy_nn.models import MODELS


def arrays(rng: np.random.Generator, n: int = 60) -> dict[str, np.ndarray]:
    y = np.arange(n) % 3
    x = (rng.integers(0, 100, (n, 6, 5, 2)) + 60 * y[:, None, None, None]).astype(np.uint8)
    return {"x": x, "y": y}


def saved(folder: Path, **found: Any) -> str:
    np.savez(folder / "own.npz", **found)
    return str(folder / "own.npz")


# --- accepted ---------------------------------------------------------------------------------------------------------


def test_a_sixth_of_each_class_is_the_test_set_for_every_seed(rng, tmp_path):
    name = saved(tmp_path, **arrays(rng))
    data, other = load(name, seed=0), load(name, seed=1)
    assert (len(data.train_x), len(data.val_x), len(data.test_x)) == (46, 5, 9)
    assert np.bincount(data.test_y).tolist() == [3, 3, 3]
    assert np.array_equal(data.test_x, other.test_x)
    assert not np.array_equal(data.val_x, other.val_x)
    assert data.classes == ("class 0", "class 1", "class 2")
    assert "a sixth of each class" in data.describe()


def test_parts_stay_as_they_are_given(rng, tmp_path):
    found = arrays(rng)
    x, y = found["x"], found["y"]
    parts = {
        "x_train": x[:30],
        "y_train": y[:30],
        "x_val": x[30:40],
        "y_val": y[30:40],
        "x_test": x[40:],
        "y_test": y[40:],
    }
    data = load(saved(tmp_path, **parts, classes=np.array(["a", "b", "c"])))
    for part in ("train", "val", "test"):
        assert np.array_equal(getattr(data, f"{part}_x"), parts[f"x_{part}"])
        assert np.array_equal(getattr(data, f"{part}_y"), parts[f"y_{part}"])
    assert (data.classes, data.note, data.train_y.dtype) == (("a", "b", "c"), "", np.int32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("labels", [np.uint8, np.int64, np.uint32])
def test_floats_from_0_to_1_become_the_same_bytes(dtype, labels, rng, tmp_path):
    found = arrays(rng)
    exact = load(saved(tmp_path, **found))
    data = load(saved(tmp_path, x=(found["x"] / 255).astype(dtype), y=found["y"].astype(labels)))
    assert np.array_equal(data.train_x, exact.train_x)
    assert np.array_equal(data.test_y, exact.test_y)
    assert "rounded to the 256 values of a byte" in data.note


def test_grey_images_without_a_channel_get_one_and_capitals_do_not_matter(rng, tmp_path, monkeypatch):
    found = arrays(rng)
    Path(saved(tmp_path, x=found["x"][..., 0], y=found["y"])).rename(tmp_path / "OWN.NPZ")
    monkeypatch.chdir(tmp_path)
    assert load(cli.dataset("OWN.NPZ")).train_x.shape[1:] == (6, 5, 1)


def test_a_function_gives_arrays_and_a_path_is_relative(rng, tmp_path, monkeypatch):
    page = (ROOT / "docs/data.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(# arrays.py.*?)```", page, re.DOTALL)
    (tmp_path / "arrays.py").write_text(block, "utf-8")
    monkeypatch.chdir(tmp_path)
    data = load(cli.dataset("arrays.py:stripes"))
    assert (data.name, data.train_x.shape[1:]) == (f"{tmp_path}/arrays.py:stripes", (16, 16, 1))
    assert data.classes == ("rows", "columns")


def test_the_network_is_fitted_to_the_arrays(rng, tmp_path, capsys):
    config = fitted(Config(preset="p", model="mlp", dataset=saved(tmp_path, **arrays(rng))))
    assert config.model_args == {"input_shape": (6, 5, 2), "classes": 3}
    assert "46 training, 5 validation and 9 test images of 6x5x2 in 3 classes" in capsys.readouterr().out
    assert fitted(Config(preset="p", model="mlp", dataset="mnist")).model_args == {}


def sequences(rng: np.random.Generator, n: int = 60, t: int = 6) -> dict[str, np.ndarray]:
    """The letters of a song that goes on and on: each is followed by the next one, the last by the first."""
    start = rng.integers(0, 5, (n, 1))
    x = (start + np.arange(t)) % 5
    return {"x": x, "y": (x + 1) % 5, "classes": np.array(list("do re"))}


def test_tokens_have_a_label_each_and_their_order_is_kept(rng, tmp_path):
    found = sequences(rng)
    data = load(saved(tmp_path, **found))
    assert (len(data.train_x), len(data.val_x), len(data.test_x)) == (45, 5, 10)
    assert np.array_equal(data.test_x, found["x"][50:])
    assert np.array_equal(data.test_y, found["y"][50:])
    assert (data.train_x.dtype, data.train_y.dtype, data.labels_per_example) == (np.uint8, np.int32, 6)
    assert (data.classes, data.mean, data.std) == (tuple("do re"), (0.0,), (1.0,))
    assert "10 test sequences of 6 tokens, of 5 different ones (the last sixth of the sequences" in data.describe()


def test_the_windows_of_a_text_are_read(tmp_path, monkeypatch):
    page = (ROOT / "docs/data.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(# letters.py.*?)```", page, re.DOTALL)
    (tmp_path / "letters.py").write_text(block, "utf-8")
    (tmp_path / "my-text.txt").write_text("où va la mer? " * 50, "utf-8")
    monkeypatch.chdir(tmp_path)
    data = load(cli.dataset("letters.py:windows"), val_size=0)
    assert (data.train_x.shape, data.test_x.shape) == ((9, 64), (1, 64))
    text = "".join(data.classes[token] for token in data.train_x.ravel())
    assert text == ("où va la mer? " * 50)[: 9 * 64]
    assert np.array_equal(data.train_y.ravel()[:-1], data.train_x.ravel()[1:])


def test_the_vocabulary_has_each_token_and_each_label(rng, tmp_path):
    data = load(saved(tmp_path, x=np.array([[0, 7], [1, 2]] * 4), y=np.array([[2, 1], [1, 0]] * 4)))
    assert data.classes == tuple(f"token {k}" for k in range(8))
    assert fitted(Config(preset="p", model="gpt", dataset=data.name)).model_args == {"input_shape": (2,), "classes": 8}


@pytest.mark.long
def test_a_gpt_learns_tokens_and_writes_them(rng, tmp_path, monkeypatch, capsys):
    saved(tmp_path, **sequences(rng, n=600))
    monkeypatch.chdir(tmp_path)
    arguments = ["gpt-text", "--dataset", "own.npz", "--tracks", "numpy", "--batch-size", "20", "--steps", "60"]
    small = [
        "--set",
        "model_args.dim=16",
        "model_args.mlp_dim=32",
        "model_args.depth=1",
        "model_args.heads=2",
        "lr=0.01",
    ]
    assert run_all.main([*arguments, *small, "--skip-parity", "--no-mlflow", "--out", "run"]) == 0
    (run,) = json.loads((tmp_path / "run/results.json").read_text("utf-8"))["runs"]
    assert (run["test_accuracy"], run["test_count"]) == (1.0, 600)
    assert "bits" in (report := (tmp_path / "run/report.md").read_text("utf-8"))
    assert "per token" in report
    capsys.readouterr()
    checkpoint = "run/checkpoints/gpt-text-numpy-seed0"
    assert generate.main(["--checkpoint", checkpoint, "--prompt", "do", "--length", "8", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.strip() == "do redo re"
    assert generate.main(["--checkpoint", checkpoint, "--prompt", "fa"]) == 2
    assert "the prompt holds 'a', which is none of the network's 5 characters" in capsys.readouterr().err


@pytest.mark.long
def test_run_all_learns_them(rng, tmp_path, monkeypatch, capsys):
    saved(tmp_path, **arrays(rng, n=600))
    monkeypatch.chdir(tmp_path)
    arguments = ["mlp-mnist", "--dataset", "own.npz", "--tracks", "numpy", "--batch-size", "20", "--epochs", "3"]
    assert run_all.main([*arguments, "--set", "model_args.hidden=[8]", "--no-mlflow", "--out", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tracks"][0]["test_accuracy"]["mean"] > 0.9
    (run,) = json.loads((tmp_path / "run/results.json").read_text("utf-8"))["runs"]
    assert run["dataset"] == f"{tmp_path}/own.npz"
    assert run["test_accuracy"] > 0.9


# --- refused ----------------------------------------------------------------------------------------------------------


def same(array: np.ndarray) -> np.ndarray:
    return array


REFUSED = [  # changes of x and y, and what is said about them
    (lambda x: x.astype(int), same, r"x has the dtype int64 and numbers from 0 to \d+: write x.astype\(np.uint8\)"),
    (lambda x: x.astype(np.float32), same, r"x has the dtype float32 and .*: write x.astype\(np.uint8\)"),
    (lambda x: x.astype(np.uint16) * 257, same, r"x has the dtype uint16 and .*: write \(x >> 8\).astype\(np.uint8\)"),
    (lambda x: x / 127.5 - 1, same, r"numbers from -1 to .*: expected uint8, or floats from 0 to 1"),
    (lambda x: x / 255 / 255, same, "almost black: were they divided by 255 twice"),
    (lambda x: x * np.nan, same, "x holds NaN or infinity"),
    (lambda x: x > 100, same, r"x has the dtype bool: write 255 \* x.astype\(np.uint8\)"),
    (lambda x: x.astype(str), same, r"x has the dtype <U\d: expected uint8"),
    (lambda x: x.reshape(60, -1), same, r"x has the shape \(60, 60\): expected images \(n, height, width"),
    (lambda x: np.zeros((60, 3, 8, 8), np.uint8), same, r"channels first: write x.transpose\(0, 2, 3, 1\)"),
    (same, lambda y: np.eye(3)[y], r"y has .*, one-hot: write y.argmax\(axis=1\)"),
    (same, lambda y: y[:, None], r"shape \(60, 1\): write y\[:, 0\]"),
    (same, lambda y: y.astype(float), r"y has the dtype float64.*: write y.astype\(np.int32\)"),
    (same, lambda y: y.astype(str), r"np.unique\(y, return_inverse=True\) counts names"),
    (same, lambda y: y - 1, "y has class numbers from -1 to 1: count the classes from 0"),
    (same, lambda y: y + 1, "no training images of class 0: count the classes from 0, without gaps"),
    (same, lambda y: y[:50], "60 images in x and 50 labels in y"),
    (same, lambda y: 0 * y, "has one class only: two are needed"),
]


@pytest.mark.parametrize(("of_x", "of_y", "message"), REFUSED, ids=[message[:40] for *_, message in REFUSED])
def test_arrays_that_cannot_be_told_to_be_right_are_refused(of_x, of_y, message, rng, tmp_path):
    found = arrays(rng)
    name = saved(tmp_path, x=of_x(found["x"]), y=of_y(found["y"]))
    with pytest.raises(UserError, match=re.escape(name) + ": .*" + message):
        load(name)


def test_names_of_classes_are_text_and_differ(rng, tmp_path):
    names = np.array(["cat", "dög", "owl"])
    encoded = np.array([each.encode() for each in names])
    assert load(saved(tmp_path, **arrays(rng), classes=encoded)).classes == tuple(names)
    with pytest.raises(UserError, match="has two classes called 'cat'"):
        load(saved(tmp_path, **arrays(rng), classes=np.array(["cat", "dog", "cat"])))


TOKENS_REFUSED = [  # changes of x and y, and what is said about them
    (lambda x: x + 300, same, "x has tokens from 30[0-4] to 304: expected 0 to 255"),
    (lambda x: x - 1, same, "x has tokens from -1 to 3"),
    (same, lambda y: y.astype(float), r"y has the dtype float64 .*: write y.astype\(np.uint8\)"),
    (same, lambda y: y - 1, "y has tokens from -1 to 3"),
    (same, lambda y: y[:, :3], r"tokens of the shape \(60, 6\) in x and labels of the shape \(60, 3\) in y"),
    (same, lambda y: y[:, 0], r"expected images .*, or tokens \(n, t\) as integers, with labels \(n, t\)"),
    (lambda x: x / 2, same, r"expected images .*, or tokens \(n, t\) as integers, with labels \(n, t\)"),
    (lambda x: x[:1], lambda y: y[:1], "has one sequence, but two are needed"),
]


@pytest.mark.parametrize(("of_x", "of_y", "message"), TOKENS_REFUSED, ids=[each[2][:40] for each in TOKENS_REFUSED])
def test_tokens_that_cannot_be_told_to_be_right_are_refused(of_x, of_y, message, rng, tmp_path):
    found = sequences(rng)
    name = saved(tmp_path, x=of_x(found["x"]), y=of_y(found["y"]))
    with pytest.raises(UserError, match=re.escape(name) + ": .*" + message):
        load(name)


def test_arrays_of_other_names_and_parts_are_refused(rng, tmp_path):
    found = arrays(rng)
    x, y = found["x"], found["y"]
    parts = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    for given, message in (
        ({"x": x}, "lacks y: expected x and y, or x_train"),
        ({"x": x, "y": y, "z": y}, "has unknown arrays z"),
        ({"x": x, "y": y, "x_test": x}, "has x_test beside x, y"),
        (parts | {"x_test": x[:, :4]}, r"has images of \(4, 5, 2\) in x_test and of \(6, 5, 2\) in x_train"),
        ({"x": x, "y": y, "classes": ["a", "b"]}, "names 2 classes, and the labels go up to 2: name 3"),
    ):
        with pytest.raises(UserError, match=message):
            load(saved(tmp_path, **given))


def test_files_that_hold_no_arrays_are_named(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    (tmp_path / "make.py").write_text("def none():\n    return 3\ndef fails():\n    return {}['x']\n")
    np.savez(tmp_path / "objects.npz", x=np.array([{}]), y=np.zeros(1))
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    for name, message in {
        "absent.npz": "no such file",
        "bad.npz": r"cannot be read as arrays \(.*\): write it with np.savez",
        "objects.npz": "cannot be read as arrays .*allow_pickle",
        "single.npz": "cannot be read as arrays .*a single array, as np.save writes it",
        "make.py:none": "returns int: return a dictionary with x and y",
        "make.py:fails": r"fails\(\) of .* raises:\n  File \".*make.py\", line 4, in fails\n",
        "make.py:absent": "has no function 'absent'; it has: none, fails",
    }.items():
        with pytest.raises(UserError, match=message):
            load(str(tmp_path / name))


# --- a track alone ----------------------------------------------------------------------------------------------------

TRACKS = {"numpy": numpy_nn.train, "jax": jax_nn.train, "torch": torch_nn.train}


def small_state(track: Any) -> Any:
    args = {"input_shape": (6, 5, 2), "hidden": (4,), "classes": 3}
    snapshot = MODELS["mlp"](**args).init(np.random.default_rng(0))
    return track.init_state(
        snapshot, model="mlp", model_args=args, mean=(0.4, 0.4), std=(0.2, 0.2), schedule_args={"lr": 0.1, "steps": 2}
    )


@pytest.mark.parametrize("track", TRACKS.values(), ids=TRACKS)
def test_a_track_takes_labels_of_any_integers_and_refuses_images_of_floats(track, rng, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of the tests
    found = arrays(rng)
    x, y = found["x"][None], found["y"][None].astype(np.int32)
    _, expected = track.train_steps(small_state(track), x, y)
    _, metrics = track.train_steps(small_state(track), x, y.astype(np.uint8))
    assert np.allclose(metrics["loss"], expected["loss"], rtol=1e-6)  # JAX: 6e-8, another program
    assert np.asarray(metrics["correct"]) == np.asarray(expected["correct"])
    for floats in ((x / 255).astype(np.float32), x.astype(np.float32)):
        for call in (
            lambda z: track.train_steps(small_state(track), z, y),
            lambda z: track.logits(small_state(track), z[0]),
        ):
            with pytest.raises(ValueError, match="images have dtype float32: expected uint8, 0 to 255"):
                call(floats)

"""Evaluation: figures worked out by hand, the same from every format and track, and questions that make no sense."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compare import data, tracks
from compare.data import Data
from compare.eval import __main__ as command
from compare.eval import figures, report
from compare.export import export
from compare.predict import SHIPPED
from compare.tracks import TRACKS
from compare.weights.network import Network
from compare.weights.npz import write_npz
from compare.weights.open import open_network
from numpy_nn.models import MODELS

IMAGES = 400


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> Data:
    """MNIST with fewer test images: what every evaluation here loads."""
    whole = data.load("mnist", val_size=0)
    few = Data(**{**vars(whole), "test_x": whole.test_x[:IMAGES], "test_y": whole.test_y[:IMAGES]})
    monkeypatch.setattr(data, "load", lambda name, **_: few)
    return few


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    status = command.main([*map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)


# --- figures by hand --------------------------------------------------------------------------------------------------


def test_calibration_error_is_that_worked_out_by_hand() -> None:
    confidence = np.array([0.55, 0.60, 0.95, 0.90, 1.00, 0.50])
    right = np.array([True, False, True, True, False, True])
    error, bins = figures.calibration(confidence, right, bins=10)
    # (0.4, 0.5]: 0.50, right          1/6 · |1   - 0.50 | = 0.50/6
    # (0.5, 0.6]: 0.55, 0.60, one of 2 2/6 · |1/2 - 0.575| = 0.15/6
    # (0.8, 0.9]: 0.90, right          1/6 · |1   - 0.90 | = 0.10/6
    # (0.9, 1.0]: 0.95, 1.00, one of 2 2/6 · |1/2 - 0.975| = 0.95/6
    assert error == pytest.approx(1.70 / 6)
    assert [each["count"] for each in bins] == [0, 0, 0, 0, 1, 2, 0, 0, 1, 2]
    assert bins[5]["confidence"] == pytest.approx(0.575)
    assert bins[5]["accuracy"] == 0.5
    assert bins[0]["confidence"] is None


def test_figures_are_those_worked_out_by_hand() -> None:
    three = math.log(3)
    logits = np.array([[three, 0, -99], [0, three, -99], [three, 0, -99], [-99, 0, three]])
    found = figures.figures(logits, np.array([0, 0, 0, 2]), ["a", "b", "c"])
    assert found["correct"] == 3
    assert found["accuracy"] == 0.75
    assert found["loss"] == pytest.approx((3 * math.log(4 / 3) + math.log(4)) / 4)
    assert found["confusion"] == [[2, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert found["classes"] == [
        {"name": "a", "precision": 1.0, "recall": pytest.approx(2 / 3), "support": 3},
        {"name": "b", "precision": 0.0, "recall": None, "support": 0},
        {"name": "c", "precision": 1.0, "recall": 1.0, "support": 1},
    ]
    assert found["ece"] == pytest.approx(0, abs=1e-12)  # 3 of 4 at a confidence of 3/4


def test_images_on_which_tracks_differ_are_named_with_their_margins() -> None:
    a = np.array([[1.0, 0.0], [0.0, 2.0], [5.0, 5.25]])
    b = np.array([[1.0, 0.0], [0.0, 2.0], [5.0, 4.5]])
    (image,) = figures.disagreements({"numpy": a, "jax": b}, np.array([0, 1, 1]), ["x", "y"])
    assert image == {
        "index": 2,
        "label": "y",
        "tracks": {"numpy": {"prediction": "y", "margin": 0.25}, "jax": {"prediction": "x", "margin": 0.5}},
    }
    assert figures.largest_difference({"numpy": a, "jax": b}) == 0.75


# --- networks ---------------------------------------------------------------------------------------------------------


def test_all_tracks_agree_and_count_what_their_own_evaluation_counts(mnist: Data, capsys) -> None:
    path = SHIPPED / "cnn-mnist.npz"
    status, found = run(capsys, path, "--track", "all")
    assert status == 0
    assert found["agree"]
    assert list(found["tracks"]) == list(TRACKS)
    network = open_network(path)
    for name, each in found["tracks"].items():
        network.logits(mnist.test_x[:1], name)
        sums = tracks.load(name).eval_batch(network.states[name], mnist.test_x, mnist.test_y)
        assert (each["correct"], each["count"]) == (int(sums["correct"]), IMAGES)
        assert each["loss"] == pytest.approx(float(sums["loss_sum"]) / IMAGES, rel=1e-4)
        assert sum(map(sum, each["confusion"])) == IMAGES
    assert command.main([str(path), "--track", "all"]) == 0
    assert "Largest difference of a logit between the tracks" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["npz", "safetensors", "torch"])
def test_exported_files_have_the_figures_of_their_network(how: str, mnist: Data, tmp_path: Path, capsys) -> None:
    _, there = run(capsys, SHIPPED / "mlp-mnist.npz")
    file = export(SHIPPED / "mlp-mnist.npz", how, tmp_path / f"file.{how}")
    _, here = run(capsys, file, "--dataset", "mnist")
    assert here | {"network": ""} == there | {"network": ""}


def test_a_track_that_counts_otherwise_fails_and_is_shown(mnist: Data, monkeypatch, capsys) -> None:
    logits = Network.logits

    def wrong(self: Network, x: np.ndarray, track: str = "numpy") -> np.ndarray:
        found = np.array(logits(self, x, "numpy"))
        if track == "torch":
            found[3, :] = 0
            found[3, 9] = 1e-6
        return found

    monkeypatch.setattr(Network, "logits", wrong)
    assert command.main([str(SHIPPED / "cnn-mnist.npz"), "--tracks", "numpy,torch"]) == 1
    printed = capsys.readouterr().out
    label = mnist.test_y[3]
    assert "THE TRACKS DO NOT AGREE" in printed
    assert f"image 3, label {label}: numpy {label} (margin " in printed
    assert "torch 9 (margin 1.0e-06)" in printed


# --- folders, and questions that make no sense ------------------------------------------------------------------------


def pictures(root: Path, classes: str) -> Path:
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for n in range(6):
            Image.new("RGB", (12, 9), (40 * k, 255 - 40 * k, 20 * n)).save(root / name / f"{n}.png")
    return root


def small(path: Path, classes: list[str]) -> Path:
    """A network of random numbers for colour images of 6 x 6."""
    args: dict[str, Any] = {"input_shape": (6, 6, 3), "hidden": (4,), "classes": len(classes) or 3}
    snapshot = MODELS["mlp"](**args).init(np.random.default_rng(0))
    meta = {"config": {"model": "mlp", "model_args": args, "dataset": "unknown"}, "classes": classes}
    write_npz(path, snapshot, meta | {"mean": [0.5] * 3, "std": [0.2] * 3})
    return path


def test_classes_of_a_folder_are_matched_by_name(tmp_path: Path, capsys) -> None:
    folder = pictures(tmp_path / "p", "abc")
    _, in_order = run(capsys, small(tmp_path / "1.npz", ["a", "b", "c"]), "--dataset", f"folder:{folder}")
    _, unnamed = run(capsys, small(tmp_path / "2.npz", []), "--dataset", f"folder:{folder}")
    _, reversed_ = run(capsys, small(tmp_path / "3.npz", ["c", "b", "a"]), "--dataset", f"folder:{folder}")
    confusion = np.array(in_order["tracks"]["numpy"]["confusion"])
    assert confusion.sum() == 3
    assert unnamed["tracks"]["numpy"]["confusion"] == confusion.tolist()
    assert "does not name its classes" in unnamed["note"]
    assert np.array_equal(reversed_["tracks"]["numpy"]["confusion"], confusion[::-1])
    assert in_order["note"] == ""


def test_arrays_without_names_of_classes_are_matched_by_number(tmp_path: Path, capsys) -> None:
    x, y = np.zeros((6, 6, 6, 3), np.uint8), np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    _, found = run(capsys, small(tmp_path / "1.npz", ["a", "b", "c"]), "--dataset", str(tmp_path / "x.npz"))
    assert [each["name"] for each in found["tracks"]["numpy"]["classes"]] == ["a", "b", "c"]
    assert found["note"] == "the dataset does not name its classes: they are taken in the order of the network's"


def test_classes_that_the_network_does_not_know_are_refused(tmp_path: Path, capsys) -> None:
    folder = pictures(tmp_path / "p", "abx")
    assert command.main([str(small(tmp_path / "n.npz", ["a", "b", "c"])), "--dataset", f"folder:{folder}"]) == 2
    error = capsys.readouterr().err
    assert "has classes that the network does not know: x. The network's are a, b, c." in error
    assert command.main([str(small(tmp_path / "m.npz", list("abcd"))), "--dataset", "mnist"]) == 2


def test_images_of_another_shape_are_refused(tmp_path: Path, capsys) -> None:
    assert command.main([str(small(tmp_path / "n.npz", list("abc"))), "--dataset", "mnist"]) == 2
    assert "mnist has images of 28x28x1 in 10 classes, and the network takes images of 6x6x3" in capsys.readouterr().err


def test_missing_datasets_and_files_are_named(tmp_path: Path, capsys) -> None:
    file = str(small(tmp_path / "n.npz", list("abc")))
    for arguments, problem in (
        ([file], "choose a dataset with --dataset"),
        ([file, "--dataset", f"folder:{tmp_path}/none"], "no such folder"),
        ([file, "--dataset", "mnits"], "unknown dataset 'mnits'. Did you mean mnist? Known: mnist, "),
        ([str(tmp_path / "none.npz"), "--dataset", "mnist"], "none.npz: there is no such file"),
    ):
        assert command.main(arguments) == 2
        assert problem in capsys.readouterr().err


def test_state_dict_without_a_description_is_answered_with_the_import(tmp_path: Path, capsys) -> None:
    import torch

    torch.save({"w": torch.zeros(2)}, tmp_path / "w.pt")
    assert command.main([str(tmp_path / "w.pt"), "--dataset", "mnist"]) == 2
    assert "import it with --model NAME" in capsys.readouterr().err


def test_many_classes_are_summed_up() -> None:
    labels = np.arange(30)
    logits = np.eye(30)[(labels + (labels == 7)) % 30] * 5
    found = figures.figures(logits, labels, [f"c{k}" for k in range(30)])
    assert report.confusion(found) == ["     1  c7 as c8"]


def test_tokens_of_a_text_are_counted_one_by_one(tmp_path: Path, monkeypatch, capsys) -> None:
    args: dict[str, Any] = {"input_shape": (8,), "classes": 5, "dim": 8, "depth": 1, "heads": 2}
    snapshot = MODELS["gpt"](**args).init(np.random.default_rng(0))
    meta = {"config": {"model": "gpt", "model_args": args, "dataset": "text"}, "mean": [0.0], "std": [1.0]}
    write_npz(tmp_path / "gpt.npz", snapshot, meta | {"classes": list("abcde")})
    windows = np.random.default_rng(1).integers(0, 5, (7, 9), np.uint8)
    x, y = windows[:, :-1], windows[:, 1:].astype(np.int32)
    text = Data(name="text", train_x=x, train_y=y, test_x=x, test_y=y, classes=tuple("abcde"), mean=(0.0,), std=(1.0,))
    monkeypatch.setattr(data, "load", lambda name, **_: text)
    status, found = run(capsys, tmp_path / "gpt.npz", "--tracks", "numpy", "torch")
    assert (status, found["counted"], found["agree"]) == (0, "tokens", True)
    for each in found["tracks"].values():
        assert each["count"] == y.size
        assert np.sum(each["confusion"], axis=1).tolist() == np.bincount(y.ravel(), minlength=5).tolist()

"""What the playground computes: steps of both passes, units, test images, and a training of its own."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.own_network import SMALL
from support.paths import ROOT
from support.small_training import CONFIG, separable

from compare import presets, tracks
from compare.checkpoint import store
from compare.cli import SHIPPED
from compare.data import Data
from compare.errors import UserError
from compare.networks import first_snapshot
from compare.play import gradients, labelled
from compare.play.activations import recorded, shown
from compare.play.answers import Playground, Question
from compare.play.labelled import LabelledImages
from compare.play.steps import described, walk
from compare.play.units import unit
from compare.predict import load, load_image
from compare.results.arrays import unpack
from compare.training import loop
from compare.training.steps import Plan
from compare.weights.network import Network
from compare.weights.npz import WeightsError, write_npz
from numpy_nn.conv import conv2d_forward
from numpy_nn.models import MODELS
from numpy_nn.train import preprocess
from numpy_nn.tree import leaves

SEVEN = SHIPPED / "seven.png"
PICTURES = [name for name in MODELS if name != "gpt"]  # which takes no pictures
SMALLER: dict[str, Any] = {"vit": {"depth": 2}, "resnet": {"stages": (1, 1, 1)}, "densenet": {"blocks": (1, 1)}}


def untrained(name: str) -> Network:
    """A network with few blocks."""
    args = SMALLER.get(name, {})
    variables = MODELS[name](**args).init(np.random.default_rng(0))
    c = tracks.model_argument(name, args, "input_shape")[2]
    return Network(name, args, **variables, mean=(0.5,) * c, std=(0.2,) * c, classes=tuple("0123456789"))


def picture(network: Network) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, network.input_shape, np.uint8)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_steps_of_the_shipped_network():
    network = load().network
    x = load().prepare(load_image(SEVEN))
    steps, _ = walk(network, x, 7)
    forward = ["conv 5x5 1→16", "max pool", "relu", "conv 5x5 16→32", "max pool", "relu", "flatten"]
    forward += ["linear 512→128", "relu", "linear 128→10"]
    names = [step.name for step in steps]
    assert names == ["picture", *forward, *reversed(forward), "pixels"]
    assert [step.direction for step in steps] == ["forward"] * 11 + ["backward"] * 11
    batch = gradients.beside(x[None])
    pixels = preprocess(batch, np.asarray(network.mean, np.float32), np.asarray(network.std, np.float32))
    np.testing.assert_array_equal(steps[1].array, conv2d_forward(pixels, **network.params["convs"]["0"])[0])
    np.testing.assert_array_equal(steps[10].array, network.logits(batch))
    dlogits = np.eye(10, dtype=np.float32)[[7]]
    np.testing.assert_array_equal(steps[11].array, dlogits)
    np.testing.assert_array_equal(steps[12].array, dlogits @ network.params["output"]["kernel"].T)
    assert steps[11].parameters == ["output/kernel", "output/bias"]


@pytest.mark.parametrize("name", PICTURES)
def test_steps_reach_every_parameter_of_every_network(name):
    network = untrained(name)
    steps, grads = walk(network, picture(network), 3)
    assert sorted(path for step in steps for path in step.parameters) == sorted(leaves(grads))
    for step in steps[1:-1]:
        assert step.line
        file, number = step.line
        words = Path(file).read_text("utf-8").splitlines()[number - 1]
        assert step.function.__name__ in words or "act_" in words  # the activation that an argument chooses
    logits = next(step for step in reversed(steps) if step.direction == "forward")
    np.testing.assert_array_equal(logits.array, network.logits(gradients.beside(picture(network)[None])))


def test_details_of_a_step():
    network, x = load().network, load().prepare(load_image(SEVEN))
    step = described(network, x, 7, 1, ["numpy"])
    assert step["all"][1] == {"direction": "forward", "name": "conv 5x5 1→16"}
    assert (step["taken"], step["given"]) == ((1, 28, 28, 1), (1, 24, 24, 16))
    assert step["says"].startswith("y[n,p,q,o] = b[o] + Σ_{a,b,i} x[n, p·s + a, q·s + b, i]")
    for where, words in ((step["where"], "def conv2d_forward("), (step["line"]["where"], step["line"]["code"])):
        path, _, number = where.partition(":")
        assert (ROOT / path).read_text("utf-8").splitlines()[int(number) - 1].strip().startswith(words)
    assert "conv2d_forward(" in step["line"]["code"]
    values = walk(network, x, 7)[0][1].array
    assert sum(step["histogram"]["counts"]) == values.size
    assert (step["histogram"]["low"], step["histogram"]["high"]) == (values.min(), values.max())
    assert unpack(step["maps"]).shape == (16, 24, 24)
    assert step["parameters"] == []
    assert described(network, x, 7, 999, ["numpy"])["at"] == 21


@pytest.mark.parametrize("right", [True, False])
def test_gradients_of_parameters_agree_unless_one_is_wrong(right, monkeypatch):
    network, x = load().network, load().prepare(load_image(SEVEN))
    if not right:
        wrong = gradients.parameters_in_torch
        monkeypatch.setitem(
            gradients.PARAMETERS,
            "torch",
            lambda *given: {**wrong(*given), "output": {"kernel": np.ones((128, 10)), "bias": np.eye(10)[7]}},
        )
    kernel, bias = described(network, x, 7, 11, ["numpy", "torch"])["parameters"]
    assert (kernel["path"], kernel["shape"], bias["path"]) == ("output/kernel", (128, 10), "output/bias")
    assert (kernel["gap"]["largest"] < 1e-5 * kernel["gap"]["of"]) == right  # 3e-7
    assert bias["gap"]["largest"] < 1e-5


# --- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "at", "rows", "columns", "weights"),
    [
        (0, (3, 0, 0), [0, 5], [0, 5], (1, 5, 5)),  # a window of 2 x 2 kernels of 5 x 5
        (0, (3, 5, 11), [10, 15], [22, 27], (1, 5, 5)),
        (1, (31, 1, 3), [4, 19], [12, 27], (16, 5, 5)),
        (2, (5, 0, 0), [0, 27], [0, 27], (32, 4, 4)),
    ],
)
def test_receptive_field_and_weights_of_the_shipped_network(layer, at, rows, columns, weights):
    network = load().network
    known = unit(network, layer, at)
    assert (known["rows"], known["columns"]) == (rows, columns)
    assert unpack(known["weights"]).shape == weights
    if layer < 2:
        kernel = network.params["convs"][str(layer)]["kernel"][..., at[0]]
        np.testing.assert_allclose(
            unpack(known["weights"]) / 127 * known["largest"], kernel.transpose(2, 0, 1), atol=known["largest"] / 250
        )
        assert known["bias"] == network.params["convs"][str(layer)]["bias"][at[0]]


@pytest.mark.parametrize("name", ["lenet5", "resnet", "lstm", "vit"])
def test_no_pixel_outside_the_receptive_field_changes_a_unit(name):
    network, x = untrained(name), picture(untrained(name))
    layers = recorded(network, x)
    number = shown(layers)[0]
    y = layers[number].y[0]
    place = tuple(size // 3 for size in y.shape[:-1])
    known = unit(network, 0, (0, *place) if y.ndim == 3 else (0, place[0], 0))
    outside = np.full(x.shape, True)
    outside[known["rows"][0] : known["rows"][1] + 1, known["columns"][0] : known["columns"][1] + 1] = False
    assert outside.any()
    other = np.where(outside, 255 - x, x)
    np.testing.assert_allclose(recorded(network, other)[number].y[0][place], y[place], rtol=1e-6)
    for edge in (np.s_[known["rows"], :], np.s_[:, known["columns"]]):
        other = x.copy()
        other[edge] = 255 - other[edge]
        assert np.abs(recorded(network, other)[number].y[0][place] - y[place]).max() > 0


@pytest.mark.parametrize(("layer", "at"), [(3, (0, 0, 0)), (0, (16, 0, 0)), (0, (0, 12, 0)), (2, (128, 0, 0))])
def test_absent_unit_is_refused(layer, at):
    with pytest.raises(UserError, match=r"invalid layer 3: expected|no unit at map \d+, row \d+, column 0: expected"):
        unit(load().network, layer, at)


# --- test images and training -----------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Playground, Data]:
    """A playground with an untrained network for images made up here."""
    data = separable(np.random.default_rng(0))
    monkeypatch.setattr(labelled, "loaded", lambda *asked: data)
    snapshot = first_snapshot(CONFIG.model, CONFIG.model_args, np.random.default_rng(5))
    described = {"config": CONFIG.to_json(), "mean": data.mean, "std": data.std, "classes": data.classes}
    write_npz(tmp_path / "small.npz", snapshot, described)
    return Playground(["numpy", "torch"], tmp_path / "small.npz"), data


def ended(playground: Playground) -> Any:
    """The training, when it has ended."""
    training = playground.training
    assert training
    training.join()
    assert not training.running
    return training


def test_mistakes_come_one_after_the_other(small, monkeypatch):
    playground, data = small
    network = playground.predictor(playground.chosen).network
    wrong = np.flatnonzero(network.logits(data.test_x).argmax(axis=1) != data.test_y).tolist()
    assert 1 < len(wrong) < len(data.test_y)
    monkeypatch.setattr(labelled, "BATCH", 7)
    images, found = LabelledImages(network, "numpy"), [-1]
    for _ in wrong:
        found.append(images.next_mistake(found[-1]))
    assert found[1:] == wrong
    assert images.next_mistake(wrong[-1]) == wrong[0]
    images.predicted = data.test_y.copy()
    with pytest.raises(UserError, match="classifies all 50 test images correctly"):
        images.next_mistake(3)


def test_test_image_is_seen_as_it_is(small):
    playground, data = small
    index = playground.digit(playground.chosen, True, -1)["index"]
    said = playground.answer(playground.chosen, Question(digit=index))
    np.testing.assert_array_equal(unpack(said["seen"]), data.test_x[index])
    assert said["truth"] == data.classes[data.test_y[index]]
    assert said["classes"][int(np.argmax(said["tracks"]["numpy"]["probabilities"]))] != said["truth"]
    assert 0 <= playground.digit(playground.chosen, False, -1)["index"] < 50
    with pytest.raises(UserError, match="invalid test image 50: expected a number from 0 to 49"):
        playground.answer(playground.chosen, Question(digit=50))


def test_mistakes_need_a_known_dataset(tmp_path):
    snapshot = first_snapshot(CONFIG.model, CONFIG.model_args, np.random.default_rng(0))
    config = {"model": CONFIG.model, "model_args": CONFIG.model_args}
    write_npz(tmp_path / "bare.npz", snapshot, {"config": config, "mean": [0.5], "std": [0.2]})
    playground = Playground(["numpy"], tmp_path / "bare.npz")
    with pytest.raises(UserError, match="does not name the dataset"):
        playground.digit(playground.chosen, True, -1)
    with pytest.raises(UserError, match="does not say how it was trained"):
        playground.train(playground.chosen, "numpy", 10)


def test_training_here_is_that_of_the_project(small):
    playground, data = small
    playground.train(playground.chosen, "torch", 30)
    training = ended(playground)
    assert (training.state, training.message) == ("finished", "")
    config = dataclasses.replace(CONFIG, steps=30, keep_best=False)
    track = tracks.load("numpy")
    first = first_snapshot(config.model, config.model_args, np.random.default_rng(config.seed))
    arguments = tracks.state_arguments(config, "numpy", steps=30, threads=1)
    expected = loop.begin(track, config, data, first, schedule=Plan(30, 10, frozenset({30})), arguments=arguments)
    loop.train(expected)
    np.testing.assert_allclose(training.loss, expected.step_loss, rtol=1e-4)
    assert training.test_accuracy == pytest.approx(expected.last["test_accuracy"], abs=0.021)
    assert playground.listing()["here"] == {training.name: playground.chosen}
    after = playground.predictor(training.name).network
    for track_name in ("numpy", "torch"):
        logits = after.logits(data.test_x, track_name)
        np.testing.assert_allclose(logits, track.logits(expected.state, data.test_x), atol=1e-3)
    assert playground.answer(training.name, Question(digit=0))["gap"]["largest"] < 1e-5


def test_training_is_stopped_and_comes_alone(small):
    playground, _ = small
    with playground.turn:  # it waits for its turn
        playground.train(playground.chosen, "numpy", 2000)
        with pytest.raises(UserError, match="here/small-numpy is training: wait for its end, or stop it"):
            playground.train(playground.chosen, "torch", 10)
    while not playground.training.loss:
        time.sleep(0.01)
    with playground.turn:  # which it passes on after every chunk
        playground.answer(playground.chosen, Question(digit=0))
    assert playground.training.running
    playground.training.stop()
    training = ended(playground)
    assert training.state == "stopped"
    assert 0 < len(training.loss) < 2000
    assert playground.listing()["here"] == {}
    playground.train(playground.chosen, "numpy", 10)
    assert ended(playground).state == "finished"


def test_failed_training_says_why(small):
    playground, _ = small
    network = playground.predictor(playground.chosen).network
    network.meta["config"]["lr"] = 1e30
    playground.train(playground.chosen, "torch", 10)
    training = ended(playground)
    assert training.state == "failed"
    assert training.message == "the loss became nan at step 1; try a lower learning rate than 1e+30"
    with pytest.raises(UserError, match="invalid steps 0: expected a number from 1 to 2000"):
        playground.train(playground.chosen, "numpy", 0)


# --- a network of one's own -------------------------------------------------------------------------------------------


def test_network_of_a_file_is_played_with(tmp_path):
    file = tmp_path / "small.py"
    file.write_text(SMALL, "utf-8")
    config = presets.chosen([], file)[0]
    snapshot = first_snapshot(config.model, config.model_args, np.random.default_rng(0))
    meta = {"config": config.to_json(), "mean": [0.1], "std": [0.3]}
    store.save(tmp_path / "checkpoint", 7, snapshot | {"step": np.int32(7)}, meta)
    with pytest.raises(WeightsError, match=r"holds a network of .*small.py: add --network"):
        Playground(["numpy"], tmp_path / "checkpoint")
    playground = Playground(["numpy", "torch"], tmp_path / "checkpoint", file)
    said = playground.answer(playground.chosen, Question(SEVEN.read_bytes(), chosen=3, step=1))
    assert said["gap"]["largest"] < 1e-5
    assert said["saliency"]["gap"]["largest"] < 1e-5 * said["saliency"]["gap"]["of"]
    assert [step["name"] for step in said["step"]["all"]] == ["picture", *["linear 784→10"] * 2, "pixels"]
    assert said["step"]["line"]["where"].startswith("small.py:")


def test_network_without_a_numpy_class_has_no_layers(tmp_path):
    file = tmp_path / "without.py"
    file.write_text(SMALL.replace("class Numpy:", "class Other:"), "utf-8")
    config = presets.chosen([], file)[0]
    snapshot = first_snapshot(config.model, config.model_args, np.random.default_rng(0))
    store.save(tmp_path / "checkpoint", 7, snapshot | {"step": np.int32(7)}, {"config": config.to_json()})
    with pytest.raises(UserError, match="has no class Numpy: choose --tracks jax torch"):
        Playground(["numpy", "torch"], tmp_path / "checkpoint", file)
    playground = Playground(["torch"], tmp_path / "checkpoint", file)
    said = playground.answer(playground.chosen, Question(SEVEN.read_bytes(), chosen=3, step=1))
    assert (said["layers"], said["step"]) == ([], None)
    assert said["saliency"]["class"] == 3

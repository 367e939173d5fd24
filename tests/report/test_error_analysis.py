"""What a network gets wrong is counted right, and what its first layer looks for is found in every network."""

from __future__ import annotations

import numpy as np
import pytest

from compare.data import Data
from compare.results.arrays import pack, unpack
from compare.training.error_analysis import MISCLASSIFIED, error_analysis, first_layer
from numpy_nn.models import MODELS
from numpy_nn.tree import leaves


def dataset(labels: np.ndarray, *, side: int = 4, classes: int = 3) -> Data:
    x = np.zeros((len(labels), side, side, 1), np.uint8)
    x[:, 0, 0, 0] = np.arange(len(labels))
    names = tuple("abcdefgh"[:classes])
    return Data(name="d", train_x=x, train_y=labels, test_x=x, test_y=labels, classes=names, mean=(0.0,), std=(1.0,))


def test_misclassified_images_are_counted_and_ranked(rng):
    labels = rng.integers(0, 3, 50).astype(np.int32)
    answers = rng.integers(0, 3, 50)
    margins = rng.permutation(50) / 10

    def logits(x):  # the first pixel is the number of the image
        index = x[:, 0, 0, 0].astype(int)
        return np.eye(3)[answers[index]] * margins[index, None]

    found = error_analysis(logits, {"output": {"kernel": np.ones((16, 3))}}, dataset(labels), batch_size=16)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (labels, np.where(margins == 0, 0, answers)), 1)
    assert found["confusion"] == expected.tolist()
    assert found["classes"] == ["a", "b", "c"]
    wrong = np.flatnonzero(np.where(margins == 0, 0, answers) != labels)
    worst = wrong[np.argsort(-margins[wrong])][:MISCLASSIFIED]
    assert [error["index"] for error in found["misclassified"]] == worst.tolist()
    first = found["misclassified"][0]
    assert (first["label"], first["prediction"]) == (labels[worst[0]], answers[worst[0]])
    assert first["probability"] == pytest.approx(1 / (1 + 2 * np.exp(-margins[worst[0]])))
    assert unpack(first["image"])[0, 0, 0] == worst[0]


def test_large_images_are_downsampled_and_many_classes_left_out():
    labels = np.zeros(3, np.int32)
    data = dataset(labels, side=130)
    found = error_analysis(lambda x: np.eye(200)[np.full(len(x), 150)], {}, data, batch_size=2)
    assert found["confusion"] is None
    assert found["filters"] is None
    assert [error["prediction"] for error in found["misclassified"]] == [150] * 3
    assert unpack(found["misclassified"][0]["image"]).shape == (44, 44, 1)


@pytest.mark.parametrize(
    ("model", "leaf", "window"),
    [
        ("mlp", "hidden/0/kernel", (28, 28, 1)),
        ("cnn", "convs/0/kernel", (5, 5, 1)),
        ("lenet5", "c1/kernel", (5, 5, 1)),
        ("lstm", "lstm/dense_i/kernel", (1, 28, 1)),
        ("vit", "patches/kernel", (7, 7, 1)),
        ("resnet", "conv/kernel", (3, 3, 3)),
    ],
)
def test_first_layer_filters_are_found(model, leaf, window, rng):
    params = MODELS[model]().init(rng)["params"]
    found = first_layer(params, (32, 32, 3) if model == "resnet" else (28, 28, 1))
    assert found is not None
    values = unpack(found["values"])
    assert (found["leaf"], values.shape[1:]) == (leaf, window)
    assert np.abs(values).max(axis=(1, 2, 3)).tolist() == [127] * len(values)
    weights = leaves(params)[leaf].reshape(*window, -1)[..., found["units"][1]]
    np.testing.assert_allclose(values[1] / 127, weights / np.abs(weights).max(), atol=0.5 / 127)


def test_packed_array_round_trips(rng):
    array = rng.integers(-127, 128, (2, 3, 4), dtype=np.int8)
    np.testing.assert_array_equal(unpack(pack(array[:, ::2])), array[:, ::2])

"""tfds:NAME: a dataset of TFDS's catalogue, without TensorFlow, and without a network where it has been downloaded."""

from __future__ import annotations

import dataclasses
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compare import presets
from compare.benchmark import trial
from compare.data import DataError, catalogue, idx, load
from compare.data.loaders.records import tfds
from compare.errors import UserError
from compare.workers.protocol import Job


def images(count: int, side: int = 6) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)


def png(image: np.ndarray) -> bytes:
    """As it will be stored: TFDS would take TensorFlow to make one of an array."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process would not know the datasets of this one."""
    monkeypatch.setattr(catalogue, "prepare", lambda name, root: catalogue.found(name, root).download_and_prepare())


@pytest.fixture(scope="module", autouse=True)
def _known() -> None:
    """Datasets of this test, known to TFDS by name as the official ones are."""
    library = tfds()

    class Fake(library.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg, name-defined]
        VERSION = library.core.Version("1.0.0")

        def _info(self) -> Any:
            features = library.features
            named = {"image": features.Image(shape=(None, None, 3)), "label": features.ClassLabel(names=["cat", "dog"])}
            return library.core.DatasetInfo(
                builder=self, features=features.FeaturesDict(named), supervised_keys=("image", "label")
            )

        def _split_generators(self, _: Any) -> dict[str, Iterator[Any]]:
            return {"train": self._generate_examples(30), "test": self._generate_examples(10)}

        def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
            for number, image in enumerate(images(count)):
                yield number, {"image": png(image), "label": number % 2}

    class FakePets(Fake):
        """Of one size."""

    class FakeSizes(Fake):
        """Of two sizes."""

        def _generate_examples(self, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
            yield from super()._generate_examples(count)
            yield count, {"image": png(images(1, side=8)[0]), "label": 0}


def test_tfds_dataset_loads_by_name(tmp_path: Path) -> None:
    data = load("tfds:fake_pets", data_dir=tmp_path, val_size=5)
    assert data.describe() == "tfds:fake_pets: 25 training, 5 validation and 10 test images of 6x6x3 in 2 classes"
    assert data.classes == ("cat", "dog")
    found = sorted(image.tobytes() for image in [*data.train_x, *data.val_x])
    assert found == sorted(image.tobytes() for image in images(30))
    assert data.train_y.dtype == np.int32
    assert data.mean == pytest.approx([0.5] * 3, abs=0.05)
    again = load("tfds:fake_pets", data_dir=tmp_path, val_size=5)
    assert again.digest == data.digest


def test_unusable_tfds_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tfds:fake_sizes holds images of several sizes, \(6, 6, 3\) to \(8, 8, 3\)"):
        load("tfds:fake_sizes", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"tfds:no_such_thing is not in .*DatasetNotFoundError.*catalog"):
        load("tfds:no_such_thing", data_dir=tmp_path)


def test_preset_refuses_images_of_another_shape(tmp_path: Path) -> None:
    config = dataclasses.replace(presets.get("mlp-mnist"), dataset="tfds:fake_pets", data_dir=str(tmp_path), steps=2)
    with pytest.raises(
        UserError, match=r"takes images of 28x28x1 in 10 classes; tfds:fake_pets has images of 6x6x3 in 2 classes"
    ):
        trial.run(Job(config, "numpy", threads=1, folder=tmp_path))


@pytest.mark.slow
def test_failed_tfds_download_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(DataError, match=r"tfds:kmnist is not in .*be online the first time"):
        load("tfds:kmnist", data_dir=tmp_path)


@pytest.mark.slow
def test_tfds_mnist_equals_the_embedded_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TFDS's own builder, whose downloads are our files."""

    def downloaded(_: Any, urls: dict[str, str]) -> dict[str, Path]:
        ours = {key: idx.MNIST_DIR / url.rsplit("/", 1)[1] for key, url in urls.items()}
        for path in ours.values():
            (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        return {key: tmp_path / path.stem for key, path in ours.items()}

    monkeypatch.setattr(tfds().download.DownloadManager, "download_and_extract", downloaded)
    official, ours = (load(name, data_dir=tmp_path, val_size=0) for name in ("tfds:mnist", "mnist"))
    for x, y in (("train_x", "train_y"), ("test_x", "test_y")):
        pairs = [
            sorted((image.tobytes(), label) for image, label in zip(getattr(data, x), getattr(data, y), strict=True))
            for data in (official, ours)
        ]
        assert pairs[0] == pairs[1]

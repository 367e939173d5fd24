"""Where datasets are looked for, how they get there, and Fashion-MNIST, which is found in many places."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from compare.data import DATASETS, DataError, fetch, idx, load


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test here may depend on what lies in the home folder, or on the network."""
    monkeypatch.delenv("NN_DATA_DIR", raising=False)
    monkeypatch.setattr(fetch, "CACHE", tmp_path_factory.mktemp("cache") / "absent")
    for name, source in fetch.SOURCES.items():
        nowhere = tuple("http://127.0.0.1:9/" + url.rsplit("/", 1)[1] for url in source.urls)
        monkeypatch.setitem(fetch.SOURCES, name, fetch.Source(nowhere, source.torchvision))


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_official_files_load(name: str, shared_data: Path) -> None:
    data = load(name, data_dir=shared_data, val_size=0)
    x = data.train_x[:10_000] / 255
    assert x.mean(axis=(0, 1, 2)) == pytest.approx(data.mean, abs=0.005)
    assert x.std(axis=(0, 1, 2)) == pytest.approx(data.std, abs=0.005)
    assert len(data.train_x) == (60_000 if name == "fashion-mnist" else 10_000 if data.note else 50_000)
    assert set(np.unique(data.test_y)) == set(range(10))


@pytest.fixture
def mnist_as_fashion(monkeypatch: pytest.MonkeyPatch) -> Path:
    """MNIST's own files stand in for Fashion-MNIST's."""
    monkeypatch.setattr(idx, "FASHION_MD5", idx.MNIST_MD5)
    return idx.MNIST_DIR


@pytest.mark.parametrize("place", ["fashion-mnist", "Fashion_MNIST", "FashionMNIST/raw", "."])
def test_fashion_mnist_is_found_packed_or_plain(place: str, tmp_path: Path, mnist_as_fashion: Path) -> None:
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(sorted(mnist_as_fashion.glob("*.gz"))):
        if number % 2:
            (tmp_path / place / source.name).symlink_to(source)
        else:
            (tmp_path / place / source.stem).write_bytes(gzip.decompress(source.read_bytes()))
    data = load("fashion-mnist", data_dir=tmp_path, val_size=100)
    assert data.describe() == (
        "fashion-mnist: 59,900 training, 100 validation and 10,000 test images of 28x28x1 in 10 classes"
    )
    assert data.classes[9] == "Ankle boot"


def test_files_of_another_dataset_are_refused_as_fashion_mnist(tmp_path: Path) -> None:
    (tmp_path / "fashion-mnist").symlink_to(idx.MNIST_DIR)
    with pytest.raises(DataError, match=r"was altered.*expected f4a8712d7a061bf5bd6d2ca38dc4d50a") as caught:
        load("fashion-mnist", data_dir=tmp_path)
    assert "elete" not in str(caught.value)


NAMES = ["{stem}", "{dotted}", "{stem}/{stem}", "Fashion MNIST/{stem}.gz", "archive/raw/{kind} of {split}.bin"]


@pytest.mark.parametrize("name", NAMES)
def test_dataset_files_are_known_by_their_content(name: str, tmp_path: Path, mnist_as_fashion: Path) -> None:
    for source in mnist_as_fashion.glob("*.gz"):
        split, kind, _ = source.stem.split("-", 2)
        dotted = source.stem.replace("-idx", ".idx")
        path = tmp_path / name.format(stem=source.stem, dotted=dotted, split=split, kind=kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes() if path.suffix == ".gz" else gzip.decompress(source.read_bytes()))
    assert len(load("fashion-mnist", data_dir=tmp_path).test_x) == 10_000


def test_broken_file_beside_a_good_one_is_passed_over(tmp_path: Path, mnist_as_fashion: Path) -> None:
    for source in mnist_as_fashion.glob("*.gz"):
        (tmp_path / source.stem).write_bytes(gzip.decompress(source.read_bytes()))
    broken = tmp_path / "t10k-labels-idx1-ubyte.gz"
    broken.write_bytes((mnist_as_fashion / broken.name).read_bytes()[:1000])
    assert len(load("fashion-mnist", data_dir=tmp_path).test_x) == 10_000
    assert broken.stat().st_size == 1000


def test_incomplete_dataset_offline_names_what_is_missing_and_broken(tmp_path: Path, mnist_as_fashion: Path) -> None:
    for source in mnist_as_fashion.glob("t10k*.gz"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    cut = tmp_path / "train-labels-idx1-ubyte.gz"
    cut.write_bytes((mnist_as_fashion / cut.name).read_bytes()[:1000])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte, train-labels-idx1-ubyte missing") as caught:
        load("fashion-mnist", data_dir=tmp_path)
    assert f"{cut}: cannot be read" in str(caught.value)
    assert "t10k" not in str(caught.value)
    assert "elete" not in str(caught.value)


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_absent_dataset_offline_says_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=rf"{name} is not in .*cannot be downloaded.*Download .*put it in .*NN_DATA_DIR"
    ):
        load(name)
    assert not fetch.CACHE.exists()
    with pytest.raises(DataError, match=str(tmp_path)):
        load(name, data_dir=tmp_path)
    monkeypatch.setenv("NN_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=str(tmp_path)):
        load(name)
    monkeypatch.setenv("NN_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere \(NN_DATA_DIR\) is not there"):
        load(name)
    with pytest.raises(DataError, match=r"gone \(--data-dir\) is not there"):
        load(name, data_dir=tmp_path / "gone")


def test_without_a_home_folder_the_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NN_DATA_DIR", raising=False)
    monkeypatch.setattr(fetch, "CACHE", Path("~/.cache/nn-three-ways"))
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without HOME, for a user without an entry
    with pytest.raises(DataError, match="there is no home folder: set NN_DATA_DIR or HOME"):
        load("fashion-mnist")


def test_what_ships_needs_no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NN_DATA_DIR", "/nowhere")
    assert len(load("mnist").test_x) == 10_000
    assert len(load("shakespeare").test_x) == 768
    assert list(DATASETS) == ["mnist", "fashion-mnist", "cifar10", "shakespeare"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}", folder
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.mark.parametrize("carrier", ["torchvision", "tfds"])
def test_fashion_mnist_is_downloaded(
    carrier: str, server: tuple[str, Path], tmp_path: Path, mnist_as_fashion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = server
    files = sorted(mnist_as_fashion.glob("*.gz"))
    for source in files:
        (served / source.name).symlink_to(source)
    urls = tuple(f"{address}/{source.name}" for source in files)
    monkeypatch.setitem(fetch.SOURCES, "fashion-mnist", fetch.Source(urls, "FashionMNIST"))
    if carrier == "torchvision":
        from torchvision.datasets import FashionMNIST

        resources = [(source.name, hashlib.md5(source.read_bytes()).hexdigest()) for source in files]
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"{address}/"])
        monkeypatch.setattr(FashionMNIST, "resources", resources)
    else:
        monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    shutil.copy(files[0], tmp_path / "data" / "mine" / "good.gz")  # what is good is kept, the rest is fetched
    (tmp_path / "data" / files[1].name).write_bytes(files[1].read_bytes()[:100])
    data = load("fashion-mnist", data_dir=tmp_path / "data", val_size=0)
    assert (tmp_path / "data" / files[1].name).stat().st_size == 100
    assert (data.train_x == load("mnist", val_size=0).train_x).all()
    for source in served.iterdir():
        source.unlink()
    assert len(load("fashion-mnist", data_dir=tmp_path / "data").test_x) == 10_000  # and found the second time


def test_failed_download_is_a_clear_error(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = server
    (served / "cifar-10-python.tar.gz").write_bytes(b"a login page, say")
    from torchvision.datasets import CIFAR10

    url = f"{address}/cifar-10-python.tar.gz"
    monkeypatch.setattr(CIFAR10, "url", url)
    monkeypatch.setitem(fetch.SOURCES, "cifar10", fetch.Source((url,), "CIFAR10"))
    with pytest.raises(DataError, match=r"cannot be downloaded \(RuntimeError: File not found or corrupted"):
        load("cifar10", data_dir=tmp_path)

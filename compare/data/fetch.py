"""Where datasets are looked for, and how they get there.

A dataset is looked for in one folder: `data_dir` if given, else the environment's NN_DATA_DIR,
else ~/.cache/nn-three-ways. Fashion-MNIST's files are known by their content, anywhere below; CIFAR-10 is looked for
in sub-folders that are named like it (cifar10, CIFAR-10, ...), and then in the folder itself. What is absent is
downloaded into that folder, by torchvision or, without it, by TensorFlow Datasets; no file is deleted.
Both are only the carriers: the bytes are parsed and checked here, so that every machine sees the same images in
the same order.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from compare.data.files import DataError
from compare.files import CACHE

T = TypeVar("T")
TIMEOUT = 10  # seconds until a silent server counts as offline


@dataclass(frozen=True)
class Source:
    """Where a dataset is published, and its class in torchvision.datasets."""

    urls: tuple[str, ...]
    torchvision: str


FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
SOURCES = {
    "fashion-mnist": Source(
        urls=tuple(
            f"{FASHION_URL}/{split}-{kind}-ubyte.gz"
            for split in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ),
        torchvision="FashionMNIST",
    ),
    "cifar10": Source(urls=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",), torchvision="CIFAR10"),
}


def locate(
    name: str,
    find: Callable[[Path], T | None],
    data_dir: Path | None,
    *,
    lacking: Callable[[Path], Collection[str]] = lambda folder: (),
) -> T:
    """The first thing that `find` sees in the folders where the dataset `name` may be, downloaded if there is none.

    `lacking` names the files that one of those folders lacks, where it has others.
    """
    root = data_root(data_dir)
    if (found := _search(root, name, find)) is not None:
        return found
    download(name, root, _search(root, name, lambda folder: lacking(folder) or None) or ())
    if (found := _search(root, name, find)) is not None:
        return found
    raise DataError(f"{name} was downloaded to {root}, but is not there. {_by_hand(name, root)}")


def data_root(data_dir: Path | None) -> Path:
    """The folder to look in. One that was asked for has to exist."""
    environment = os.environ.get("NN_DATA_DIR")
    if data_dir is None and not environment:
        try:
            return CACHE.expanduser()
        except RuntimeError as error:
            raise DataError(
                f"{CACHE}, the folder of datasets, cannot be found, as there is no home folder: set NN_DATA_DIR or HOME"
            ) from error
    root = (data_dir or Path(environment or "")).expanduser()
    if not root.is_dir():
        named = "--data-dir" if data_dir else "NN_DATA_DIR"
        raise DataError(f"the data folder {root} ({named}) is not there: create it, or name another one")
    return root


def _search(root: Path, name: str, find: Callable[[Path], T | None]) -> T | None:
    def plain(text: str) -> str:
        return "".join(filter(str.isalnum, text.lower()))

    inside = sorted(root.iterdir()) if root.is_dir() else []
    named = [path for path in inside if path.is_dir() and plain(path.name) == plain(name)]
    places = [*named, *(path / "raw" for path in named), root]
    return next((found for place in places if (found := find(place)) is not None), None)


def download(name: str, root: Path, missing: Collection[str] = ()) -> None:
    """Bring the dataset to `root`; whatever goes wrong on the way is a DataError that says what to do by hand.

    `missing` names the files that are wanted, without their suffixes, where others of the dataset are there.
    """
    import urllib.request

    source = SOURCES[name]
    try:
        urllib.request.urlopen(source.urls[0], timeout=TIMEOUT).close()  # the carriers wait for minutes when offline
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):
            try:
                import torchvision.datasets
            except ImportError:
                _download_by_tfds(source, root / name)
            else:
                getattr(torchvision.datasets, source.torchvision)(str(root), download=True)
    except Exception as error:  # the carriers raise what they like
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
        where = (
            f"{name} is not complete in {root}: {', '.join(missing)} missing" if missing else f"{name} is not in {root}"
        )
        raise DataError(f"{where} and cannot be downloaded ({problem}). {_by_hand(name, root, missing)}") from error


def _download_by_tfds(source: Source, folder: Path) -> None:
    """TensorFlow Datasets' downloader: it fetches the published files, which then get their own names back."""
    import tensorflow_datasets as tfds

    folder.mkdir(exist_ok=True)
    manager = tfds.download.DownloadManager(download_dir=str(folder / "downloads"))
    for name, path in manager.download({url.rsplit("/", 1)[1]: url for url in source.urls}).items():
        Path(path).replace(folder / name)


def _by_hand(name: str, root: Path, missing: Collection[str] = ()) -> str:
    wanted = [url for url in SOURCES[name].urls if any(stem in url for stem in missing)]
    urls = wanted or SOURCES[name].urls
    return (
        f"Download {' '.join(urls)} on a machine that is online and put it in {root / name}, "
        "or name the folder where it is with --data-dir or NN_DATA_DIR."
    )

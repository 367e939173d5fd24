"""Our images as a TFDS dataset on disk: written once, offline, and read record by record in any order.

An image is stored as its bytes, not as a PNG: a PNG takes longer to decode than a step of an MLP to compute.
Without a name that TFDS knows there is nothing that it could download, and nothing of TensorFlow is imported.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compare.data.stream import Data, digest
from compare.errors import UserError
from compare.files import CACHE

NAME, RELEASE = "images", "1.0.0"  # name and version of the one dataset in a folder


def tfds() -> Any:
    """The library, without progress bars."""
    import tensorflow_datasets

    tensorflow_datasets.disable_progress_bar()
    return tensorflow_datasets


@dataclass(frozen=True)
class Records:
    """The TFDS dataset in a folder, as `write` made it; picklable, and opened where it is used."""

    folder: Path

    @cached_property
    def source(self) -> Any:
        """`tfds.data_source`: a sequence of {"image", "label"}."""
        with self.readable():
            return tfds().data_source(NAME, data_dir=self.folder, split="train", download=False)

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Turn whatever TFDS and the file's library raise into a UserError that names the folder."""
        try:
            yield
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise UserError(f"{self.folder} cannot be read ({problem}). Delete it to have it made again.") from error

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (k, n, h, w, c) and labels int32 (k, n) of the records `index`; of a text (k, n, t)."""
        source = self.source
        with self.readable():
            examples = source.__getitems__(index.ravel().tolist())
        x, y = np.stack([each["image"] for each in examples]), np.array([each["label"] for each in examples], np.int32)
        return x.reshape(*index.shape, *x.shape[1:]), y.reshape(*index.shape, *y.shape[1:])


def prepared(data: Data, file_format: str) -> Path:
    """The folder of the TFDS dataset of the training images, which is written by the first call.

    It lies in NN_CACHE_DIR, else ~/.cache/nn-three-ways, under the digest of the images. One of several processes
    writes and the others wait for it; what a killed process leaves is removed. A complete one is only read, so it may
    be another user's. Raises UserError if the folder cannot be written.
    """
    cache = Path(os.environ.get("NN_CACHE_DIR") or CACHE)
    folder = cache / f"prepared/{data.name.partition(':')[0]}-{digest(data.train_x, data.train_y)[:16]}-{file_format}"
    try:
        folder = folder.expanduser()
        if (folder / NAME / RELEASE).is_dir():
            return folder
        root = folder.parent
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / NAME / RELEASE).is_dir():
                shutil.rmtree(folder, ignore_errors=True)
                examples, shapes = (data.train_x, data.train_y), (data.train_x.shape[1:], data.train_y.shape[1:])
                write(folder, zip(*examples, strict=True), shapes[0], file_format, label_shape=shapes[1])
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        raise UserError(f"{folder} cannot be written ({error}): name another folder with NN_CACHE_DIR") from error
    return folder


def write(
    folder: Path,
    examples: Iterable[tuple[np.ndarray, Any]],
    shape: tuple[int, ...],
    file_format: str = "array_record",
    *,
    label_shape: tuple[int, ...] = (),
) -> None:
    """Write images uint8 (h, w, c) = `shape` and their labels as a TFDS dataset, which is complete or absent.

    The windows of a text have shape (t,), and so have their labels.
    """
    core: Any = tfds().core
    features = tfds().features

    class Images(core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        name, VERSION = NAME, core.Version(RELEASE)

        def _info(self) -> Any:
            pixels = features.Tensor(shape=shape, dtype=np.uint8, encoding=features.Encoding.BYTES)
            label = features.Tensor(shape=label_shape, dtype=np.int32)
            named = features.FeaturesDict({"image": pixels, "label": label})
            return core.DatasetInfo(builder=self, features=named, disable_shuffling=True)

        def _split_generators(self, _: Any) -> dict[str, Iterator[Any]]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for number, (image, label) in enumerate(examples):
                yield number, {"image": image, "label": label}

    with contextlib.redirect_stdout(sys.stderr):
        Images(data_dir=folder, file_format=file_format).download_and_prepare()

"""Five loaders that deliver the same batches: NumPy arrays, PyTorch's DataLoader, TFDS, tf.data, Grain.

An `IndexSampler` decides which images a step sees, never a library. A loader is a module with

    chunks(images, sampler)   yields x uint8 (k, n, h, w, c), y int32 (k, n), C-contiguous and writable;
                              closing the generator ends its threads and processes

`images` is a `Data`, all in memory, or a `Records`, a file larger than memory. `BatchIterator` is the one way to a
batch: it starts a loader and augments its chunks, the same for all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from compare import machine
from compare.data.augment import augment as augmented
from compare.data.stream import Data, IndexSampler
from compare.errors import UserError, require_packages

if TYPE_CHECKING:
    from compare.data.loaders.records import Records

Chunk = tuple[np.ndarray, np.ndarray]
WORKERS = max(1, min(4, machine.cores() // 2))  # processes of `torch`, threads of `grain` and `tfdata`; a chunk each
NEEDS: dict[str, tuple[str, ...]] = {  # packages of a loader
    "memory": (),
    "torch": ("torch",),
    "tfds": ("tensorflow_datasets", "array_record"),
    "tfdata": ("tensorflow", "tensorflow_datasets"),
    "grain": ("grain",),
}
LOADERS = tuple(NEEDS)


class BatchIterator:
    """Iterates over chunks of training batches, x uint8 (k, n, h, w, c) and y int32 (k, n); a context manager.

    The loader starts here: when the constructor returns, its first chunk is there. Leaving the `with` block ends the
    loader's threads and processes. `augment` names what is done to the images of a `Data`, e.g. ("crop:2", "flip"):
    see `compare.data.augment`, also for what mixup makes of y.

    Raises UserError for an unknown loader, or where its package is absent.
    """

    def __init__(
        self, images: Data | Records, sampler: IndexSampler, *, loader: str = "memory", augment: Sequence[str] = ()
    ):
        require(loader)
        self._images, self._sampler, self._augment = images, sampler, augment
        self._chunks = importlib.import_module(f"compare.data.loaders.{loader}").chunks(images, sampler)
        self._first: Chunk | None = next(self._chunks, None)
        self._step = sampler.first

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        (x, y), self._first = self._first or next(self._chunks), None
        step, self._step = self._step, self._step + self._sampler.k
        if not self._augment:
            return x, y
        classes = len(self._images.classes)  # type: ignore[union-attr]  # only what is in memory is augmented
        return augmented(x, y, self._augment, seed=self._sampler.seed, step=step, classes=classes)

    def __enter__(self) -> BatchIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks.close()


def require(name: str) -> None:
    """Raise UserError if there is no such loader, or a package of it is not installed; nothing is imported."""
    if name not in NEEDS:
        raise UserError(f"unknown loader {name!r}: choose one of {', '.join(LOADERS)}")
    # TFDS brings array_record on Linux only, Grain everywhere
    require_packages(f"the loader {name}", *NEEDS[name], extra="tensorflow" if name == "tfdata" else "grain")


def prefetch(load: Callable[[np.ndarray], Chunk], sampler: IndexSampler) -> Generator[Chunk]:
    """Yield `load(index)` of every chunk of the sampler; a thread loads one chunk ahead of the reader."""
    with ThreadPoolExecutor(1) as thread:
        pending: Future[Chunk] | None = None
        for index in sampler:
            ready, pending = pending, thread.submit(load, index)
            if ready:
                yield ready.result()
        if pending:
            yield pending.result()

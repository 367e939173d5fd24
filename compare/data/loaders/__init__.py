"""Five ways to the same batches: NumPy arrays, PyTorch's DataLoader, TFDS, tf.data, Grain.

Which images a step sees is decided by one `Order`, never by a library. A loader is a module with

    chunks(images, order)   yields x uint8 (k, n, h, w, c), y int32 (k, n), C-contiguous and writable;
                            closing the generator ends its threads and processes

`images` is a `Data`, all in memory, or a `Records`, a file larger than memory. Augmentation comes after the
loader, the same for all.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compare import machine
from compare.data.stream import Data, batch_indices
from compare.errors import UserError

if TYPE_CHECKING:
    from compare.data.loaders.records import Records

Chunk = tuple[np.ndarray, np.ndarray]
WORKERS = max(1, min(4, machine.cores() // 2))  # processes of `torch`, threads of `grain` and `tfdata`; a chunk each
NEEDS = {  # packages of a loader
    "memory": (),
    "torch": ("torch",),
    "tfds": ("tensorflow_datasets", "array_record"),
    "tfdata": ("tensorflow", "tensorflow_datasets"),
    "grain": ("grain",),
}
LOADERS = tuple(NEEDS)


@dataclass(frozen=True, kw_only=True)
class Order:
    """The index stream from step `first` up to `stop`, in chunks of `k` steps: a sequence of int64 (k, n).

    Any chunk is computed at once, without those before it. The memory it takes is that of two epochs'
    permutations, 8 bytes an image each: 104 MB for 20 GB of CIFAR's images.
    """

    seed: int
    batch_size: int
    train_size: int
    k: int
    first: int
    stop: int

    def __len__(self) -> int:
        return max(self.stop - self.first, 0) // self.k

    def __getitem__(self, number: int) -> np.ndarray:
        if not 0 <= number < len(self):
            raise IndexError(number)
        step = self.first + number * self.k
        return batch_indices(self.seed, step, self.k, batch_size=self.batch_size, train_size=self.train_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))


class Feed:
    """The chunks of a loader as an iterator. The first is at hand: whatever has to start has started."""

    def __init__(self, chunks: Generator[Chunk]):
        self._chunks = chunks
        self._first = next(chunks, None)

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        if self._first is None:
            return next(self._chunks)
        first, self._first = self._first, None
        return first

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._chunks.close()


def start(name: str, images: Data | Records, order: Order) -> Feed:
    """The chunks of `order` by the loader `name`; UserError where its package is absent."""
    require(name)
    return Feed(importlib.import_module(f"compare.data.loaders.{name}").chunks(images, order))


def require(name: str) -> None:
    """UserError if there is no such loader, or a package of it is not installed; nothing is imported."""
    if name not in NEEDS:
        raise UserError(f"unknown loader {name!r}: choose one of {', '.join(LOADERS)}")
    missing = [package for package in NEEDS[name] if not importlib.util.find_spec(package)]
    if missing:
        raise UserError(f"the loader {name} needs {' and '.join(missing)}: pip install '.[tensorflow]'")


def ahead(take: Callable[[np.ndarray], Chunk], order: Order) -> Generator[Chunk]:
    """`take` of every chunk of the order, one chunk ahead of the reader, in a thread."""
    with ThreadPoolExecutor(1) as thread:
        coming: Future[Chunk] | None = None
        for index in order:
            here, coming = coming, thread.submit(take, index)
            if here:
                yield here.result()
        if coming:
            yield coming.result()

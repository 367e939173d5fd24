"""One dataset in memory, and the index stream: which training images each step sees, the same for every track.

The stream is endless: a permutation of the training images for epoch 0, one for epoch 1, and
so on, laid end to end; step s takes positions [s * batch_size, (s + 1) * batch_size). A batch
may straddle two epochs, so every image is seen exactly once per epoch and none is dropped.
Which images a step sees is a pure function of (seed, step): there is no iterator to save, and
a resumed run sees the batches it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from hashlib import sha256

import numpy as np

from compare.data.preparation import Preparation, of_dataset
from compare.data.seeds import SHUFFLE, SPLIT, generator
from compare.errors import UserError


@lru_cache(maxsize=2)  # a batch straddles two epochs at most, and of a large set each permutation is large
def _permutation(seed: int, epoch: int, train_size: int) -> np.ndarray:
    order = generator(SHUFFLE, seed, epoch).permutation(train_size)
    order.flags.writeable = False  # it is shared through the cache
    return order


def batch_indices(seed: int, step: int, k: int, *, batch_size: int, train_size: int) -> np.ndarray:
    """Indices of the training images that the steps step .. step + k - 1 see: int64 (k, n).

    Raises UserError for a batch that is empty or larger than the training set.
    """
    if batch_size > train_size:
        raise UserError(
            f"batch size {batch_size:,} is larger than the training set of {train_size:,} images: "
            f"choose a batch size of at most {train_size:,}"
        )
    if batch_size < 1 or step < 0 or k < 0:
        raise UserError(f"batch size {batch_size} must be at least 1, step {step} and chunk {k} at least 0")
    start, stop = step * batch_size, (step + k) * batch_size
    epochs = range(start // train_size, -(-stop // train_size))
    parts = [np.empty(0, np.int64)]
    for epoch in epochs:
        first = epoch * train_size
        parts.append(_permutation(seed, epoch, train_size)[max(start - first, 0) : stop - first])
    return np.concatenate(parts).reshape(k, batch_size)


@dataclass(frozen=True, kw_only=True)
class IndexSampler:
    """The index stream from step `first` up to step `stop`, in chunks of `k` steps: a sequence of int64 (k, n).

    Any chunk is computed at once, without those before it; a last chunk of fewer than `k` steps is left out. The
    memory it takes is two epochs' permutations, 8 bytes an image each: 104 MB for 20 GB of CIFAR-10's images.
    """

    seed: int
    batch_size: int
    train_size: int
    k: int
    first: int = 0
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


def eval_batches(x: np.ndarray, y: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All of `x`, `y` in order, in batches of one fixed shape: x (n, h, w, c), y (n,), or both (n, t).

    The short last batch is filled up with black images of label -1, which the tracks count
    as nothing: every image counts once, and a compiled evaluation sees a single shape.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} must be at least 1")
    for start in range(0, len(x), batch_size):
        xs, ys = x[start : start + batch_size], y[start : start + batch_size]
        if missing := batch_size - len(xs):
            xs = np.concatenate([xs, np.zeros((missing, *x.shape[1:]), x.dtype)])
            ys = np.concatenate([ys, np.full((missing, *y.shape[1:]), -1, y.dtype)])
        yield xs, ys


def described(shape: Sequence[int], classes: int) -> str:
    """What the examples of a dataset are, in words, from the shape of one of them: (h, w, c) or (t,)."""
    if len(shape) == 1:
        return f"sequences of {shape[0]} tokens, of {classes} different ones"
    return f"images of {'x'.join(map(str, shape))} in {classes} classes"


def numbered(count: int, thing: str = "class") -> tuple[str, ...]:
    """Names of classes that nobody named."""
    return tuple(f"{thing} {k}" for k in range(count))


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays: of their types, shapes and numbers."""
    sha = sha256()
    for array in arrays:
        sha.update(f"{array.dtype} {array.shape} ".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """A dataset in memory: images uint8 (n, h, w, c), labels int32 (n,).

    Of a text, it holds windows uint8 (n, t), whose labels int32 (n, t) are the characters that follow.

    `mean` and `std` are per channel, of pixel values scaled to 0 .. 1. Everything is chosen on
    the validation images, which are taken from the training images; the test images are for
    the final figures only.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_x: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0, 0), np.uint8))
    val_y: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    note: str = ""  # what a reader of the figures must know, e.g. that this is a subset

    def describe(self) -> str:
        """One line for a person: what there is of what."""
        counts = f"{len(self.train_x):,} training, {len(self.val_x):,} validation and {len(self.test_x):,} test"
        note = f" ({self.note})" if self.note else ""
        return f"{self.name}: {counts} {described(self.train_x.shape[1:], len(self.classes))}{note}"

    @property
    def labels_per_example(self) -> int:
        """1 for images, the number of characters for windows of a text."""
        return math.prod(self.train_y.shape[1:])

    @cached_property
    def preparation(self) -> Preparation:
        """How its images were made from pictures; unknown for a text."""
        return Preparation(known=False) if self.train_x.ndim == 2 else of_dataset(self.name, self.classes, self.train_x)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all images and labels in their order: a resumed run must see the same."""
        return digest(self.train_x, self.train_y, self.val_x, self.val_y, self.test_x, self.test_y)

    def split(self, val_size: int, seed: int) -> Data:
        """Move `val_size` training images, chosen by `seed`, to the validation set."""
        total = len(self.train_x)
        if not 0 <= val_size < total:
            raise UserError(
                f"a validation set of {val_size:,} images cannot be taken from the {total:,} training images of "
                f"{self.name}: choose a size from 0 to {total - 1:,}"
            )
        order = generator(SPLIT, seed).permutation(total)
        val, train = np.sort(order[:val_size]), np.sort(order[val_size:])
        return replace(
            self,
            train_x=self.train_x[train],
            train_y=self.train_y[train],
            val_x=self.train_x[val],
            val_y=self.train_y[val],
        )

    def __getitem__(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the training images, uint8 (k, n, h, w, c), and labels, int32 (k, n), at `index` int64 (k, n)."""
        return np.take(self.train_x, index, axis=0), np.take(self.train_y, index, axis=0)


class InMemory(Data):
    """Data whose chunks are the indices of the images: a baseline script holds the images as a tensor of its own."""

    def __getitem__(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`index` int64 (k, n), twice."""
        return index, index

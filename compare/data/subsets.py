"""Less of a dataset: some classes, few labels; and its images as another network wants them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from compare.data.files import DataError
from compare.data.seeds import LABELS, generator
from compare.data.stream import Data


def only(data: Data, wanted: Iterable[int]) -> Data:
    """The images of some of the classes, which are counted anew from 0."""
    wanted = list(wanted)

    def part(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep = np.isin(y, wanted)
        return x[keep], np.searchsorted(wanted, y[keep]).astype(y.dtype)

    (train_x, train_y), (test_x, test_y) = part(data.train_x, data.train_y), part(data.test_x, data.test_y)
    classes = tuple(data.classes[k] for k in wanted)
    return replace(data, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y, classes=classes)


def share(data: Data, fraction: float, *, seed: int) -> Data:
    """A fraction, above 0 and at most 1, of the training images of each class, at least one; all test images."""
    if not 0 < fraction <= 1:
        raise DataError(f"a fraction of {fraction} of the labels: choose one above 0 and at most 1")
    members = [np.flatnonzero(data.train_y == k) for k in range(len(data.classes))]
    return _drawn(data, members, [max(round(fraction * len(each)), 1) for each in members], seed=seed)


def few(data: Data, per_class: int, *, seed: int) -> Data:
    """So many training images of each class, drawn by ``seed``; all test images."""
    members = [np.flatnonzero(data.train_y == k) for k in range(len(data.classes))]
    scarce = min(range(len(members)), key=lambda k: len(members[k]))
    if not 1 <= per_class <= len(members[scarce]):
        raise DataError(
            f"{per_class} labels per class: {data.name} has {len(members[scarce]):,} training images of class "
            f"{data.classes[scarce]!r}; choose from 1 to as many"
        )
    return _drawn(data, members, [per_class] * len(members), seed=seed)


def _drawn(data: Data, members: Sequence[np.ndarray], counts: Sequence[int], *, seed: int) -> Data:
    """``counts[k]`` of the training images ``members[k]``, for each class k."""
    rng = generator(LABELS, seed)
    pairs = zip(members, counts, strict=True)
    chosen = np.sort(np.concatenate([rng.choice(each, count, replace=False) for each, count in pairs]))
    return replace(data, train_x=data.train_x[chosen], train_y=data.train_y[chosen])


def fit_images(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Images uint8 (n, h, w, c) as a network wants them: whole pixels repeated, black around, grey in every channel.

    Each pixel becomes a square as large as will fit, what is left is an even border, and one channel is
    given as often as wanted. Nothing is interpolated: 28x28x1 to 32x32x3 is a border of two pixels.
    """
    height, width, channels = shape
    _, h, w, c = x.shape
    times = min(height // h, width // w)
    if times < 1 or c not in (1, channels):
        raise DataError(f"images of {h}x{w}x{c} do not fit into {height}x{width}x{channels}: choose a larger --size")
    x = x.repeat(times, axis=1).repeat(times, axis=2)
    rows, columns = height - times * h, width - times * w
    x = np.pad(x, ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0)))
    return x if c == channels else x.repeat(channels, axis=3)

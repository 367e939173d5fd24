"""Datasets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compare.data.idx import load_mnist
from compare.data.stream import Data
from compare.errors import UserError

DATASETS: dict[str, Callable[[Path | None], Data]] = {"mnist": load_mnist}


def load(name: str, *, data_dir: str | Path | None = None, val_size: int | None = None, seed: int = 0) -> Data:
    """The dataset `name`, split by `seed` into training and validation images; the test images are never split.

    `val_size` of None means 5,000 images, or a tenth of a training set of fewer than 50,000.
    """
    if name not in DATASETS:
        raise UserError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
    data = DATASETS[name](Path(data_dir) if data_dir else None)
    return data.split(min(5000, len(data.train_x) // 10) if val_size is None else val_size, seed)

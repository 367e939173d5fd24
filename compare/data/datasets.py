"""Datasets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compare.data.arrays import is_arrays, load_arrays
from compare.data.cifar import load_cifar10
from compare.data.folder import load_folder
from compare.data.idx import load_fashion_mnist, load_mnist
from compare.data.stream import Data
from compare.data.text import load_shakespeare
from compare.errors import UserError, suggestion

DATASETS: dict[str, Callable[[Path | None], Data]] = {
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "shakespeare": load_shakespeare,
}
FOLDER, TFDS = "folder:", "tfds:"


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    val_size: int | None = None,
    seed: int = 0,
    image_size: int = 32,
    channels: int = 3,
) -> Data:
    """The dataset `name`, split by `seed` into training and validation images; the test images are never split.

    `name` is one of DATASETS, "tfds:NAME" (see `catalogue.py`), the path of a file of arrays (see `arrays.py`), or
    "folder:PATH", a folder of images (see `folder.py`), to which alone `image_size` and `channels` apply. `data_dir` is
    where to look for datasets that do not ship (see `fetch.py`). `val_size` of None means 5,000 images, or a tenth of a
    training set of fewer than 50,000, or what the user's own data has for validation.
    """
    if name.startswith(FOLDER):
        data = load_folder(Path(name.removeprefix(FOLDER)).expanduser(), image_size=image_size, channels=channels)
    elif is_arrays(name):
        data = load_arrays(name)
    elif name.startswith(TFDS):
        from compare.data.catalogue import load_tfds

        data = load_tfds(name.removeprefix(TFDS), Path(data_dir).expanduser() if data_dir else None)
    elif name in DATASETS:
        data = DATASETS[name](Path(data_dir).expanduser() if data_dir else None)
    else:
        others = f"{FOLDER}PATH, {TFDS}NAME, FILE.npz, FILE.py:function"
        raise UserError(f"unknown dataset {name!r}.{suggestion(name, DATASETS)} Known: {', '.join(DATASETS)}, {others}")
    if val_size is None and len(data.val_x):  # the user's data has a part for validation
        return data
    return data.split(min(5000, len(data.train_x) // 10) if val_size is None else val_size, seed)

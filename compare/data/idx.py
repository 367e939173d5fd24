"""IDX, the file format of MNIST and its descendants (LeCun, Cortes and Burges, yann.lecun.com/exdb/mnist).

offset 0   two zero bytes, the element type (8 = uint8), the number of dimensions
offset 4   each dimension, 32-bit big-endian
then       the elements, last dimension fastest
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from compare.data.files import DataError, read_file
from compare.data.stream import Data

MNIST_DIR = Path(__file__).with_name("mnist")
MNIST_MD5 = {  # of the raw bytes
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
SIDE = 28
COUNTS = {"train": 60_000, "t10k": 10_000}


def parse_idx(raw: bytes | bytearray, *, item_shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 array (n, *item_shape) that the IDX bytes `raw` hold, without a copy."""
    header = 4 * (2 + len(item_shape))
    if len(raw) < header:
        raise DataError(f"ends inside its header of {header} bytes")
    magic, *shape = (int(word) for word in np.frombuffer(raw, ">u4", count=header // 4))
    if magic != 0x0800 + 1 + len(item_shape):
        raise DataError(f"has the magic number {magic:#010x} instead of {0x0800 + 1 + len(item_shape):#010x}")
    if tuple(shape[1:]) != item_shape or shape[0] == 0:
        raise DataError(f"holds an array of shape {tuple(shape)} instead of (n, {', '.join(map(str, item_shape))})")
    if len(raw) - header != math.prod(shape):
        raise DataError(f"has {len(raw) - header:,} bytes after its header, which promises {math.prod(shape):,}")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def parse_images(raw: bytes | bytearray) -> np.ndarray:
    """Grey images, uint8 (n, h, w, 1)."""
    return parse_idx(raw, item_shape=(SIDE, SIDE))[..., None]


def parse_labels(raw: bytes | bytearray, *, classes: int) -> np.ndarray:
    """Labels 0 .. classes - 1, int32 (n,)."""
    labels = parse_idx(raw, item_shape=())
    if labels.max() >= classes:
        raise DataError(f"holds the label {labels.max()}; labels run from 0 to {classes - 1}")
    return labels.astype(np.int32)


def load_mnist(_data_dir: Path | None = None) -> Data:
    """The MNIST that ships with this package. No other copy is looked for: it could only be equal or wrong."""
    remedy = "Restore it with `git checkout -- compare/data/mnist`, or install the project again."
    train_x, train_y, test_x, test_y = read_idx_files(MNIST_DIR, MNIST_MD5, classes=10, remedy=remedy)
    return Data(
        name="mnist",
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        classes=tuple("0123456789"),
        mean=(0.1307,),
        std=(0.3081,),
    )


def read_idx_files(folder: Path, md5: dict[str, str], *, classes: int, remedy: str) -> list[np.ndarray]:
    """The four arrays of `folder`, in the order of `md5`; each file may be gzip or plain."""
    arrays = []
    for stem, digest in md5.items():
        split, kind, _ = stem.split("-", 2)
        plain, packed = folder / stem, folder / f"{stem}.gz"
        parse = parse_images if kind == "images" else partial(parse_labels, classes=classes)
        limit = 16 + COUNTS[split] * (SIDE * SIDE if kind == "images" else 1)
        path = packed if packed.exists() or not plain.exists() else plain
        arrays.append(read_file(path, parse, limit=limit, md5=digest, remedy=remedy))
    return arrays

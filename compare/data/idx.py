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

from compare.data.fetch import data_root, download
from compare.data.files import DataError, files_below, first_bytes, read_file
from compare.data.stream import Data

MNIST_DIR = Path(__file__).with_name("mnist")
MNIST_MD5 = {  # of the raw bytes
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
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


def load_fashion_mnist(data_dir: Path | None = None) -> Data:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747) from the data folder, or downloaded into it."""
    train_x, train_y, test_x, test_y = fashion_mnist_arrays(data_dir)
    return Data(
        name="fashion-mnist",
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        classes=FASHION_CLASSES,
        mean=(0.2860,),
        std=(0.3530,),
    )


def fashion_mnist_arrays(data_dir: Path | None) -> list[np.ndarray]:
    """The four arrays; what the data folder lacks is downloaded into it, and nothing in it is replaced."""
    root = data_root(data_dir)
    found, problems = find_idx(root, FASHION_MD5, classes=10)
    if missing := FASHION_MD5.keys() - found.keys():
        try:
            download("fashion-mnist", root, sorted(missing) if found or problems else ())
        except DataError as error:
            raise DataError(" ".join([str(error), *problems])) from error
        found, problems = find_idx(root, FASHION_MD5, classes=10)
    if lacking := sorted(FASHION_MD5.keys() - found.keys()):
        raise DataError(f"fashion-mnist was downloaded to {root}, but lacks {', '.join(lacking)}. {' '.join(problems)}")
    return [found[stem] for stem in FASHION_MD5]


def find_idx(root: Path, md5: dict[str, str], *, classes: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays whose files lie below `root`, by their official names, and what is wrong with the others.

    A file is known by its content, whatever it is called: its header says what it may be, its md5 what it is.
    """
    found: dict[str, np.ndarray] = {}
    problems = []
    stems = {header_of(stem): stem for stem in md5}
    for path in files_below(root) if root.is_dir() else ():
        start = first_bytes(path, 16)
        stem = stems.get(start) or stems.get(start[:8])
        if stem is None or stem in found:
            continue
        try:
            found[stem] = read_idx_file(path, stem, md5[stem], classes=classes, remedy="It is left as it is.")
        except DataError as error:
            problems.append(str(error))
    return found, problems


def header_of(stem: str) -> bytes:
    """The header of an official file: 16 bytes of images, 8 of labels."""
    split, kind, _ = stem.split("-", 2)
    words = (0x0803, COUNTS[split], SIDE, SIDE) if kind == "images" else (0x0801, COUNTS[split])
    return np.array(words, ">u4").tobytes()


def read_idx_files(folder: Path, md5: dict[str, str], *, classes: int, remedy: str) -> list[np.ndarray]:
    """The four arrays of `folder`, in the order of `md5`; each file may be gzip or plain."""
    arrays = []
    for stem, digest in md5.items():
        plain, packed = folder / stem, folder / f"{stem}.gz"
        path = packed if packed.exists() or not plain.exists() else plain
        arrays.append(read_idx_file(path, stem, digest, classes=classes, remedy=remedy))
    return arrays


def read_idx_file(path: Path, stem: str, md5: str, *, classes: int, remedy: str) -> np.ndarray:
    """The array of one file, which is the official file `stem`."""
    split, kind, _ = stem.split("-", 2)
    parse = parse_images if kind == "images" else partial(parse_labels, classes=classes)
    limit = 16 + COUNTS[split] * (SIDE * SIDE if kind == "images" else 1)
    return read_file(path, parse, limit=limit, md5=md5, remedy=remedy)

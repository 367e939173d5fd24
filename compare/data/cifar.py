"""CIFAR-10 (Krizhevsky 2009, cs.toronto.edu/~kriz/cifar.html), as its author publishes it and smaller.

binary   data_batch_1.bin ... data_batch_5.bin, test_batch.bin: records of 3,073 bytes, the label
         and then 32x32 pixels, all red, all green, all blue
python   data_batch_1 ... test_batch: pickled dicts with "data", uint8 (n, 3072) in the same order
         of pixels, and "labels", a list

either as files in a folder, or straight from the tar.gz archive.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compare.data.fetch import locate
from compare.data.files import DataError, md5_of, md5_of_file, read_archive, read_file
from compare.data.pickles import Call, read_pickle
from compare.data.stream import Data

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE, CHANNELS = 32, 3
PIXELS = SIDE * SIDE * CHANNELS
FULL = 10_000  # images in each of the six official files
FILE_LIMIT = FULL * (PIXELS + 1) + (1 << 20)  # the pickles also hold a file name per image
ARCHIVE_MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
}
PYTHON_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
BATCHES = tuple(PYTHON_MD5)  # the test images are the last one
REMEDY = "Move it away to have the archive of www.cs.toronto.edu/~kriz/cifar.html downloaded."
OWN = "If you wrote it, write labels.tolist() instead of an array or its elements, and pickle with protocol=4"

Batch = tuple[np.ndarray, np.ndarray]  # images uint8 (n, h, w, c), labels int32 (n,)


def parse_binary(raw: bytes | bytearray) -> Batch:
    """The records of one binary file."""
    if len(raw) == 0 or len(raw) % (PIXELS + 1):
        raise DataError(f"has {len(raw):,} bytes, which is no multiple of the {PIXELS + 1:,} of one image")
    records = np.frombuffer(raw, np.uint8).reshape(-1, PIXELS + 1)
    return _batch(records[:, 1:], records[:, 0])


def parse_python(raw: bytes | bytearray, *, md5: str | None = None) -> Batch:
    """The images of one pickled file; `md5` is that of the official file, and binds a file of the official size."""
    try:
        batch = read_pickle(raw)
    except DataError as error:
        raise DataError(f"{error}. {OWN}") from error
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise DataError('is not a pickled dict with the keys "data" and "labels"')
    pixels, labels = _array(batch["data"]), batch["labels"]
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise DataError(f"has no list of {len(pixels):,} labels for its {len(pixels):,} images. {OWN}")
    if not all(isinstance(label, int) and 0 <= label < 256 for label in labels):
        raise DataError(f"holds a label that is not a small number. {OWN}")
    if len(pixels) == FULL and md5 is not None and md5_of(raw) != md5:
        raise DataError(f"has the size of the official file but was altered (expected md5 {md5})")
    return _batch(pixels, np.array(labels, np.uint8))


def _array(call: Any) -> np.ndarray:
    """The array uint8 (n, 3072) that a pickled ndarray describes."""
    problem = DataError(f'has something else than an array uint8 (n, {PIXELS}) under "data"')
    if not isinstance(call, Call) or call.function.name != "_reconstruct" or not isinstance(call.state, tuple):
        raise problem
    match call.state:
        case (1, (int(count), int(pixels)), Call(arguments=("u1", *_)), fortran, str(content)):
            if pixels != PIXELS or count < 1 or len(content) != count * PIXELS:
                raise problem
            order: Any = "F" if fortran else "C"
            return np.frombuffer(content.encode("latin-1"), np.uint8).reshape((count, PIXELS), order=order)
    raise problem


def _batch(pixels: np.ndarray, labels: np.ndarray) -> Batch:
    """Pixels (n, 3072), one colour after the other, as images (n, h, w, c), and their labels, checked."""
    if labels.max() >= len(CLASSES):
        raise DataError(f"holds the label {labels.max()}; labels run from 0 to {len(CLASSES) - 1}")
    x = np.ascontiguousarray(pixels.reshape(-1, CHANNELS, SIDE, SIDE).transpose(0, 2, 3, 1))
    return x, labels.astype(np.int32)


def load_cifar10(data_dir: Path | None = None) -> Data:
    """CIFAR-10 from the data folder, or downloaded into it; a subset is accepted, and says so in its `note`."""
    source = locate("cifar10", find, data_dir, lacking=lacking)
    batches = read_archive_batches(source) if source.is_file() else read_folder_batches(source)
    *train, (test_x, test_y) = batches
    train_x, train_y = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    size = f"{len(train_y):,} of 50,000 training and {len(test_y):,} of 10,000 test images"
    complete = len(train_y) == 5 * FULL and len(test_y) == FULL
    return Data(
        name="cifar10",
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        classes=CLASSES,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        note="" if complete else f"a subset of CIFAR-10: {size}",
    )


def find(folder: Path) -> Path | None:
    """The folder of batch files in `folder`, or else an archive; official ones, known by their md5, first."""
    found = {place: missing for place in places(folder) if (missing := missing_from(place)) is not None}
    if complete := next((place for place, missing in found.items() if not missing), None):
        return complete
    archives = [path for end in ("tar.gz", "tgz") for path in sorted(folder.glob(f"*.{end}")) if "cifar" in path.name]
    official = (path for path in archives if md5_of_file(path) in ARCHIVE_MD5.values())
    others = (path for path in archives if path.name not in ARCHIVE_MD5)
    if archive := next(itertools.chain(official, others, archives), None):
        return archive
    for place, missing in found.items():
        if not is_official(place):  # what is published does not complete somebody's own files
            raise DataError(f"{place} lacks {', '.join(missing)}: add what is missing, or name another folder")
    return None


def places(folder: Path) -> list[Path]:
    """Where the batch files may lie."""
    inside = (sorted(folder.glob(pattern)) for pattern in ("cifar-10-*", "cifar-10-*/cifar-10-batches-*"))
    return [folder, *itertools.chain(*inside)]


def missing_from(place: Path) -> list[str] | None:
    """The batch files that a folder lacks, where it has some; None where it has none."""
    suffix = ".bin" if any((place / f"{name}.bin").is_file() for name in BATCHES) else ""
    missing = [name + suffix for name in BATCHES if not (place / (name + suffix)).is_file()]
    return None if len(missing) == len(BATCHES) else missing


def is_official(place: Path) -> bool:
    """Whether the batch files that a folder has are published ones; the binary ones are known by their size."""
    python = [place / name for name in BATCHES if (place / name).is_file()]
    binary = [place / f"{name}.bin" for name in BATCHES if (place / f"{name}.bin").is_file()]
    return all(md5_of_file(path) == PYTHON_MD5[path.name] for path in python) and all(
        path.stat().st_size == FULL * (PIXELS + 1) for path in binary
    )


def lacking(folder: Path) -> list[str]:
    """The files that are missing from the first incomplete set of batch files in `folder`."""
    return next(filter(None, map(missing_from, places(folder))), [])


def _layout(names: set[str]) -> tuple[str, Callable[[str], Callable[[bytes | bytearray], Batch]]]:
    """The suffix of the batch files, and the parser of each."""
    if "test_batch.bin" in names:
        return ".bin", lambda name: parse_binary
    return "", lambda name: partial(parse_python, md5=PYTHON_MD5[name])


def read_folder_batches(folder: Path) -> list[Batch]:
    """The six batches of a folder of files."""
    suffix, parser = _layout({path.name for path in folder.iterdir()})
    return [read_file(folder / (name + suffix), parser(name), limit=FILE_LIMIT, remedy=REMEDY) for name in BATCHES]


def read_archive_batches(path: Path) -> list[Batch]:
    """The six batches of an archive, checked against its official md5 if it has an official name."""
    expected = ARCHIVE_MD5.get(path.name)
    if expected and (md5 := md5_of_file(path)) != expected:
        raise DataError(f"{path}: is cut short or altered. md5: {md5}, expected {expected}. {REMEDY}")
    wanted = {name + suffix for name in BATCHES for suffix in ("", ".bin")}
    members = read_archive(path, wanted, limit=7 * FILE_LIMIT, remedy=REMEDY)
    suffix, parser = _layout(set(members))
    batches = []
    for name in BATCHES:
        if name + suffix not in members:
            raise DataError(f"{path}: has no member {name + suffix}. {REMEDY}")
        try:
            batches.append(parser(name)(members.pop(name + suffix)))
        except DataError as error:
            raise DataError(
                f"{path}, member {name + suffix}: {error}. md5 of the archive: {md5_of_file(path)}. {REMEDY}"
            ) from error
    return batches

"""Arrays of the user as a dataset: FILE.npz, or FILE.py:function, which returns the arrays in a dictionary.

    x, y                              images and labels: a sixth of each class becomes the test set
    x_train, y_train, x_test, y_test  the same, already split; x_val and y_val if there are some
    classes                           names of the classes, or of the tokens, if they have any

Images    uint8 (n, h, w, c) or (n, h, w), or floats from 0 to 1, which are rounded to the 256 values of a byte.
Labels    integers (n,), counted from 0.
Tokens    integers from 0 to 255 (n, t), with the token that follows each of them as the labels, integers (n, t); of x
          and y, the last sixth of the sequences becomes the test set.

Everything else is refused, with what to write instead: nothing is guessed.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compare.data.files import DataError
from compare.data.folder import TEST_SHARE, channel_statistics
from compare.data.stream import Data, numbered
from compare.python_file import load_function, shortened

PARTS = ("train", "val", "test")
WHOLE, SPLIT = ("x", "y"), ("x_train", "y_train", "x_test", "y_test")
CHANNELS = (1, 3, 4)  # of a picture: what comes first and is so small is no height


def is_arrays(name: str) -> bool:
    """Whether a dataset's name is that of a file of arrays."""
    return name.lower().endswith(".npz") or ".py:" in name


def load_arrays(source: str) -> Data:
    """The arrays of ``FILE.npz`` or ``FILE.py:function``; DataError names what is wrong with them, and the remedy."""
    arrays = read_npz(Path(source)) if source.lower().endswith(".npz") else call(source)
    try:
        return dataset(source, arrays)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error


def read_npz(file: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file; nothing in it is executed."""
    if not os.path.isfile(file):  # False also for a name that is too long
        raise DataError(f"{file}: no such file")
    try:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it is a single array, as np.save writes it")
        with found:
            return dict(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file} cannot be read as arrays ({error}): write it with np.savez(file, x=..., y=...)"
        ) from error


def call(source: str) -> Mapping[str, Any]:
    """What ``FILE.py:function`` returns."""
    name, _, function = source.rpartition(":")
    file = Path(name)
    made = load_function(file, function)
    try:
        found = made()
    except Exception as error:
        raise DataError(f"{function}() of {file} raises:\n{shortened(error, file)}") from error
    if not isinstance(found, Mapping):
        raise DataError(f"{source} returns {type(found).__name__}: return a dictionary with {' and '.join(WHOLE)}")
    return found


def dataset(name: str, arrays: Mapping[str, Any]) -> Data:
    """The dataset of these arrays, all checked."""
    notes: list[str] = []
    expected = f"x and y, or {', '.join(SPLIT)}"
    if wrong := arrays.keys() - {*WHOLE, *SPLIT, "x_val", "y_val", "classes"}:
        raise DataError(f"has unknown arrays {', '.join(sorted(wrong))}: expected {expected}")
    wanted = WHOLE if arrays.keys() & set(WHOLE) else SPLIT + (("x_val", "y_val") if "x_val" in arrays else ())
    if missing := [each for each in wanted if each not in arrays]:
        raise DataError(f"lacks {', '.join(missing)}: expected {expected}")
    if both := arrays.keys() - {*wanted, "classes"}:
        raise DataError(f"has {', '.join(sorted(both))} beside {', '.join(wanted)}: expected {expected}")
    x, y = (np.asarray(arrays[each]) for each in wanted[:2])
    sequences = x.ndim == y.ndim == 2 and x.dtype.kind in "iu"
    inputs = tokens if sequences else partial(images, notes=notes)
    targets = tokens if sequences else labels
    found = {each: (inputs if each.startswith("x") else targets)(each, arrays[each]) for each in wanted}
    if sequences:  # of their labels, which the tracks read as class numbers
        found = {each: array.astype(np.int32) if each.startswith("y") else array for each, array in found.items()}
    names = class_names(arrays.get("classes"), found)
    parts = split(found, len(names), notes) if "x" in found else found
    require_alike(parts, len(names))
    mean, std = ((0.0,), (1.0,)) if sequences else channel_statistics(parts["x_train"])
    renamed = {f"{each[2:]}_{each[0]}": array for each, array in parts.items()}
    return Data(name=name, **renamed, classes=names, mean=mean, std=std, note="; ".join(dict.fromkeys(notes)))


def tokens(name: str, given: Any) -> np.ndarray:
    """Tokens as uint8 (n, t); DataError, with the remedy, for anything else."""
    x = np.asarray(given)
    has = f"{name} has the dtype {x.dtype} and the shape {x.shape}"
    if x.ndim != 2 or not x.size:
        raise DataError(f"{has}: expected tokens (n, t), or as labels the token that follows each of them")
    if x.dtype.kind == "f" and np.array_equal(x, np.rint(x)):
        raise DataError(f"{has}: write {name}.astype(np.uint8)")
    if x.dtype.kind not in "iu":
        raise DataError(f"{has}: expected tokens, integers from 0 to 255")
    if x.min() < 0 or x.max() > 255:
        raise DataError(
            f"{name} has tokens from {x.min()} to {x.max()}: expected 0 to 255, such as the bytes of a text in UTF-8"
        )
    return np.ascontiguousarray(x, np.uint8)


def images(name: str, given: Any, notes: list[str]) -> np.ndarray:
    """Images as uint8 (n, h, w, c); DataError, with the remedy, for anything else."""
    x = np.asarray(given)
    shape = f"{name} has the shape {x.shape}"
    if x.ndim not in (3, 4) or not x.size:
        raise DataError(
            f"{shape}: expected images (n, height, width, channels) or (n, height, width), "
            f"or tokens (n, t) as integers, with labels (n, t)"
        )
    x = x if x.ndim == 4 else x[..., None]
    if x.shape[1] in CHANNELS and x.shape[3] > max(CHANNELS):
        raise DataError(f"{shape}, with channels first: write {name}.transpose(0, 2, 3, 1)")
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    has = f"{name} has the dtype {x.dtype}"
    if x.dtype == bool:
        raise DataError(f"{has}: write 255 * {name}.astype(np.uint8)")
    if x.dtype.kind not in "iuf":
        raise DataError(f"{has}: expected uint8, or floats from 0 to 1")
    if not np.isfinite(x).all():
        raise DataError(f"{name} holds NaN or infinity: expected numbers from 0 to 1")
    low, high = float(x.min()), float(x.max())
    has = f"{has} and numbers from {low:g} to {high:g}"
    if x.dtype.kind == "f" and low >= 0 and high <= 1:
        if high < 2 / 255:
            raise DataError(f"{has}, almost black: were they divided by 255 twice?")
        notes.append(f"{x.dtype} images were rounded to the 256 values of a byte")
        return np.rint(255 * x.astype(np.float64)).astype(np.uint8)
    if low >= 0 and high <= 255 and (x.dtype.kind != "f" or np.array_equal(x, np.rint(x))):
        raise DataError(f"{has}: write {name}.astype(np.uint8)")
    if x.dtype == np.uint16:
        raise DataError(f"{has}: write ({name} >> 8).astype(np.uint8) if they use 16 bits")
    raise DataError(
        f"{has}: expected uint8, or floats from 0 to 1. Give the images as they are before they are standardised; "
        "mean and standard deviation are taken from the training images"
    )


def labels(name: str, given: Any) -> np.ndarray:
    """Labels as int32 (n,); DataError, with the remedy, for anything else."""
    y = np.asarray(given)
    has = f"{name} has the dtype {y.dtype} and the shape {y.shape}"
    if y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "iufb" and np.array_equal(y.sum(axis=1), np.ones(len(y))):
        raise DataError(f"{has}, one-hot: write {name}.argmax(axis=1)")
    if y.ndim == 2 and y.shape[1] == 1:
        raise DataError(f"{has}: write {name}[:, 0]")
    if y.ndim != 1:
        raise DataError(f"{has}: expected class numbers (n,)")
    if y.dtype.kind == "f" and np.array_equal(y, np.rint(y)):
        raise DataError(f"{has}: write {name}.astype(np.int32)")
    if y.dtype.kind not in "iu":
        raise DataError(f"{has}: expected whole numbers from 0; np.unique({name}, return_inverse=True) counts names")
    if y.size and (y.min() < 0 or y.max() >= 10**6):
        raise DataError(f"{name} has class numbers from {y.min()} to {y.max()}: count the classes from 0")
    return y.astype(np.int32)


def class_names(given: Any, found: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The names of the classes, or of the tokens; without any, ``class 0``, ``class 1``, ..., or ``token 0``, ..."""
    text = any(array.ndim == 2 for array in found.values())
    numbers = [array for name, array in found.items() if text or name.startswith("y")]
    count = 1 + max(int(array.max(initial=0)) for array in numbers)
    if given is None:
        return numbered(count, "token" if text else "class")
    values = np.asarray(given).ravel().tolist()
    names = tuple(each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in values)
    if len(names) < count:
        things = "tokens" if text else "labels"
        raise DataError(f"names {len(names)} classes, and the {things} go up to {count - 1}: name {count}")
    if not text and len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"has two classes called {twice!r} in classes: give each class a name of its own")
    return names


def split(found: Mapping[str, np.ndarray], classes: int, notes: list[str]) -> dict[str, np.ndarray]:
    """x and y, of which a part is the test set, the same for every seed.

    It is a sixth of each class, at least one image; or the last sixth of the sequences, at least one.
    """
    x, y = found["x"], found["y"]
    require_labels(x, y, "x", "y")
    if x.ndim == 2:
        if len(x) < 2:
            raise DataError("has one sequence, but two are needed, one of them for testing")
        n = len(x) - max(1, len(x) // TEST_SHARE)
        notes.append("the last sixth of the sequences is the test set")
        return {"x_train": x[:n], "y_train": y[:n], "x_test": x[n:], "y_test": y[n:]}
    order = np.random.default_rng(0).permutation(len(x))
    test = np.zeros(len(x), bool)
    for k in range(classes):
        members = order[y[order] == k]
        if len(members) == 1:
            raise DataError(f"has one image of class {k}, but a class needs two, one of them for testing")
        test[members[: max(1, len(members) // TEST_SHARE) if len(members) else 0]] = True
    notes.append("a sixth of each class, drawn once for every seed, is the test set")
    return {"x_train": x[~test], "y_train": y[~test], "x_test": x[test], "y_test": y[test]}


def require_labels(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str) -> None:
    """Raise DataError unless there is a label for each image, or for each token."""
    if x.ndim == 2 and x.shape != y.shape:
        raise DataError(
            f"has tokens of the shape {x.shape} in {x_name} and labels of the shape {y.shape} in {y_name}: give one "
            "label per token, the token that follows it"
        )
    if len(x) != len(y):
        raise DataError(
            f"has {len(x):,} images in {x_name} and {len(y):,} labels in {y_name}: give one label per image"
        )


def require_alike(parts: Mapping[str, np.ndarray], classes: int) -> None:
    """Raise DataError unless the parts have inputs of one size, all labels, and training images of each class."""
    shape = parts["x_train"].shape[1:]
    for part in PARTS:
        if f"x_{part}" not in parts:
            continue
        x, y = parts[f"x_{part}"], parts[f"y_{part}"]
        require_labels(x, y, f"x_{part}", f"y_{part}")
        if x.shape[1:] != shape:
            things = "sequences" if x.ndim == 2 else "images"
            raise DataError(f"has {things} of {x.shape[1:]} in x_{part} and of {shape} in x_train: give one size")
    if classes < 2:
        raise DataError("has one class only: two are needed")
    absent = np.setdiff1d(np.arange(classes), parts["y_train"])
    if len(absent) and len(shape) > 1:  # a text need not hold each token
        some = ", ".join(map(str, absent[:10]))
        raise DataError(f"has no training images of class {some}: count the classes from 0, without gaps")

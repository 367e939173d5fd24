"""Any folder of images as a dataset, one sub-folder per class: PATH/cat/1.jpg, PATH/dog/1.png, ...

Classes   the sub-folders in alphabetical order; hidden ones are passed over.
Images    every file with a known suffix directly in a class folder; other files are passed over.
Size      the largest centred square is cut out and scaled to `image_size` (bilinear, antialiased).
Channels  3: colour (grey images get three equal channels); 1: grey (ITU-R 601 luma of colour
          images). Of 16 bits per pixel the upper 8 are kept; transparent pixels become black.
          The orientation that a camera notes in EXIF is applied; of an animation, the first image counts.
Test set  a sixth of each class, at least one image: those whose names have the smallest md5. It
          depends on nothing but the names, and stays the same for every seed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from compare.data.files import DataError, md5_of_file
from compare.data.images import suffixes
from compare.data.stream import Data

TEST_SHARE = 6


def load_folder(root: Path, *, image_size: int, channels: int) -> Data:
    """The images under `root`, uint8 (n, image_size, image_size, channels)."""
    if channels not in (1, 3):
        raise DataError(f"channels must be 1 (grey) or 3 (colour), not {channels}")
    if image_size < 1:
        raise DataError(f"image size {image_size} must be at least 1")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Name one with a sub-folder of images for each class.")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        found = f"only the class {folders[0].name}" if folders else "no class at all"
        raise DataError(f"{root}: holds {found}. It needs one sub-folder of images for each of two or more classes.")
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label, folder in enumerate(folders):
        paths = class_images(folder)
        test_count = max(1, len(paths) // TEST_SHARE)
        test += [(path, label) for path in sorted(paths[:test_count])]
        train += [(path, label) for path in sorted(paths[test_count:])]
    train_x = np.stack([read_image(path, image_size=image_size, channels=channels) for path, _ in train])
    test_x = np.stack([read_image(path, image_size=image_size, channels=channels) for path, _ in test])
    mean, std = channel_statistics(train_x)
    return Data(
        name=f"folder:{root}",
        train_x=train_x,
        train_y=np.array([label for _, label in train], np.int32),
        test_x=test_x,
        test_y=np.array([label for _, label in test], np.int32),
        classes=tuple(folder.name for folder in folders),
        mean=mean,
        std=std,
    )


def class_images(folder: Path) -> list[Path]:
    """The images of one class, ordered by the md5 of their names."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in suffixes() and not path.name.startswith(".")]
    if len(paths) < 2:
        known = " ".join(suffixes())
        raise DataError(
            f"{folder}: holds {len(paths)} images ({known}), but a class needs two, one of them for testing"
        )
    return sorted(paths, key=lambda path: hashlib.md5(path.name.encode(), usedforsecurity=False).digest())


def read_image(path: Path, *, image_size: int, channels: int) -> np.ndarray:
    """One image, uint8 (h, w, c)."""
    from compare.data.images import ImageError, open_image, to_square

    try:
        return to_square(open_image(path), size=image_size, channels=channels)
    except ImageError as error:
        where = f"{path}: {error}. md5: {md5_of_file(path)}"
        raise DataError(f"{where}. Repair the file or take it out of the folder.") from error


def channel_statistics(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of x (n, h, w, c), in 0 .. 1, exact and without a float copy."""
    values = np.arange(256) / 255
    counts = np.stack([np.bincount(x[..., channel].ravel(), minlength=256) for channel in range(x.shape[-1])])
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())  # a flat channel is not divided by 0

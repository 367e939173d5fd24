"""Any folder of images as a dataset, one sub-folder per class: PATH/cat/1.jpg, PATH/dog/1.png, ...

Classes   the sub-folders in alphabetical order; hidden, empty and system folders are passed over.
Levels    where all sub-folders are called train, val (valid, validation) or test, the classes lie inside them, and the
          images keep to those parts. Without test/, val/ is the test set. A part without classes is not used.
Images    every file with a known suffix directly in a class folder. What else lies there is counted in a note.
Size      the largest centred square is cut out and scaled to `image_size` (bilinear, antialiased).
Channels  3: colour (grey images get three equal channels); 1: grey (ITU-R 601 luma of colour
          images). Deep greys are scaled by the bits they use; transparent pixels become black.
          The orientation that a camera notes in EXIF is applied; of an animation, the first image counts.
Test set  without levels, a sixth of each class, at least one image: those whose names have the smallest md5. It
          depends on nothing but the names (in Unicode's NFC form), and stays the same for every seed and machine.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compare.data.files import DataError, md5_of_file
from compare.data.images import ImageError, open_image, suffixes, to_square
from compare.data.stream import Data

TEST_SHARE = 6
LEVELS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SYSTEM = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
IMBALANCED = 3  # times as many images in the largest class as in the smallest are worth a note
LISTED = 20  # names in a message

Labelled = list[tuple[Path, int]]


@dataclass
class Notes:
    """What was passed over, for one line at the end."""

    lines: list[str] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)
    dangling: list[Path] = field(default_factory=list)

    def text(self) -> str:
        """Everything in one line, "" if there is nothing to say."""
        left_out = ", ".join(f"{count} {suffix}" for suffix, count in self.suffixes.most_common())
        lines = [*self.lines, f"left out: {left_out}" if left_out else ""]
        if self.dangling:
            lines.append(f"links to nothing: {listed(map(str, self.dangling))}")
        return "; ".join(filter(None, lines))


def load_folder(root: Path, *, image_size: int, channels: int) -> Data:
    """The images under `root`, uint8 (n, image_size, image_size, channels)."""
    if channels not in (1, 3):
        raise DataError(f"channels must be 1 (grey) or 3 (colour), not {channels}")
    if image_size < 1:
        raise DataError(f"image size {image_size} must be at least 1")
    if not os.path.isdir(root):  # False also for a name that is too long
        wrong = "is a file, not a folder: unpack it if it is an archive" if os.path.exists(root) else "no such folder"
        raise DataError(f"{root}: {wrong}. Name a folder with a sub-folder of images for each class.")
    notes = Notes()
    levels = split_levels(root)
    parts = {part: class_images(folder, notes) for part, folder in (levels or {"train": root}).items()}
    for part in [part for part, found in parts.items() if part != "train" and not found]:
        notes.lines.append(f"{part} has no class with images, so it is not used")
        del parts[part]
    classes = sorted({name for found in parts.values() for name in found})
    require_classes(levels.get("train", root), parts, classes)
    files = levelled(parts, classes, notes) if len(parts) > 1 else drawn(parts["train"], classes)
    arrays = read_all(files, image_size=image_size, channels=channels)
    counts = Counter(label for _, label in files["train"])
    if max(counts.values()) >= IMBALANCED * min(counts.values()):
        each = ", ".join(f"{classes[label]} {count:,}" for label, count in sorted(counts.items()))
        notes.lines.append(f"imbalanced, training images per class: {each}")
    mean, std = channel_statistics(arrays["train_x"])
    named = tuple(map(readable, classes))
    return Data(name=f"folder:{root}", **arrays, classes=named, mean=mean, std=std, note=notes.text())


# --- which files ------------------------------------------------------------------------------------------------------


def name_of(path: Path) -> str:
    """Its name in Unicode's NFC form: macOS writes é as two characters, others as one."""
    return unicodedata.normalize("NFC", path.name)


def readable(name: str) -> str:
    """A name that can be printed: bytes that are no UTF-8 become replacement characters."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def listed(names: Iterable[str]) -> str:
    """Up to LISTED names, and how many more."""
    shown = [readable(name) for name in names]
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return ", ".join(shown[:LISTED]) + more


def folders_in(root: Path) -> list[Path]:
    """Its sub-folders by name, hidden and system ones aside."""
    paths = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted((path for path in paths if path.name.lower() not in SYSTEM), key=name_of)


def split_levels(root: Path) -> dict[str, Path]:
    """The folders train, val and test of `root`, if it has nothing else and a class lies in train; else {}.

    DataError if two of them are the same part, as val and valid are.
    """
    folders = [path for path in folders_in(root) if any(path.iterdir())]
    found = {LEVELS.get(path.name.lower(), path.name): path for path in folders}
    if not (found.keys() <= set(LEVELS.values()) and "train" in found and folders_in(found["train"])):
        return {}
    for path in folders:
        if (other := found[LEVELS[path.name.lower()]]) != path:
            raise DataError(f"{root}: holds {path.name} and {other.name}, which are the same part: merge them")
    return found


def class_images(root: Path, notes: Notes) -> dict[str, list[Path]]:
    """Class -> its images, by the md5 of their names; classes without images are passed over with a note."""
    for path in root.iterdir():
        if path.is_symlink() and not path.exists():
            notes.dangling.append(path)
        elif path.suffix.lower() in suffixes() and path.is_file() and not path.name.startswith("."):
            notes.suffixes[f"{path.suffix.lower()} outside the class folders"] += 1
    classes: dict[str, list[Path]] = {}
    for folder in folders_in(root):
        images = []
        for path in folder.iterdir():
            if path.name.startswith(".") or path.name.lower() in SYSTEM_FILES:
                continue
            if path.is_symlink() and not path.exists():
                notes.dangling.append(path)
            elif path.suffix.lower() in suffixes() and path.is_file():
                images.append(path)
            else:
                notes.suffixes[(path.suffix.lower() or "without suffix") if path.is_file() else "sub-folders"] += 1
        if images:
            if name_of(folder) in classes:
                raise DataError(f"{root}: holds two folders called {readable(name_of(folder))}: rename one")
            classes[name_of(folder)] = sorted(images, key=order)
        else:
            notes.lines.append(f"{readable(folder.name)} holds no images")
    return classes


def order(path: Path) -> bytes:
    """The md5 of a file's name; of any bytes, also such as are no UTF-8."""
    return hashlib.md5(name_of(path).encode("utf-8", "surrogateescape"), usedforsecurity=False).digest()


def require_classes(root: Path, parts: dict[str, dict[str, list[Path]]], classes: list[str]) -> None:
    """Raise DataError unless there are two classes with enough images; ``root`` has those of the training images."""
    if len(classes) < 2:
        found = f"only the class {readable(classes[0])}" if classes else "no class at all"
        needed = "It needs a sub-folder of images for each of two or more classes"
        raise DataError(f"{root}: holds {found}. {needed}{misplaced(root)}.")
    if missing := [name for name in classes if name not in parts["train"]]:
        raise DataError(f"{root}: has no images of the classes {listed(missing)}")
    for name, paths in parts["train"].items():
        if len(parts) == 1 and len(paths) < 2:
            raise DataError(
                f"{paths[0].parent}: holds {len(paths)} image of class {readable(name)}, but a class needs two, one of "
                "them for testing"
            )


def misplaced(root: Path) -> str:
    """Where images lie that do not count, as the end of a sentence; "" if there are none."""
    files = sorted(path.relative_to(root) for pattern in ("*", "*/*", "*/*/*") for path in root.glob(pattern))
    for path in files:
        if path.suffix.lower() in (".heic", ".heif"):
            return f"; HEIC photos such as {readable(str(path))} do not count: save them as JPEG"
        if path.suffix.lower() in suffixes() and len(path.parts) != 2:
            where = "directly in it" if len(path.parts) == 1 else "one folder deeper"
            return f", but images lie {where}, such as {readable(str(path))}"
    return ""


def drawn(train: dict[str, list[Path]], classes: list[str]) -> dict[str, Labelled]:
    """A sixth of each class for testing."""
    parts: dict[str, Labelled] = {"train": [], "test": []}
    for label, name in enumerate(classes):
        paths = train[name]
        count = max(1, len(paths) // TEST_SHARE)
        parts["test"] += [(path, label) for path in sorted(paths[:count], key=name_of)]
        parts["train"] += [(path, label) for path in sorted(paths[count:], key=name_of)]
    return parts


def levelled(parts: dict[str, dict[str, list[Path]]], classes: list[str], notes: Notes) -> dict[str, Labelled]:
    """The parts as their folders say."""
    files = {
        part: [(path, classes.index(name)) for name in sorted(found) for path in sorted(found[name], key=name_of)]
        for part, found in parts.items()
    }
    if not files.get("test"):
        files["test"] = files.pop("val")
        notes.lines.append("there is no test folder: val is the test set")
    for part in ("val", "test"):
        if part in files and (missing := {*range(len(classes))} - {label for _, label in files[part]}):
            notes.lines.append(f"{part} has no images of {listed(classes[label] for label in sorted(missing))}")
    return files


# --- reading ----------------------------------------------------------------------------------------------------------


def read_all(files: dict[str, Labelled], *, image_size: int, channels: int) -> dict[str, np.ndarray]:
    """``train_x``, ``train_y``, ... of all parts; every file that cannot be read is named in one DataError."""
    arrays: dict[str, np.ndarray] = {}
    problems = []
    for part, labelled in files.items():
        x = np.empty((len(labelled), image_size, image_size, channels), np.uint8)
        for k, (path, _) in enumerate(labelled):
            try:
                x[k] = read_image(path, image_size=image_size, channels=channels)
            except DataError as error:
                problems.append(str(error))
        arrays |= {f"{part}_x": x, f"{part}_y": np.array([label for _, label in labelled], np.int32)}
    if problems:
        total = sum(map(len, files.values()))
        more = [f"and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        what = f"{len(problems)} of {total} images cannot be read. Repair the files or take them out of the folder:"
        raise DataError("\n".join([what, *sorted(problems)[:LISTED], *more]))
    return arrays


def read_image(path: Path, *, image_size: int, channels: int) -> np.ndarray:
    """One image, uint8 (h, w, c)."""
    try:
        return to_square(open_image(path), size=image_size, channels=channels)
    except ImageError as error:
        raise DataError(f"{readable(str(path))}: {error}. md5: {md5_of_file(path)}") from error


def channel_statistics(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of x (n, h, w, c), in 0 .. 1, exact and without a float copy."""
    values = np.arange(256) / 255
    counts = np.stack([np.bincount(x[..., channel].ravel(), minlength=256) for channel in range(x.shape[-1])])
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ values
    std = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())  # a flat channel is not divided by 0

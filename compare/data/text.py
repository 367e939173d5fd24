"""A text as a dataset: windows of characters, each labelled with the character that follows it.

A token is an ASCII character, so its number is its byte. The windows follow one another without overlap; each
character of the text is the label of exactly one window. A window takes the place of an image: it is drawn, split,
loaded and placed on a device in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compare.data.files import DataError, read_file
from compare.data.stream import Data

FOLDER = Path(__file__).with_name("shakespeare")
MD5 = {  # of the raw bytes
    "train": "461c5d13bd54e5b04a26a86436788fb4",
    "test": "4d8c54c17c7abf91145314cb18fb861d",
}
TEXTS = ("shakespeare",)  # names of the datasets that are texts
WINDOW = 128  # characters
CHARACTERS = tuple(map(chr, range(128)))
LIMIT = 2_000_000  # raw bytes of a file at most


def unit(dataset: str, shape: Sequence[int]) -> str:
    """What a dataset has a label for, given the shape of one of its examples: "images", "characters" or "tokens"."""
    if dataset in TEXTS:
        return "characters"
    return "tokens" if len(shape) == 1 else "images"


def encode(text: bytes | bytearray) -> np.ndarray:
    """The tokens uint8 (n,) of a text; DataError if it is not ASCII."""
    tokens = np.frombuffer(text, np.uint8)
    if len(tokens) and tokens.max() >= len(CHARACTERS):
        raise DataError(f"holds the byte {tokens.max()}; only ASCII characters are supported")
    return tokens


def windows(tokens: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text into windows x uint8 (n, t), with the following characters as labels y int32 (n, t).

    The last characters, fewer than a window, are left out. DataError if the text is shorter than a window.
    """
    n = (len(tokens) - 1) // t
    if n < 1:
        raise DataError(f"has {len(tokens):,} characters; a window of {t} and the character after it need {t + 1}")
    return tokens[: n * t].reshape(n, t), tokens[1 : n * t + 1].reshape(n, t).astype(np.int32)


def load_shakespeare(_data_dir: Path | None = None) -> Data:
    """Ten plays to train on and one to test with, which ship with this package (see the README beside them)."""
    remedy = "Restore it with `git checkout -- compare/data/shakespeare`, or install the project again."
    parts = {
        part: read_file(FOLDER / f"{part}.txt.gz", encode, limit=LIMIT, md5=md5, remedy=remedy)
        for part, md5 in MD5.items()
    }
    (train_x, train_y), (test_x, test_y) = (windows(parts[part], WINDOW) for part in ("train", "test"))
    return Data(
        name="shakespeare",
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        classes=CHARACTERS,
        mean=(0.0,),  # tokens are not scaled
        std=(1.0,),
    )

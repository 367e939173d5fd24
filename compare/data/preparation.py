"""How the images of a dataset were made from pictures, so that a network's user can prepare pictures alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DIGITS = tuple("0123456789")
DIGIT_SETS = {"mnist", "qmnist", "emnistdigits", "emnistmnist"}
DARK = 64  # of 255: a background below it is dark
HOW, GROUND = ("digit", "square"), ("dark", "any")


@dataclass(frozen=True)
class Preparation:
    """``how``: "digit", found, scaled and centred as MNIST's, or "square", the centred square, scaled.

    ``ground``: "dark" where the images are light on dark, else "any". ``known`` is False where both are a guess.
    """

    how: str = "square"
    ground: str = "any"
    known: bool = True

    def to_json(self) -> dict[str, str]:
        """What is stored with a network."""
        return {"how": self.how, "ground": self.ground, "layout": "NHWC uint8"}


def of_dataset(name: str, classes: Sequence[str], x: np.ndarray) -> Preparation:
    """How the images x uint8 (n, h, w, c) of a dataset were made; the background is looked up in the first thousand."""
    first = x[:1000]
    edges = np.concatenate([first[:, 0], first[:, -1], first[:, :, 0], first[:, :, -1]], axis=1)
    dark = x.shape[-1] == 1 and np.mean(np.median(edges, axis=(1, 2)) < DARK) > 0.9
    how = "digit" if is_digits(name, classes, x.shape[1:]) else "square"
    return Preparation(how, "dark" if dark else "any")


def read(stored: Any, dataset: str, classes: Sequence[str], shape: Sequence[int]) -> Preparation:
    """What a file stores, or, where it is older, what the dataset's name, classes and shape (h, w, c) suggest."""
    if len(shape) == 1:  # a text
        return Preparation(known=False)
    if isinstance(stored, Mapping) and stored.get("how") in HOW and stored.get("ground") in GROUND:
        return Preparation(stored["how"], stored["ground"])
    if is_digits(dataset, classes, shape):
        return Preparation("digit", "dark")
    if "mnist" in dataset.lower():
        return Preparation("square", "dark")
    return Preparation(known=shape[-1] != 1)


def is_digits(name: str, classes: Sequence[str], shape: Sequence[int]) -> bool:
    """Images like MNIST's: of its size, with its classes or under one of its names ("tfds:mnist:3.0.1")."""
    plain = "".join(filter(str.isalpha, name.lower().removeprefix("tfds:")))
    return tuple(shape) == (28, 28, 1) and (tuple(classes) == DIGITS or plain in DIGIT_SETS)

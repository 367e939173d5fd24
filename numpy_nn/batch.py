"""What all three tracks accept as images and labels, checked in one place.

    images   uint8, 0 to 255: (n, h, w, c), with a leading axis k where there is one batch per step
    labels   class numbers, 0 to v - 1, or below zero for padding: (n,); or distributions over the classes: (n, v)
    tokens   uint8 (n, t), of at most as many positions as the network has; their labels are class numbers (n, t)

Views of any strides and read-only arrays are accepted, and class numbers of any integer type.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

STEPS, ONE = ("k", "n"), ("n",)  # leading axes: a batch per step, or one batch
PADDING = -1


@dataclass(frozen=True)
class Batches:
    """The images, or sequences of tokens, and the labels that a network takes."""

    image: tuple[int, ...]  # (h, w, c), or (t,)
    classes: int

    @property
    def sequences(self) -> bool:
        """Are the inputs sequences of tokens, with a label for each?"""
        return len(self.image) == 1

    @classmethod
    def of(cls, model: Any, args: Mapping[str, Any]) -> Batches:
        """Those of a model, given its class in any of the tracks and its arguments."""
        parameters = inspect.signature(model.__init__).parameters
        image, classes = (args.get(name, parameters[name].default) for name in ("input_shape", "classes"))
        return cls(tuple(image), int(classes))

    def images(self, x: Any, axes: tuple[str, ...] = ONE) -> np.ndarray:
        """The images, writable and contiguous; ValueError for another dtype or shape."""
        x = np.asarray(x)
        if x.dtype != np.uint8:
            hint = "; (255 * x).round().astype(np.uint8) makes them of 0 to 1" if x.dtype.kind == "f" else ""
            raise ValueError(f"images have dtype {x.dtype}: expected uint8, 0 to 255{hint}")
        if self.sequences:
            if x.ndim != len(axes) + 1 or not 0 < x.shape[-1] <= self.image[0] or not x.size:
                raise ValueError(
                    f"tokens have shape {x.shape}: expected ({', '.join(axes)}, t) with t at most {self.image[0]}"
                )
        elif x.ndim != len(axes) + len(self.image) or x.shape[len(axes) :] != self.image or not x.size:
            hint = ""
            if x.ndim == len(axes) + len(self.image) - 1 and (*x.shape[len(axes) :], 1) == self.image:
                hint = "; x[..., None] adds the axis of the channels"
            expected = ", ".join([*axes, *map(str, self.image)])
            raise ValueError(f"images have shape {x.shape}: expected ({expected}){hint}")
        return np.require(x, requirements=["C", "W"])

    def labels(self, y: Any, axes: tuple[str, ...] = ONE) -> np.ndarray:
        """Class numbers as int32, padding as -1, or distributions as they are; ValueError for any other."""
        y = np.asarray(y)
        if np.issubdtype(y.dtype, np.integer):
            axes = (*axes, "t") if self.sequences else axes
            if y.ndim != len(axes):
                raise ValueError(f"labels have shape {y.shape}: expected class numbers ({', '.join(axes)})")
            if y.size and y.max() >= self.classes:
                raise ValueError(
                    f"labels must be 0 to {self.classes - 1}, found {y.max()}: labels that begin at 1 need y - 1"
                )
            return np.maximum(y, PADDING).astype(np.int32) if y.dtype.kind == "i" else y.astype(np.int32)
        if not np.issubdtype(y.dtype, np.floating):
            raise ValueError(f"labels have dtype {y.dtype}: expected integers, or floating-point distributions")
        if self.sequences:
            raise ValueError(f"labels have dtype {y.dtype}: expected the class numbers of the tokens, as integers")
        if y.ndim != len(axes) + 1 or y.shape[-1] != self.classes:
            raise ValueError(
                f"labels have dtype {y.dtype} and shape {y.shape}: expected class numbers as integers "
                f"({', '.join(axes)}), or distributions ({', '.join(axes)}, {self.classes})"
            )
        return np.require(y, y.dtype.newbyteorder("="), ["C", "W"])

    def pairs(self, x: Any, y: Any, axes: tuple[str, ...] = ONE) -> tuple[np.ndarray, np.ndarray]:
        """As many images as labels."""
        x, y = self.images(x, axes), self.labels(y, axes)
        shared = len(axes) + self.sequences  # axes that both have
        if x.shape[:shared] != y.shape[:shared]:
            raise ValueError(f"images of shape {x.shape} and labels of shape {y.shape}: expected as many of both")
        return x, y

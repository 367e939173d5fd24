"""Checks of settings, data and losses; each raises UserError or returns None."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compare import tracks
from compare.config import Config
from compare.data import Data
from compare.data.stream import described
from compare.errors import UserError

NOT_FINITE = "the loss became"  # nan, or inf: how the message begins


def require_validation(config: Config, data: Data) -> None:
    """Raise UserError where ``patience`` or ``keep_best`` is set and there are no validation images."""
    if (config.patience is not None or config.keep_best) and not len(data.val_y):
        raise UserError("patience and keep_best need validation images, and there are none: increase val_size")


def require_images(config: Config, data: Data) -> None:
    """Raise UserError where the dataset's examples are not of the network's shape or number of classes."""
    shape = tuple(tracks.model_argument(config.model, config.model_args, "input_shape"))
    classes = tracks.model_argument(config.model, config.model_args, "classes")
    there = data.train_x.shape[1:]
    if (shape, classes) != (there, len(data.classes)):
        raise UserError(
            f"{config.preset} takes {described(shape, classes)}; {data.name} has "
            f"{described(there, len(data.classes))}: choose another preset or dataset"
        )
    if len(shape) == 1 and config.augment:
        raise UserError(f"{config.preset} trains on a text, and only images are augmented: choose augment=[]")


def require_same_data(path: Path, meta: Mapping[str, Any], data: Data) -> None:
    """Raise UserError if the checkpoint with this metadata was trained on other data."""
    then, now = meta["data"]["digest"], data.digest
    if then != now:
        raise UserError(
            f"{path} was trained on other data: {data.name} had SHA-256 {then[:12]}… then and has {now[:12]}… "
            "now; restore the data, or train from the start"
        )


def require_steps_left(path: Path, step: int, steps: int) -> None:
    """Raise UserError if a checkpoint is already at the last of so many steps."""
    if step >= steps:
        raise UserError(f"{path} is already at step {step:,} of {steps:,}: increase --steps")


def require_finite(loss: np.ndarray, first_step: int, config: Config) -> None:
    """Raise UserError at the first loss that is NaN or infinite; loss (k,) of the steps from ``first_step`` on."""
    bad = np.flatnonzero(~np.isfinite(loss))
    if len(bad):
        raise UserError(
            f"{NOT_FINITE} {loss[bad[0]]} at step {first_step + bad[0]:,}; try a lower learning rate than {config.lr:g}"
        )

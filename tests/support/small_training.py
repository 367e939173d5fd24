"""A training of seconds on images made up here, for tests of the loop, of resuming and of what is reported."""

from __future__ import annotations

import numpy as np

from compare.config import Config
from compare.data import Data

# Everything that a step may depend on: moments, a schedule, an average, distorted images, the best state.
CONFIG = Config(
    preset="small",
    model="mlp",
    model_args={"hidden": (16,), "input_shape": (8, 8, 1), "classes": 3},
    dataset="mnist",
    augment=("crop:1", "flip"),
    steps=60,
    batch_size=20,
    eval_batch_size=50,
    optimizer="adamw",
    optimizer_args={"weight_decay": 1e-2, "clip_norm": 1.0},
    ema=0.9,
    lr=1e-2,
    keep_best=True,
)


def separable(rng: np.random.Generator) -> Data:
    """200 training, 50 validation and 50 test images of three classes, which differ in brightness."""
    y = rng.integers(0, 3, 300).astype(np.int32)
    x = (rng.integers(0, 160, (300, 8, 8, 1)) + 30 * y[:, None, None, None]).astype(np.uint8)
    parts = {"train_x": x[:200], "train_y": y[:200], "val_x": x[200:250], "val_y": y[200:250]}
    return Data(
        name="made up", **parts, test_x=x[250:], test_y=y[250:], classes=("a", "b", "c"), mean=(0.4,), std=(0.2,)
    )

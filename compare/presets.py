"""Named runs, each with its promise: the accuracy and the time that were measured with it."""

from __future__ import annotations

import difflib
from typing import Any

from compare.config import Config
from compare.errors import UserError

DEFAULT = ("mlp-mnist", "cnn-mnist")

NESTEROV: dict[str, Any] = {"optimizer": "nesterov", "optimizer_args": {"weight_decay": 5e-4}, "lr": 0.1}
ADAMW: dict[str, Any] = {"optimizer": "adamw", "optimizer_args": {"weight_decay": 1e-2, "clip_norm": 1.0}, "lr": 3e-3}

PRESETS = {
    config.preset: config
    for config in (
        Config(
            preset="mlp-mnist",
            model="mlp",
            dataset="mnist",
            promise="98.5 %, 15 to 30 s a track on two cores",
            epochs=10,
            numpy_threads="blas",  # its matrices are large: 1.3 times the speed of splitting the batch
            **NESTEROV,
        ),
        Config(
            preset="cnn-mnist",
            model="cnn",
            dataset="mnist",
            promise="99.3 %, 30 to 65 s a track on two cores",
            epochs=5,
            batch_size=64,
            **NESTEROV,
        ),
        Config(
            preset="cnn-mnist-augmented",
            model="cnn",
            model_args={"channels": (32, 64)},
            dataset="mnist",
            promise="99.5 % (PyTorch, one seed)",
            augment=("affine:10:2",),
            epochs=10,
            batch_size=64,
            **NESTEROV,
        ),
        Config(
            preset="lstm-mnist",
            model="lstm",
            dataset="mnist",
            promise="98.9 % (PyTorch, two seeds)",
            epochs=4,
            batch_size=64,
            **ADAMW,
        ),
    )
}


def get(name: str) -> Config:
    """Look up a preset; an unknown name is answered with the known ones."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"unknown preset {name!r}.{hint} Known: {', '.join(PRESETS)}")
    return PRESETS[name]

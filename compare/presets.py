"""Named runs, each with its promise: the accuracy and the time that were measured with it."""

from __future__ import annotations

import difflib

from compare.config import Config
from compare.errors import UserError

DEFAULT = ("mlp-mnist", "cnn-mnist")

PRESETS = {
    config.preset: config
    for config in (
        Config(
            preset="mlp-mnist",
            model="mlp",
            dataset="mnist",
            promise="98.6 %",
            epochs=10,
            batch_size=128,
            lr=0.1,
            optimizer="nesterov",
            optimizer_args={"weight_decay": 5e-4},
        ),
        Config(
            preset="cnn-mnist",
            model="cnn",
            dataset="mnist",
            promise="99.3 %",
            epochs=5,
            batch_size=64,
            lr=0.1,
            optimizer="nesterov",
            optimizer_args={"weight_decay": 5e-4},
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

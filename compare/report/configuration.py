"""The configuration card: what was trained, by network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from compare.results.runs import groups
from compare.results.schema import Results, RunResult


def configurations(results: Results) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of a table: a column for each network, the settings of its first run in the rows."""
    environment = results["environment"]
    machine = {
        "hardware": f"{environment['cpu'] or 'unknown CPU'}, {environment['cores'] or 'unknown'} cores",
        "commit": (environment["git_commit"] or "-")[:12],
    }
    columns: dict[str, dict[str, str]] = {}
    for preset, tracks in groups(results).items():
        runs = [run for same in tracks.values() for run in same]
        columns[preset] = _settings(runs) | machine
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return ["setting", *columns], [[name, *(column[name] for column in columns.values())] for name in names]


def _settings(runs: list[RunResult]) -> dict[str, str]:
    """What was trained, with which optimizer, on what."""
    first = runs[0]
    config, flops = first["config"], first["flops_per_image"]
    parameters = next((run["parameters"] for run in runs if run["parameters"]), None)
    optimizer_args = dict(config.get("optimizer_args") or {})
    decay = optimizer_args.pop("weight_decay", 0)
    epochs = config.get("epochs") or 0
    length = f"{config['steps']:,} steps" if config.get("steps") else f"{epochs:g} epoch{'s' if epochs != 1 else ''}"
    return {
        "network": _call(first["model"], _layers(first["model"]) | dict(config.get("model_args") or {})),
        "parameters": f"{parameters:,}" if parameters else "-",
        "FLOPs per image, forward and backward": f"{flops:,}" if flops else "-",
        "dataset": first["dataset"],
        "batch": f"{first['batch_size']:,}",
        "length": length,
        "optimizer": _call(config["optimizer"], optimizer_args),
        "learning rate": f"{config['lr']:g}",
        "schedule": _call(config["schedule"], config.get("schedule_args")),
        "weight decay": f"{decay:g}",
        "augmentation": ", ".join(map(str, config.get("augment") or ())) or "none",
        "precision": first["precision"],
        "seeds": ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs})),
    }


def _layers(model: str) -> dict[str, Any]:
    """The arguments that a network has unless others are given; {} for one that is not known here."""
    from numpy_nn.models import MODELS

    if model not in MODELS:
        return {}
    return {name: each.default for name, each in inspect.signature(MODELS[model]).parameters.items()}


def _call(name: str, arguments: Mapping[str, Any] | None) -> str:
    """``mlp(hidden=[512, 512])``."""
    given = ", ".join(
        f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in (arguments or {}).items()
    )
    return f"{name}({given})" if given else name

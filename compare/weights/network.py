"""A trained network in memory: its parameters, and the facts that its use needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compare import data, tracks
from compare.data import cifar, idx
from compare.weights.npz import WeightsError
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, leaves

CLASSES = {"mnist": tuple("0123456789"), "fashion-mnist": idx.FASHION_CLASSES, "cifar10": cifar.CLASSES}


@dataclass
class Network:
    """A trained network as it is used: its numbers, and what they were trained on."""

    model: str  # a name in MODELS
    args: dict[str, Any]  # of the model
    params: Tree  # their average, where one was kept
    stats: Tree
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    dataset: str = "elsewhere"
    meta: dict[str, Any] = field(default_factory=dict)  # of the checkpoint
    states: dict[str, Any] = field(default_factory=dict, init=False, repr=False)  # by track, made on first use

    @property
    def snapshot(self) -> Tree:
        """``params`` and ``stats``, from which any track starts."""
        return {"params": self.params, "stats": self.stats}

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        h, w, c = tracks.model_argument(self.model, self.args, "input_shape")
        return h, w, c

    def logits(self, x: np.ndarray, track: str = "numpy") -> np.ndarray:
        """Outputs (n, v) of a track for images as the dataset has them: x uint8 (n, h, w, c)."""
        module = tracks.load(track)
        if track not in self.states:
            try:
                self.states[track] = module.init_state(
                    {"params": self.params, "stats": self.stats},
                    model=self.model,
                    model_args=self.args,
                    mean=self.mean,
                    std=self.std,
                    schedule_args={"lr": 0.0, "steps": 1},
                )
            except (TypeError, ValueError, LookupError) as error:
                raise WeightsError(f"this is no {self.model} with {self.args}: {error}") from error
        return np.asarray(module.logits(self.states[track], x))


def describe(snapshot: Mapping[str, Any], meta: Mapping[str, Any]) -> Network:
    """What the metadata say of a snapshot; what older ones leave out is the dataset's."""
    config = meta.get("config")
    if not isinstance(config, Mapping) or config.get("model") not in MODELS:
        known = ", ".join(MODELS)
        raise WeightsError(f"does not say which network this is: its metadata need a config with a model ({known})")
    model, args, dataset = config["model"], tuples(config.get("model_args") or {}), config.get("dataset", "elsewhere")
    params, stats = snapshot.get("ema") or snapshot.get("params", {}), snapshot.get("stats", {})
    if bad := [path for path, leaf in leaves({"params": params, "stats": stats}).items() if not is_finite(leaf)]:
        raise WeightsError(f"holds numbers that are not finite, in {', '.join(bad)}: take an earlier checkpoint")
    try:
        mean, std = (tuple(float(value) for value in meta[name]) for name in ("mean", "std"))
    except KeyError:
        if dataset == "elsewhere":
            raise WeightsError("does not say how its images were scaled: import it again with --dataset") from None
        source = data.load(dataset, data_dir=config.get("data_dir"))
        mean, std = source.mean, source.std
    count = tracks.model_argument(model, args, "classes")
    names = meta.get("classes") or CLASSES.get(dataset) or ()
    classes = tuple(map(str, names)) if len(names) == count else tuple(f"class {k}" for k in range(count))
    return Network(model, args, dict(params), dict(stats), mean, std, classes, dataset, dict(meta))


def tuples(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as they were before JSON made lists of their tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}


def is_finite(leaf: Any) -> bool:
    """Floating-point numbers, none of them infinite or NaN."""
    return np.issubdtype(np.asarray(leaf).dtype, np.floating) and bool(np.isfinite(leaf).all())

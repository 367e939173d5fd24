"""A trained network in memory: its parameters, and the facts that its use needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compare import data, networks, tracks
from compare.config import UNKNOWN
from compare.data import cifar, idx, preparation
from compare.data.preparation import Preparation
from compare.data.stream import numbered
from compare.errors import UserError, short
from compare.weights import energy
from compare.weights.npz import WeightsError
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, count, leaves

CLASSES = {"mnist": tuple("0123456789"), "fashion-mnist": idx.FASHION_CLASSES, "cifar10": cifar.CLASSES}
DEPTHS = {"stages", "blocks", "depth"}  # arguments that count layers
HARMLESS = 100_000  # numbers that any network may have
# What is kept of a checkpoint's metadata.
KEPT = ("format", "track", "step", "versions", "git_commit", "data", "metrics", energy.KEY)
COUNT_LIMIT, SIZE_LIMIT = 1000, 4096  # layers and sizes that any network may have


@dataclass
class Network:
    """A trained network as it is used: its numbers, and what they were trained on."""

    model: str  # a name in MODELS, or the path of a file
    args: dict[str, Any]  # of the model
    params: Tree  # their average, where one was kept
    stats: Tree
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    dataset: str = UNKNOWN
    meta: dict[str, Any] = field(default_factory=dict)  # of the checkpoint
    preparation: Preparation = field(default_factory=Preparation)  # of the pictures that it sees
    energy_threshold: float | None = None  # energy score that images like those of its training exceed
    states: dict[str, Any] = field(default_factory=dict, init=False, repr=False)  # by track, made on first use

    @property
    def snapshot(self) -> Tree:
        """``params`` and ``stats``, from which any track starts."""
        return {"params": self.params, "stats": self.stats}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Height, width and channels of its images, or the number of characters that it sees of a text."""
        return tuple(tracks.model_argument(self.model, self.args, "input_shape"))

    def logits(self, x: np.ndarray, track: str = "numpy") -> np.ndarray:
        """Outputs (n, v) of a track for images as the dataset has them: x uint8 (n, h, w, c)."""
        return np.asarray(tracks.load(track).logits(self.state(track), x))

    def state(self, track: str) -> Any:
        """The network as a track has it."""
        if track not in self.states:
            try:
                self.states[track] = tracks.load(track).init_state(
                    {"params": self.params, "stats": self.stats},
                    model=self.model,
                    model_args=self.args,
                    mean=self.mean,
                    std=self.std,
                    schedule_args={"lr": 0.0, "steps": 1},
                )
            except (TypeError, ValueError, LookupError) as error:
                raise WeightsError(f"the weights do not fit {self.model} with {self.args}: {error}") from error
        return self.states[track]


def description(network: Network, **more: Any) -> dict[str, Any]:
    """What travels with the numbers: enough to build the network again and to prepare images for it."""
    config = {**network.meta["config"], "model_args": network.args, "dataset": network.dataset, "data_dir": None}
    facts: dict[str, Any] = {"mean": network.mean, "std": network.std, "classes": network.classes}
    facts |= {"prepared": network.preparation.to_json()} if network.preparation.known else {}
    return {name: network.meta[name] for name in KEPT if name in network.meta} | {"config": config} | facts | more


def describe(snapshot: Mapping[str, Any], meta: Mapping[str, Any], network: Path | None = None) -> Network:
    """What the metadata say of a snapshot; what older ones leave out is the dataset's.

    ``network`` is the file of a network of the user: no file is run only because a checkpoint names it.
    """
    config = model_of(meta.get("config"), network)
    model, stored, dataset = config["model"], config.get("model_args") or {}, config.get("dataset", UNKNOWN)
    if not isinstance(stored, Mapping) or not isinstance(dataset, str):
        raise WeightsError("has a config whose model_args are not an object, or whose dataset is not a name")
    dataset = UNKNOWN if dataset == "elsewhere" else dataset
    args = networks.tuples(stored)
    params, stats = snapshot.get("ema") or snapshot.get("params", {}), snapshot.get("stats", {})
    arrays = leaves({"params": params, "stats": stats})
    require_plausible(args, [np.shape(leaf) for leaf in arrays.values()])
    if bad := [path for path, leaf in arrays.items() if not is_finite(leaf)]:
        raise WeightsError(f"holds numbers that are not finite, in {', '.join(bad)}: take an earlier checkpoint")
    mean, std = scaling(meta, dataset, config.get("data_dir"))
    try:
        v = int(tracks.model_argument(model, args, "classes"))
        shape = tuple(map(int, tracks.model_argument(model, args, "input_shape")))
        if not networks.is_file(model):
            if len(shape) != len(tracks.model_argument(model, {}, "input_shape")):
                raise ValueError(f"invalid input_shape {shape}")
            MODELS[model](**args).init(BoundedZeros(2 * count(params) + HARMLESS))
        if any(isinstance(args[k], str) != isinstance(tracks.model_argument(model, {}, k), str) for k in args):
            raise TypeError("words and numbers are exchanged")
    except (TypeError, ValueError, LookupError) as error:
        raise WeightsError(f"has model_args that no {model} takes: {short(dict(args))} ({error})") from error
    names = meta.get("classes") or CLASSES.get(dataset) or ()
    if not isinstance(names, list | tuple):
        raise WeightsError("has classes that are not a list of names")
    classes = tuple(map(str, names)) if len(names) == v else numbered(v)
    prepared = preparation.read(meta.get("prepared"), dataset, classes, shape)
    known = {**meta, energy.KEY: energy.stored(meta)} if "usual" in meta else dict(meta)
    threshold = energy.read(meta)
    return Network(model, args, dict(params), dict(stats), mean, std, classes, dataset, known, prepared, threshold)


class BoundedZeros(np.random.Generator):
    """What a network draws its first parameters from, to see how many it has, before that memory is taken."""

    def __init__(self, limit: int):
        super().__init__(np.random.PCG64(0))
        self.limit, self.left = limit, limit

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = ()) -> Any:
        """Zeros; ValueError when more were drawn than there are numbers in a file."""
        self.left -= math.prod(size)
        if self.left < 0:
            raise ValueError(f"they make a network of more parameters than the {self.limit:,} that its arrays allow")
        return np.zeros(size)

    uniform = normal  # type: ignore[assignment]


def model_of(config: Any, network: Path | None) -> Mapping[str, Any]:
    """The config of a checkpoint, checked to name a network that there is, or that of the file ``network``."""
    known = ", ".join(MODELS)
    if not isinstance(config, Mapping) or not isinstance(model := config.get("model"), str):
        raise WeightsError(f"does not say which network this is: its metadata need a config with a model ({known})")
    if network is None and networks.is_file(model):
        raise WeightsError(f"holds a network of {model}: add --network {model}, which runs that file")
    if network is not None and networks.is_file(model):
        networks.require_unchanged(str(network), config.get("network_digest", ""))
        return {**config, "model": str(network)}
    if network is not None:
        raise WeightsError(f"holds the network {model!r}, not that of {network}: leave out --network")
    if model not in MODELS:
        raise WeightsError(f"does not say which network this is: its metadata need a config with a model ({known})")
    return config


def unnamed(classes: Sequence[str]) -> bool:
    """Whether these names are those of :func:`numbered`."""
    return tuple(classes) == numbered(len(classes))


def scaling(meta: Mapping[str, Any], dataset: str, data_dir: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, from the metadata or else from the dataset."""
    if "mean" not in meta or "std" not in meta:
        if dataset == UNKNOWN:
            raise WeightsError("does not say how its images were scaled: import it again with --dataset")
        try:
            source = data.load(dataset, data_dir=data_dir)
        except (UserError, TypeError) as error:
            raise WeightsError(f"does not say how its images were scaled, nor can its dataset: {error}") from error
        return source.mean, source.std
    try:
        mean, std = (tuple(float(value) for value in meta[name]) for name in ("mean", "std"))
    except (TypeError, ValueError) as error:
        raise WeightsError("has a mean or std that is not a list of numbers") from error
    if len(mean) != len(std) or not np.isfinite([*mean, *std]).all() or not all(value > 0 for value in std):
        raise WeightsError("has a mean and std that cannot scale images: finite numbers, std above 0, one per channel")
    return mean, std


def require_plausible(args: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise WeightsError if arguments of a network are larger than its arrays allow, before anything is allocated."""
    largest = max((side for shape in shapes for side in shape), default=0)
    for name, value in args.items():
        values = value if isinstance(value, list | tuple) else [value]
        if len(values) > COUNT_LIMIT or not all(isinstance(each, str | int | float | None) for each in values):
            raise WeightsError(f"{name}={str(value)[:60]} is no argument of a network")
        numbers = [each for each in values if isinstance(each, int | float)]
        most = sum(numbers) if name in DEPTHS else max(numbers, default=0)
        if most > (max(len(shapes), COUNT_LIMIT) if name in DEPTHS else max(largest, SIZE_LIMIT)):
            raise WeightsError(f"{name}={str(value)[:60]} is not what its arrays are: the largest side is {largest:,}")


def is_finite(leaf: Any) -> bool:
    """Floating-point numbers, none of them infinite or NaN."""
    return np.issubdtype(np.asarray(leaf).dtype, np.floating) and bool(np.isfinite(leaf).all())

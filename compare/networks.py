"""A trained network in memory, whatever it was kept in, and the one file that NumPy alone can read.

``open_network`` reads

    a checkpoint folder     of Orbax, as training writes it (imports JAX: two seconds)
    a file ``.npz``         ``compare.export --to npz``: the leaves by their paths, and what they are; NumPy reads it
    any other file          safetensors or ``torch.save``, as ``compare.pretrained`` does (imports PyTorch)

None of the three can run code: arrays, names and JSON are all that is taken from a file.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compare import data, tracks
from compare.data import cifar, idx
from compare.errors import UserError
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, from_leaves, leaves

CLASSES = {"mnist": tuple("0123456789"), "fashion-mnist": idx.FASHION_CLASSES, "cifar10": cifar.CLASSES}


class WeightsError(UserError):
    """A file of weights that cannot be read, or that is of another network."""


@dataclass
class Network:
    """A trained network as it is used: its numbers, and what they were trained on."""

    model: str  # a name in MODELS
    args: dict[str, Any]  # of the model
    params: Tree  # their average, where one was kept
    stats: Tree
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    dataset: str
    meta: dict[str, Any]  # of the checkpoint
    states: dict[str, Any] = field(default_factory=dict, repr=False)  # of the tracks that were asked

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        h, w, c = argument(self.model, self.args, "input_shape")
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


def argument(model: str, args: Mapping[str, Any], name: str) -> Any:
    """An argument of a model: as given, else its default."""
    return args[name] if name in args else inspect.signature(MODELS[model]).parameters[name].default


def open_network(path: Path) -> Network:
    """The network in a checkpoint folder or in an exported file."""
    try:
        snapshot, meta = read(path)
        return describe(snapshot, meta)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def read(path: Path) -> tuple[Tree, dict[str, Any]]:
    """Snapshot and metadata, from whatever ``path`` is."""
    if path.is_dir():
        from compare import checkpoint

        return checkpoint.restore(path)
    if not path.is_file():
        raise WeightsError("there is no such file or folder")
    if path.suffix == ".npz":
        return read_npz(path)
    from compare import pretrained

    return pretrained.read_described(path)


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
    count = argument(model, args, "classes")
    names = meta.get("classes") or CLASSES.get(dataset) or ()
    classes = tuple(map(str, names)) if len(names) == count else tuple(f"class {k}" for k in range(count))
    return Network(model, args, dict(params), dict(stats), mean, std, classes, dataset, dict(meta))


def tuples(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as they were before JSON made lists of their tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}


def is_finite(leaf: Any) -> bool:
    """Floating-point numbers, none of them infinite or NaN."""
    return np.issubdtype(np.asarray(leaf).dtype, np.floating) and bool(np.isfinite(leaf).all())


# --- .npz -------------------------------------------------------------------------------------------------------------


def write_npz(path: Path, snapshot: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write ``params`` and ``stats`` by their paths ("params/output/kernel"), and ``meta`` as JSON: whole or not."""
    arrays = {name: np.asarray(leaf) for name, leaf in leaves(snapshot).items()}
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]
    write_whole(path, buffer.getvalue())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent, whatever happens meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_npz(path: Path) -> tuple[Tree, dict[str, Any]]:
    """Snapshot and metadata of :func:`write_npz`; nothing is unpickled, and no header decides the memory it takes."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed")
            arrays = {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
        meta = json.loads(arrays.pop("meta").item())
        snapshot = from_leaves(arrays)
        if not isinstance(meta, dict) or not {"params"} <= snapshot.keys() <= {"params", "stats"}:
            raise ValueError(f"it holds {', '.join(snapshot) or 'nothing'}")
    except Exception as error:  # whatever a damaged file makes of the parsers
        problem = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"no network as compare.export --to npz writes it ({problem})") from error
    return {"stats": {}} | snapshot, meta


def _array(raw: bytes) -> np.ndarray:
    """The array of an .npy file: numbers or text, never objects."""
    stream = io.BytesIO(raw)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    array = np.frombuffer(raw, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")
    return array.copy()  # the bytes are read-only

"""Reads and verifies one checkpoint's folder: what Orbax wrote, read by TensorStore, which Orbax itself uses.

This takes a tenth of a second instead of one or two, does not import JAX into the processes of the other tracks, and
names the damaged file. A test compares it with Orbax's own reading.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare.checkpoint.digests import array_digests, digest, not_finite
from compare.errors import UserError
from numpy_nn.tree import Tree, from_leaves

FORMAT = 1
HARMLESS, COMPRESSION = 1 << 26, 100  # bytes that any checkpoint may hold, and how many more for each byte of its files
PARTS = ("snapshot", "meta")  # without these there is no checkpoint
WRITTEN = re.compile(  # the files that Orbax writes; any other file in the folder is a stray, and is ignored
    r"_CHECKPOINT_METADATA|(\w+/)?commit_success\.txt|(meta|progress)/metadata|metrics/metrics"
    r"|snapshot/(_METADATA|_sharding|array_metadatas/process_\d+|(ocdbt\.process_\d+/)?(manifest\.ocdbt|d/[0-9a-f]{32}))"
)


class CheckpointError(UserError):
    """A checkpoint is absent, damaged or of another format, or cannot be written."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory, read and verified."""

    path: Path
    snapshot: Tree
    meta: dict[str, Any]
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Updates that led to it."""
        return int(self.meta["step"])


def verified(path: Path) -> Checkpoint:
    """Read one checkpoint's folder; raise CheckpointError unless its contents are exactly what was saved.

    Files that the saver did not write are ignored.
    """
    missing = [name for name in PARTS if not (path / name).is_dir()]
    files = (each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file())
    empty = [name for name in files if WRITTEN.fullmatch(name) and not (path / name).stat().st_size]
    if missing or empty:
        what = [*(f"{name}/ is missing" for name in missing), *(f"{name} is empty" for name in empty)]
        raise CheckpointError(f"{path} is damaged: {', '.join(what)}")
    snapshot: Tree = {"params": {}, "stats": {}} | _part(path, "snapshot", _arrays)
    meta, progress = (_part(path, name, _words) for name in ("meta", "progress"))
    if meta.get("format", FORMAT) != FORMAT:
        raise CheckpointError(
            f"{path} has format {meta['format']} but this version reads {FORMAT}: update this project"
        )
    if {"format", "digest"} & meta.keys():  # the first checkpoints had neither
        found, saved = array_digests(snapshot), meta.get("arrays")
        saved = saved if isinstance(saved, dict) else {}
        wrong = sorted(name for name in found.keys() | saved.keys() if found.get(name) != saved.get(name))
        wrong += [] if meta.get("digest") == digest(meta, progress) else ["meta or progress"]
        if wrong:
            raise CheckpointError(f"{path} is damaged: not what was saved (SHA-256 differs): {', '.join(wrong)}")
    if problem := not_finite(snapshot):
        raise CheckpointError(f"{path} cannot be used: {problem}")
    return Checkpoint(path, snapshot, meta, progress)


def _part(path: Path, name: str, how: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """One part of a checkpoint, {} if it has no such part."""
    if not (path / name).is_dir():
        return {}
    try:
        return how(path / name)
    except Exception as error:  # damage makes two parsers raise anything
        raise CheckpointError(f"{path} is damaged: {name}/ cannot be read ({reason(error)})") from error


def _words(folder: Path) -> dict[str, Any]:
    """JSON, as Orbax stores it."""
    return dict(json.loads((folder / "metadata").read_text(encoding="utf-8")))


def _arrays(folder: Path) -> Tree:
    """Arrays: Zarr in an OCDBT key-value store, the array a/b under the name a.b; _METADATA lists them."""
    import tensorstore  # only to read: a training that begins at step 0 does without its memory

    described = json.loads((folder / "_METADATA").read_text(encoding="utf-8"))["tree_metadata"]
    paths = [[part["key"] for part in each["key_metadata"]] for each in described.values()]
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.absolute()}/"}}
    opening = {
        "/".join(path): tensorstore.open(
            {"driver": "zarr", "kvstore": {**store, "path": f"{'.'.join(path)}/"}}, read=True
        )
        for path in paths
    }
    arrays = {path: array.result() for path, array in opening.items()}
    _require_honest_sizes(folder, arrays)
    reading = {path: array.read() for path, array in arrays.items()}
    return from_leaves({path: array.result() for path, array in reading.items()})


def _require_honest_sizes(folder: Path, arrays: Mapping[str, Any]) -> None:
    """ValueError, before anything is read, where the arrays' metadata claim what the files cannot hold.

    Every array was written as one chunk. Zeros compress well, but the weights beside them do not.
    """
    claimed = sum(math.prod(array.shape) * array.dtype.numpy_dtype.itemsize for array in arrays.values())
    present = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    if claimed > HARMLESS + COMPRESSION * present:
        raise ValueError(f"its arrays claim {claimed:,} bytes, in files of {present:,}")
    chunks = {path: array.chunk_layout.read_chunk.shape or () for path, array in arrays.items()}
    if split := [path for path in arrays if any(map(operator.lt, chunks[path], arrays[path].shape))]:
        raise ValueError(f"{split[0]} is split into chunks, and this project writes none")


def reason(error: BaseException) -> str:
    """The message of a library's error on one line, without TensorStore's specification."""
    return " ".join(str(error).partition("[tensorstore_spec")[0].split()) or type(error).__name__

"""The .npz form of a network: arrays by their paths and metadata as JSON, readable with NumPy alone."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compare.errors import UserError
from compare.files import write_atomically
from numpy_nn.tree import Tree, from_leaves, leaves


class WeightsError(UserError):
    """A file of weights that cannot be read, or that is of another network."""


def write_npz(path: Path, snapshot: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write ``params`` and ``stats`` by their paths ("params/output/kernel"), and ``meta`` as JSON."""
    arrays = {name: np.asarray(leaf) for name, leaf in leaves(snapshot).items()}
    buffer = io.BytesIO()
    np.savez(buffer, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_npz(path: Path) -> tuple[Tree, dict[str, Any]]:
    """Snapshot and metadata of :func:`write_npz`; nothing is unpickled, and no header decides the memory it takes."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("it is compressed")
            arrays = {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
        meta = json.loads(arrays.pop("meta").item())  # a RecursionError where it is nested too deeply
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

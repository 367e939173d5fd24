"""Open a trained network, whatever file or folder holds it.

    a checkpoint folder     written by training (Orbax)
    ``.npz``                written by ``compare.export --to npz``; needs NumPy only
    any other file          safetensors or a PyTorch state dict (imports PyTorch)

Nothing in these files is executed: only arrays, names and JSON are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compare.cli import SHIPPED
from compare.weights.network import Network, describe
from compare.weights.npz import WeightsError, read_npz
from numpy_nn.tree import Tree


def open_network(path: Path, network: Path | None = None) -> Network:
    """The network in a checkpoint folder or in an exported file; ``network`` is the file of one of the user's own."""
    try:
        snapshot, meta = read(path)
        return describe(snapshot, meta, network)
    except WeightsError as error:
        raise WeightsError(str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}") from error


def read(path: Path) -> tuple[Tree, dict[str, Any]]:
    """Snapshot and metadata, from whatever ``path`` is."""
    if path.is_dir():
        from compare.checkpoint import store

        return store.restore(path)
    if not path.is_file():
        shipped = " and ".join(sorted(each.stem for each in SHIPPED.glob("*.npz")))
        raise WeightsError(f"there is no such file or folder; the networks that ship are {shipped}")
    if path.suffix.lower() == ".onnx":
        raise WeightsError("an ONNX file holds a computation: give the checkpoint or .npz that it was exported from")
    if path.suffix.lower() == ".npz":
        return read_npz(path)
    from compare.weights import torch_files

    return torch_files.read_described(path)

"""Weight files of PyTorch (``torch.save``) and safetensors, read without executing anything, as our trees."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from compare.networks import is_file, tuples
from compare.weights.architectures import ARCHITECTURES, Architecture, State
from compare.weights.network import require_plausible
from compare.weights.npz import WeightsError
from compare.weights.state_dicts import in_the_way, refusal, respelled, unwrapped
from numpy_nn.tree import Tree, require_same
from torch_nn import interop
from torch_nn.models import MODELS

# How files begin that are often taken for weights.
MISTAKEN = {
    b"\x1f\x8b": "it is packed with gzip: unpack it",
    b"version h": "it is a pointer of Git LFS: run git lfs pull",
    b"<": "it is a web page: download the file that the page is about",
}
HEADER = "nn-three-ways"  # the entry in a file's metadata that says which network it is


def read(path: Path) -> State:
    """The tensors of a file by name. Pickles are read by ``torch.load(weights_only=True)``, which runs nothing.

    Of a checkpoint the state dict in it is taken, and prefixes that all names share come off, with a word to stderr.
    """
    state, _, taken = _read(path)
    if taken:
        print(f"{path}: {taken}", file=sys.stderr)
    return state


def _read(path: Path) -> tuple[State, str | None, str]:
    """The tensors of a file by name, the description that :mod:`compare.export` put beside them, what was taken off."""
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":  # safetensors: the length of the header, then the header, which is JSON
            with safe_open(path, "pt") as opened:
                about = (opened.metadata() or {}).get(HEADER)
            found = load_file(path)
        else:
            _require_honest_sizes(path)
            found = torch.load(path, map_location="cpu", weights_only=True)
            about = getattr(found, "_metadata", {}).get(HEADER, {}).get("json")
    except Exception as error:  # whatever a damaged file makes of two parsers
        mistaken = (why for begin, why in MISTAKEN.items() if start.startswith(begin))
        problem = (
            next(mistaken, str(error).strip().partition("\n")[0] or type(error).__name__) if start else "it is empty"
        )
        reason = refusal(error, path) or f"neither a state dict of PyTorch nor safetensors ({problem})"
        raise WeightsError(f"{path}: {reason}") from error
    try:
        state, taken = unwrapped(found)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return state, about, taken


def read_described(path: Path) -> tuple[Tree, dict[str, Any]]:
    """Snapshot and metadata of a file that :mod:`compare.export` wrote."""
    state, text, _ = _read(path)
    try:
        meta = json.loads(text or "null")
        config = meta["config"]
        if is_file(config["model"]):
            raise WeightsError(
                f"holds a network of {config['model']}: load it into the class Torch of that file, or export it as npz"
            )
        return convert(state, meta.get("architecture", config["model"]), tuples(config["model_args"])), meta
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise WeightsError("does not say which network it is: import it with --model NAME") from error


def _require_honest_sizes(path: Path) -> None:
    """``torch.save`` compresses nothing: a zip archive that says it is larger inside than outside lies."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"{path.stat().st_size:,} bytes claim to be {size:,}")


def convert(state: Mapping[str, Tensor], architecture: str, args: Mapping[str, Any] | None = None) -> Tree:
    """State dict to snapshot: ``params`` and ``stats`` of the named architecture, its arguments changed by ``args``.

    Everything missing, unexpected or misshapen is reported at once, by the names in the file.
    """
    known = architecture_of(architecture)
    arguments = known.args | dict(args or {})
    require_plausible(arguments, [tuple(value.shape) for value in state.values()])
    try:
        with torch.device("meta"):  # shapes without numbers
            network = MODELS[known.model](**arguments)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise WeightsError(f"{architecture} cannot be made with {dict(args or {})}: {error}") from error
    names = known.names(arguments)
    state = {known.renamed(name): value for name, value in state.items()}
    theirs = respelled(state, names.values())
    if len(modules_of(theirs) & {*names.values()}) > len(modules_of(state) & modules_of(network.state_dict())):
        state = theirs
    else:
        names = {}  # a state dict of our own
    given = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    if names:
        given = known.fit(given, names, arguments)
    wanted = {}  # name in the file -> our name
    for name in network.state_dict():
        module, _, leaf = name.rpartition(".")
        if leaf != "num_batches_tracked":
            wanted[f"{names.get(module, module)}.{leaf}"] = name
    shapes = network.state_dict()
    try:
        require_same(_shapes({name: shapes[ours] for name, ours in wanted.items()}), _shapes(given), what="weights")
    except ValueError as error:
        problem = in_the_way(list(given), list(wanted)) or error
        raise WeightsError(f"{architecture}: {problem}") from None
    if whole := [name for name, value in given.items() if not value.is_floating_point()]:
        raise WeightsError(f"{architecture}: {whole[0]} holds {given[whole[0]].dtype}: save the weights as floats")
    ours = {wanted[name]: value if value.dtype == torch.float64 else value.float() for name, value in given.items()}
    network.load_state_dict(ours, strict=False, assign=True)
    return {"params": interop.params_to_tree(network), "stats": interop.stats_to_tree(network)}


def modules_of(names: Iterable[str]) -> set[str]:
    """The modules that own the entries of a state dict."""
    return {name.rpartition(".")[0] for name in names}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(0.0, tuple(value.shape)) for name, value in state.items()}


def architecture_of(name: str) -> Architecture:
    """Look up an architecture; an unknown name is answered with the known ones."""
    if name not in ARCHITECTURES:
        raise WeightsError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]

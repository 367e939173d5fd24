"""Weights trained elsewhere: a state dict of PyTorch becomes a checkpoint that every track reads.

    python -m compare.pretrained import resnet20.th --model resnet20 --out checkpoints/resnet20
    python -m compare.pretrained import cnn-mnist.safetensors --out checkpoints/cnn

The file may be pickled (.pt, .pth, .th: ``torch.save``) or safetensors; nothing in it is executed. Its names
may be those of torchvision (``resnet18``, ``vgg11_bn``, ``densenet121``, ...), of akamaster's
pytorch_resnet_cifar10 (``resnet20``, ...), or those of our own PyTorch networks. What ``compare.export``
wrote, .npz too, says itself which network it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from compare.architectures import ARCHITECTURES, PREPARED, Architecture, State
from compare.config import Config
from compare.errors import command_line
from compare.networks import CLASSES, WeightsError, describe, tuples
from compare.networks import read as read_network
from numpy_nn.tree import Tree, count, require_same
from torch_nn import interop
from torch_nn.models import MODELS

HEADER = "nn-three-ways"  # the entry in a file's metadata that says which network it is


# --- file -> state dict -> tree ---------------------------------------------------------------------------------------


def read(path: Path) -> State:
    """The tensors of a file by name. Pickles are read by ``torch.load(weights_only=True)``, which runs nothing."""
    return _read(path)[0]


def _read(path: Path) -> tuple[State, str | None]:
    """The tensors of a file by name, and the description that :mod:`compare.export` put beside them."""
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
        problem = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{path}: neither a state dict of PyTorch nor safetensors ({problem})") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found:
        raise WeightsError(f"{path}: holds {type(found).__name__}, not a state dict of names and tensors")
    strange = [name for name, value in found.items() if not isinstance(name, str) or not _is_plain(value)]
    if strange:
        raise WeightsError(f"{path}: these entries are no plain tensors of numbers: {', '.join(map(repr, strange))}")
    prefix = "module." if all(name.startswith("module.") for name in found) else ""  # of torch.nn.DataParallel
    return {name.removeprefix(prefix): value for name, value in found.items()}, about


def read_described(path: Path) -> tuple[Tree, dict[str, Any]]:
    """Snapshot and metadata of a file that :mod:`compare.export` wrote."""
    state, text = _read(path)
    try:
        meta = json.loads(text or "null")
        config = meta["config"]
        return convert(state, meta.get("architecture", config["model"]), tuples(config["model_args"])), meta
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise WeightsError("does not say which network it is: import it with --model NAME") from error


def _is_plain(value: Any) -> bool:
    """A tensor with one real number after the other."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex() and not value.is_meta


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
    try:
        with torch.device("meta"):  # shapes without numbers
            network = MODELS[known.model](**arguments)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise WeightsError(f"{architecture} cannot be made with {dict(args or {})}: {error}") from error
    names = known.names(arguments)
    if {name.rpartition(".")[0] for name in state}.isdisjoint(names.values()):
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
        raise WeightsError(f"{architecture}: {error}") from None
    ours = {wanted[name]: value if value.dtype == torch.float64 else value.float() for name, value in given.items()}
    network.load_state_dict(ours, strict=False, assign=True)
    return {"params": interop.params_to_tree(network), "stats": interop.stats_to_tree(network)}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(0.0, tuple(value.shape)) for name, value in state.items()}


def architecture_of(name: str) -> Architecture:
    """Look up an architecture; an unknown name is answered with the known ones."""
    if name not in ARCHITECTURES:
        raise WeightsError(f"unknown architecture {name!r}; known: {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


# --- command line -----------------------------------------------------------------------------------------------------


def import_file(
    path: Path,
    architecture: str | None,
    out: Path,
    args: Mapping[str, Any] | None = None,
    *,
    dataset: str = "elsewhere",
) -> Path:
    """Convert a file and save it in the checkpoint folder ``out``: as step 0, or as the step that it was exported at.

    ``architecture`` of None takes the file's own word for what it is; ``dataset`` names what the images were.
    """
    from compare import checkpoint

    if architecture is None:
        try:
            snapshot, meta = read_network(path)
            describe(snapshot, meta)
        except WeightsError as error:
            raise WeightsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    else:
        snapshot, meta = convert(read(path), architecture, args), metadata(path, architecture, args or {}, dataset)
    step = int(meta.get("step") or 0)
    if (out / str(step)).exists():
        raise WeightsError(f"{out / str(step)} exists: remove it or choose another folder")
    what = architecture or meta["config"]["model"]
    print(f"{what}: {count(snapshot['params']):,} parameters, {count(snapshot['stats']):,} running statistics")
    return checkpoint.save(out, step, {**snapshot, "step": np.int32(step)}, meta)


def metadata(path: Path, architecture: str, args: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """What a checkpoint says of weights from elsewhere."""
    known = architecture_of(architecture)
    config = Config(
        preset=architecture,
        model=known.model,
        model_args=known.args | dict(args),
        dataset=dataset,
        promise=f"imported from {path.name}",
    )
    meta: dict[str, Any] = {"config": config.to_json(), "track": "torch", "step": 0}
    if dataset == "elsewhere" and known.args:
        meta |= PREPARED | {"classes": class_names(config.model_args["classes"])}
    return meta


def class_names(count: int) -> Sequence[str]:
    """Of the published networks: CIFAR-10's or ImageNet's; none for a network of another size."""
    if count == len(CLASSES["cifar10"]):
        return CLASSES["cifar10"]
    if count == 1000:
        from torchvision.models import ResNet18_Weights

        return list(ResNet18_Weights.DEFAULT.meta["categories"])
    return ()


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m compare.pretrained``."""
    options = argparse.ArgumentParser(
        prog="python -m compare.pretrained", description="Take over weights that were trained elsewhere."
    )
    command = options.add_subparsers(dest="command", required=True).add_parser("import", help="file -> checkpoint")
    command.add_argument("file", type=Path, help="pickled state dict (.pt, .pth, .th), .safetensors, or exported .npz")
    command.add_argument(
        "--model", metavar="NAME", help=f"if the file does not say it: one of {', '.join(ARCHITECTURES)}"
    )
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the new checkpoint")
    command.add_argument(
        "--args", type=_object, default={}, metavar="JSON", help='changed arguments of the network: {"classes": 100}'
    )
    command.add_argument(
        "--dataset", default="elsewhere", metavar="NAME", help="what the images were: sets their scaling and classes"
    )
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the checkpoint was written, 2 if the file or the question is wrong."""
    options = parser().parse_args(arguments)
    saved = import_file(options.file, options.model, options.out, options.args, dataset=options.dataset)
    print(f"saved {saved}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

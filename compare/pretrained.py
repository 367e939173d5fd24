"""Import weights that were trained elsewhere: a PyTorch state dict becomes a checkpoint that every track reads.

    python -m compare.pretrained import resnet20.th --model resnet20 --out checkpoints/resnet20
    python -m compare.pretrained import cnn-mnist.safetensors --out checkpoints/cnn

The file may be pickled (.pt, .pth, .th: ``torch.save``) or safetensors; nothing in it is executed. Its names
may be those of torchvision (``resnet18``, ``vgg11_bn``, ``densenet121``, ``vit_b_16``, ...), of timm
(``vit_tiny_patch16_224``, ...), of akamaster's pytorch_resnet_cifar10 (``resnet20``, ...), or those of our own PyTorch
networks. What ``compare.export`` wrote, .npz too, says itself which network it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compare import cli, overrides
from compare.cli import command_line
from compare.config import UNKNOWN, Config
from compare.weights.network import CLASSES, describe
from compare.weights.npz import WeightsError
from compare.weights.open import read as read_network
from numpy_nn.tree import count


def import_file(
    path: Path,
    architecture: str | None,
    out: Path,
    args: Mapping[str, Any] | None = None,
    *,
    dataset: str = UNKNOWN,
) -> Path:
    """Convert a file and save it in the checkpoint folder ``out``: as step 0, or as the step that it was exported at.

    ``architecture`` of None takes the file's own word for what it is; ``dataset`` names what the images were.
    """
    from compare.checkpoint import store

    if architecture is None:
        try:
            snapshot, meta = read_network(path)
            describe(snapshot, meta)
        except WeightsError as error:
            raise WeightsError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    else:
        from compare.weights.torch_files import convert, read

        meta = metadata(path, architecture, args or {}, dataset)
        snapshot = convert(read(path), architecture, args)
    step = int(meta.get("step") or 0)
    if (out / str(step)).exists():
        raise WeightsError(f"{out / str(step)} exists: remove it or choose another folder")
    what = architecture or meta["config"]["model"]
    print(f"{what}: {count(snapshot['params']):,} parameters, {count(snapshot['stats']):,} running statistics")
    return store.save(out, step, {**snapshot, "step": np.int32(step)}, meta)


def metadata(path: Path, architecture: str, args: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """What a checkpoint says of weights from elsewhere."""
    from compare.weights.torch_files import architecture_of

    known = architecture_of(architecture)
    config = Config(
        preset=architecture,
        model=known.model,
        model_args=known.args | dict(args),
        dataset=dataset,
        expected=f"imported from {path.name}",
    )
    overrides.require_arguments(config)
    meta: dict[str, Any] = {"config": config.to_json(), "track": "torch", "step": 0}
    if dataset == UNKNOWN and known.args:
        meta |= {**known.scaling, "classes": class_names(config.model_args["classes"])}
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
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("pretrained", __doc__)
    text = "convert a file of weights to a checkpoint that every track reads"
    command = options.add_subparsers(dest="command", required=True).add_parser("import", help=text, description=text)
    command.add_argument(
        "file",
        type=cli.path,
        metavar="FILE",
        help="pickled state dict (.pt, .pth, .th), .safetensors, or exported .npz",
    )
    command.add_argument(
        "--model", metavar="NAME", help="network, if the file does not name it: resnet20, vgg11_bn, cnn, ..."
    )
    command.add_argument("--out", required=True, type=cli.output, metavar="DIR", help="folder of the new checkpoint")
    command.add_argument(
        "--args",
        type=_object,
        default={},
        metavar="JSON",
        help='arguments of the network other than the defaults: {"classes": 100}',
    )
    command.add_argument(
        "--dataset", type=cli.dataset, default=UNKNOWN, metavar="NAME",
        help="dataset of the training: sets the scaling of images and the classes",
    )  # fmt: skip
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the checkpoint was written, 2 if the file or an argument is wrong."""
    options = parser().parse_args(arguments)
    saved = import_file(options.file, options.model, options.out, options.args, dataset=options.dataset)
    print(f"saved {saved}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

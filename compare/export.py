"""Export a trained network as safetensors, a PyTorch state dict, ONNX or .npz.

    python -m compare.export cnn-mnist --to onnx --out cnn.onnx

``safetensors``  PyTorch's names and layouts; the header describes the network; reading it executes nothing
``torch``        the same as ``torch.save`` of a plain state dict, for ``torch.load(file, weights_only=True)``
``onnx``         with the computation: images uint8 (n, h, w, c), as in the dataset -> logits (n, classes)
``npz``          this project's names and layouts, for NumPy and for ``compare.predict`` without any framework

``python -m compare.pretrained import FILE --out DIR`` converts safetensors, torch and npz back to a checkpoint, bit
for bit. If the network keeps averaged weights (EMA), the average is exported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from compare import cli
from compare.cli import command_line
from compare.files import write_atomically
from compare.weights.network import description
from compare.weights.npz import WeightsError, write_npz
from compare.weights.open import open_network

SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt", "onnx": ".onnx", "npz": ".npz"}


def export(
    checkpoint: Path, how: str, out: Path | None = None, names: str = "ours", *, own: Path | None = None
) -> Path:
    """Write the network of a checkpoint in one of SUFFIXES' formats; returns the file, which is never replaced.

    ``own`` is the file of a network of your own, which the checkpoint's was trained with.
    """
    network = open_network(checkpoint, own)
    out = out or Path(f"{network.meta['config'].get('preset') or network.model}{SUFFIXES[how]}")
    if out.exists():
        raise WeightsError(f"{out} exists: remove it or choose another with --out")
    if how != "npz":
        from compare.weights import formats

        return write_atomically(out, formats.FORMATS[how](network, names))
    if names != "ours":
        raise WeightsError("npz supports only --names ours: omit --names, or choose safetensors or torch")
    write_npz(out, {"params": network.params, "stats": network.stats}, description(network))
    return out


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("export", __doc__)
    options.add_argument("checkpoint", type=cli.network, metavar="CHECKPOINT", help=cli.NETWORK)
    options.add_argument(
        "--to", required=True, type=cli.one_of("format", list(SUFFIXES)), dest="how", metavar="|".join(SUFFIXES),
        help="format of the file",
    )  # fmt: skip
    options.add_argument("--out", type=cli.output, metavar="FILE", help="default: the preset's name, with the suffix")
    options.add_argument(
        "--names", default="ours", type=cli.one_of("names", ["ours", "published"]), metavar="ours|published",
        help="names of the tensors; published: torchvision's (default: ours)",
    )  # fmt: skip
    cli.add_network(options, where="what to do", what="the network of your own that the checkpoint holds")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the file was written, 2 for invalid arguments."""
    options = parser().parse_args(arguments)
    path = export(options.checkpoint, options.how, options.out, options.names, own=options.network)
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

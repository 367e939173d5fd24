"""Evaluate a trained network on the test images of a dataset.

    python -m compare.eval cnn-mnist --tracks all
    python -m compare.eval resnet.safetensors --dataset folder:PHOTOS --json

Prints accuracy, loss, precision and recall of each class, the confusion matrix and the calibration. All tracks must
classify the same number of images correctly.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from compare import cli, networks
from compare.cli import command_line
from compare.eval import evaluation, report
from compare.weights.open import open_network


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("eval", __doc__, what="network")
    options.add_argument(
        "file",
        type=cli.network,
        metavar="CHECKPOINT|FILE",
        help="checkpoint folder, exported file, or a network of the project: mlp-mnist or cnn-mnist",
    )
    note = {
        "dataset": "mnist, fashion-mnist, cifar10, tfds:NAME, folder:PATH, FILE.npz or FILE.py:function "
        "(default: that of the training)"
    }
    cli.add_settings(options, "dataset", "data_dir", note=note)
    cli.add_tracks(options, where="evaluation", default=["numpy"], extra=["all"])
    cli.add_network(options, where="evaluation", what="the network of your own that the checkpoint holds")
    cli.add_json(options, "every figure and the bins of the ECE")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0; 1 if the tracks classify different numbers of images correctly; 2 if an argument is wrong."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    name = cli.shown(options.file)
    with cli.figures(options.json) as show:
        network = open_network(options.file, options.network)
        data = evaluation.test_data(network, options.dataset, options.data_dir)
        found = evaluation.evaluate(network, data, networks.chosen(network.model, options.tracks))
        show({"network": name, **found}, lambda: print(report.text(name, found)))
    return 0 if found["agree"] else 1


if __name__ == "__main__":
    sys.exit(main())

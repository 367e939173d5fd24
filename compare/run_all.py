"""Train the same networks in NumPy, JAX and PyTorch and compare them.

python compare/run_all.py                                 an MLP and a CNN on MNIST, all tracks
python compare/run_all.py mlp-mnist --epochs 1            one preset, one epoch
python compare/run_all.py cnn-mnist --tracks jax torch --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # so that `python compare/run_all.py` finds the packages beside compare/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from compare import presets
from compare.config import Config
from compare.errors import UserError

TRACKS = ("numpy", "jax", "torch")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="run_all.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(presets.PRESETS)
    default = " ".join(presets.DEFAULT)
    options.add_argument("presets", nargs="*", metavar="PRESET", help=f"what to train: {names} (default: {default})")
    options.add_argument("--tracks", nargs="+", choices=TRACKS, default=TRACKS, metavar="TRACK", help="numpy jax torch")
    length = options.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_positive(float), metavar="N", help="passes over the training images")
    length.add_argument("--steps", type=_positive(int), metavar="N", help="exact number of updates instead")
    options.add_argument("--batch-size", type=_positive(int), metavar="N")
    options.add_argument("--lr", type=_positive(float), metavar="X", help="peak learning rate")
    options.add_argument(
        "--patience",
        type=_positive(int),
        metavar="N",
        help="stop after N evaluations without a better validation accuracy, and keep the best state",
    )
    options.add_argument("--augment", nargs="*", metavar="WHAT", help="e.g. crop:2 flip; nothing turns it off")
    options.add_argument("--data-dir", metavar="DIR", help="where Fashion-MNIST and CIFAR-10 are (or set NN_DATA_DIR)")
    options.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="S", help="one run each (default: 0)")
    options.add_argument("--precision", choices=("float32", "float64", "bfloat16"))
    options.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: runs/DATE_TIME)")
    options.add_argument("--no-proof", action="store_true", help="skip the parity proof; speeds are then not shown")
    options.add_argument("--no-mlflow", action="store_true", help="do not log to MLflow")
    options.add_argument("--list", action="store_true", help="list the presets and their promises, and exit")
    return options


def _positive(kind: type[int] | type[float]) -> Any:
    """A number above zero, as argparse wants it."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text!r} is not a positive {'number' if kind is float else 'integer'}")
        return value

    return convert


def configs(options: argparse.Namespace) -> list[Config]:
    """One Config per preset and seed, the command line's wishes over the preset's."""
    given = {
        name: value
        for name in ("epochs", "steps", "batch_size", "lr", "augment", "data_dir", "precision", "patience")
        if (value := getattr(options, name)) is not None
    }
    if options.patience:
        given["keep_best"] = True
    if options.augment:
        from compare.data.augment import parse

        parse(options.augment)  # a wrong name is said now
    if options.data_dir:
        options.data_dir = str(Path(options.data_dir).resolve())
    chosen = [presets.get(name) for name in dict.fromkeys(options.presets or presets.DEFAULT)]
    return [
        dataclasses.replace(config, **given, seed=seed) for config in chosen for seed in dict.fromkeys(options.seeds)
    ]


def listing() -> str:
    """Every preset with what it trains and what it promises."""
    rows = [
        (
            config.preset,
            f"{config.model} on {config.dataset}, {config.epochs:g} epochs in batches of {config.batch_size}",
            config.promise,
        )
        for config in presets.PRESETS.values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {what:<{widths[1]}}  {promise}" for name, what, promise in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all went well, 1 if a run or a proof failed, 2 for a wrong question, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    if options.list:
        print(listing())
        return 0
    try:
        wanted = configs(options)
        from compare.comparison import Comparison
        from compare.progress import Progress

        directory = options.out or Path("runs", f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
        command = ["python", "compare/run_all.py", *(sys.argv[1:] if arguments is None else arguments)]
        with Progress() as progress:
            return Comparison(
                configs=wanted,
                track_names=[track for track in TRACKS if track in options.tracks],
                directory=directory,
                command=command,
                progress=progress,
                proof=not options.no_proof,
                mlflow=not options.no_mlflow,
            ).run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

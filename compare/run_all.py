"""Train the same networks in NumPy, JAX and PyTorch and compare them.

python compare/run_all.py                                 an MLP and a CNN on MNIST, all tracks
python compare/run_all.py mlp-mnist --epochs 1            one preset, one epoch
python compare/run_all.py cnn-mnist --tracks jax torch --seeds 0 1 2
python compare/run_all.py --resume runs/today             what was killed or stopped goes on
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare.cli import LOADERS, TRACKS, add_saving, positive

if __name__ == "__main__":  # so that `python compare/run_all.py` finds the packages beside compare/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from compare import presets, tracks
from compare.cli import command_line
from compare.config import Config
from compare.errors import UserError


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
    length.add_argument("--epochs", type=positive(float), metavar="N", help="passes over the training images")
    length.add_argument("--steps", type=positive(int), metavar="N", help="exact number of updates instead")
    options.add_argument("--batch-size", type=positive(int), metavar="N")
    options.add_argument("--lr", type=positive(float), metavar="X", help="peak learning rate")
    options.add_argument(
        "--patience",
        type=positive(int),
        metavar="N",
        help="stop after N evaluations without a better validation accuracy, and keep the best state",
    )
    options.add_argument(
        "--dataset", metavar="NAME", help="other images of the same size, e.g. fashion-mnist or tfds:kmnist"
    )
    options.add_argument("--augment", nargs="*", metavar="WHAT", help="e.g. crop:2 flip; nothing turns it off")
    options.add_argument(
        "--loader",
        choices=LOADERS,
        metavar="NAME",
        help=f"what reads the training images, in the same order: {' '.join(LOADERS)} (default: memory)",
    )
    options.add_argument("--data-dir", metavar="DIR", help="where Fashion-MNIST and CIFAR-10 are (or set NN_DATA_DIR)")
    options.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="any other field of a preset, as compare.search finds them: optimizer=adamw model_args.hidden=[256]",
    )
    options.add_argument("--seeds", type=int, nargs="+", metavar="S", help="one run each (default: 0)")
    options.add_argument("--precision", choices=("float32", "float64", "bfloat16"))
    options.add_argument(
        "--device",
        type=tracks.parse_device,
        metavar="auto|cpu|gpu[:i]",
        help="where JAX and PyTorch compute (default: cpu, where NumPy does); auto is a GPU if there is one",
    )
    options.add_argument(
        "--devices", type=positive(int), metavar="N", help="split each batch over N devices; a CPU's are its cores"
    )
    add_saving(options)
    options.add_argument("--resume", type=Path, metavar="DIR", help="go on with every unfinished run of a comparison")
    options.add_argument(
        "--resume-from", type=Path, metavar="CHECKPOINT", help="start every track from this, whatever track wrote it"
    )
    options.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: runs/DATE_TIME)")
    options.add_argument("--no-proof", action="store_true", help="skip the parity proof; speeds are then not shown")
    options.add_argument("--no-mlflow", action="store_true", help="do not log to MLflow")
    options.add_argument(
        "--list", action="store_true", help="list the presets with their expected accuracy and time, and exit"
    )
    return options


def configs(options: argparse.Namespace) -> list[Config]:
    """One Config per preset and seed, the command line's wishes over the preset's."""
    given = {
        name: value
        for name in (
            "epochs steps batch_size lr dataset loader augment data_dir precision patience device devices"
        ).split()
        if (value := getattr(options, name)) is not None
    }
    if options.augment is not None:
        given["augment"] = tuple(options.augment)
    if options.patience:
        given["keep_best"] = True
    if options.loader:
        from compare.data.loaders import require

        require(options.loader)  # so is a package that is absent
    if options.data_dir:
        options.data_dir = str(Path(options.data_dir).resolve())
    if options.resume_from:
        wanted = [from_checkpoint(options, given)]
    else:
        chosen = [presets.get(name) for name in dict.fromkeys(options.presets or presets.DEFAULT)]
        seeds = dict.fromkeys(options.seeds or [0])
        wanted = [dataclasses.replace(config, **given, seed=seed) for config in chosen for seed in seeds]
    if options.set:
        wanted = [with_settings(config, options.set) for config in wanted]
    from compare import overrides
    from compare.tracks import that_have

    for config in wanted:
        overrides.require_arguments(config)
        tracks.require_devices(config, that_have(config.precision, options.tracks))
    return wanted


def with_settings(config: Config, texts: Sequence[str]) -> Config:
    """The config with ``NAME=VALUE`` of each text."""
    from compare import overrides

    fields = overrides.parse(texts)
    overrides.require_known(fields, config)
    return overrides.replaced(config, {name: field.single() for name, field in fields.items()})


def from_checkpoint(options: argparse.Namespace, given: dict[str, Any]) -> Config:
    """The one Config that a checkpoint starts, checked against what was asked for."""
    from compare.experiment import plan

    if len(options.presets) > 1 or len(options.seeds or []) > 1:
        raise UserError("--resume-from starts one training: name one preset and one seed at most")
    if options.seeds:
        given["seed"] = options.seeds[0]
    wanted = presets.get(options.presets[0]) if options.presets else None
    return plan.from_checkpoint(options.resume_from, wanted, given)


def listing() -> str:
    """Every preset with what it trains and the accuracy and time to expect."""
    rows = [
        (
            config.preset,
            f"{config.model} on {config.dataset}, {config.epochs:g} epochs in batches of {config.batch_size}",
            config.expected,
        )
        for config in presets.PRESETS.values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {what:<{widths[1]}}  {expected}" for name, what, expected in rows)


def start(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """A new comparison; returns the exit status."""
    wanted = configs(options)
    from compare.experiment import plan
    from compare.experiment.comparison import Comparison
    from compare.progress import Progress

    directory = options.out or Path("runs", f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    results = plan.plan(
        directory,
        wanted,
        [track for track in TRACKS if track in options.tracks],
        command=["python", "compare/run_all.py", *arguments],
        save_every=str(options.save_every),
        keep=options.keep,
        resume_from=options.resume_from,
        proof=not options.no_proof,
        mlflow=not options.no_mlflow,
    )
    with Progress() as progress:
        return Comparison(results, directory, progress).run()


def resume(directory: Path, arguments: Sequence[str]) -> int:
    """A comparison that was killed or stopped, or of which a run failed; returns the exit status."""
    if len(arguments) > 2:
        raise UserError("--resume goes on with what was planned and takes no other flag")
    from compare.experiment import plan
    from compare.experiment.comparison import Comparison
    from compare.progress import Progress

    results, changed = plan.taken_up(directory)
    with Progress() as progress:
        for what in changed:
            progress.note(f"Not as it was, and the figures may not be those of an uninterrupted comparison: {what}")
        return Comparison(results, directory, progress).run()


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all went well, 1 if a run or a proof failed, 2 for a wrong question, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if options.list:
        print(listing())
        return 0
    return resume(options.resume, arguments) if options.resume else start(options, arguments)


if __name__ == "__main__":
    sys.exit(main())

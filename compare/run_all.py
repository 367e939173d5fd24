"""Train the same networks in NumPy, JAX and PyTorch and compare them.

python -m compare.run_all                                 an MLP and a CNN on MNIST, all tracks
python -m compare.run_all mlp-mnist --epochs 1            one preset, one epoch
python -m compare.run_all cnn-mnist --tracks jax torch --seeds 0 1 2
python -m compare.run_all --network gru.py                a network of your own: see docs/own-network.md
python -m compare.run_all --resume runs/today             finish what was killed or stopped
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # so that `python compare/run_all.py` finds the packages beside compare/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from compare import cli, presets, tracks
from compare.cli import TRACKS, command_line
from compare.config import SETTINGS, Config
from compare.errors import UserError
from compare.results.schema import Results
from compare.training.steps import short_chunks

FLAGS = tuple(name for name, setting in SETTINGS.items() if setting.group)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("run_all", __doc__)
    training = cli.group(options, "what to train")
    names, default = ", ".join(presets.PRESETS), " ".join(presets.DEFAULT)
    training.add_argument("presets", nargs="*", metavar="PRESET", help=f"{names} (default: {default})")
    cli.add_network(options)
    cli.add_tracks(options)
    cli.add_seeds(options, default=None, what="one training each")
    cli.add_settings(options, *FLAGS)
    training.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting of a preset: optimizer=adamw model_args.hidden=[256]",
    )
    training.add_argument(
        "--wait", type=cli.seconds, default=cli.wait_for_quiet(), metavar="30s",
        help="wait up to this long for an idle machine before the first run; 0s: do not (default: NN_WAIT, else 30s)",
    )  # fmt: skip
    cli.add_saving(options)
    saving = cli.group(options, "saving and resuming")
    saving.add_argument("--resume", type=cli.path, metavar="DIR", help="finish every unfinished run of a comparison")
    saving.add_argument(
        "--resume-from",
        type=cli.path,
        metavar="CHECKPOINT",
        help="start every track from this checkpoint; any track may have written it",
    )
    cli.add_output(options)
    cli.add_mlflow(options)
    output = cli.group(options, "output")
    output.add_argument("--skip-parity", action="store_true", help="skip the parity check; no speeds are shown then")
    output.add_argument("--no-proof", dest="skip_parity", action="store_true", help=argparse.SUPPRESS)  # its old name
    output.add_argument(
        "--list", action="store_true", help="list the presets, with expected accuracy and time, and exit"
    )
    cli.add_json(options, "the figures of the comparison (with --list: every setting of the presets)")
    return options


def configs(options: argparse.Namespace) -> list[Config]:
    """One Config per preset and seed, the flags over the preset's settings; UserError for what cannot be trained."""
    from compare import networks, overrides

    given = cli.given(options)
    if options.patience:
        given["keep_best"] = True
    if options.loader:
        from compare.data.loaders import require

        require(options.loader)  # its package may be absent
    if options.resume_from:
        wanted = [from_checkpoint(options, given)]
    else:
        chosen = presets.chosen(options.presets, options.network)
        chosen = [overrides.fitted(dataclasses.replace(config, **given)) for config in chosen]
        wanted = [dataclasses.replace(config, seed=seed) for config in chosen for seed in options.seeds or [0]]
    if options.set:
        wanted = [with_settings(config, options.set) for config in wanted]
    options.tracks = networks.available(wanted[0].model, options.tracks, asked=options.tracks is not TRACKS)
    for config in wanted:
        overrides.require_arguments(config)
        tracks.require_devices(config, tracks.supporting(config.precision, options.tracks))
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
    wanted = presets.chosen(options.presets, options.network)[0] if options.presets else None
    if options.network:
        from compare import networks

        given |= {"model": str(options.network), "network_digest": networks.digest(str(options.network))}
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


def start(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Path, Results, int]:
    """A new comparison; returns its folder, its results and the exit status."""
    wanted = configs(options)
    from compare.experiment import plan
    from compare.experiment.comparison import Comparison
    from compare.progress import Progress

    directory = cli.output_folder(options.out)
    with Progress() as progress:
        progress.note("Checking the settings and the data, and measuring the machine")
        results = plan.plan(
            directory,
            wanted,
            [track for track in TRACKS if track in options.tracks],
            command=["python", "-m", "compare.run_all", *arguments],
            save_every=str(options.save_every),
            keep=options.keep,
            resume_from=options.resume_from,
            parity=not options.skip_parity,
            mlflow=not options.no_mlflow,
        )
        if options.steps and (warning := short_chunks(options.steps)):
            progress.note(warning)
        return directory, results, Comparison(results, directory, progress, wait=options.wait).run()


def resume(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Path, Results, int]:
    """Finish a comparison that was killed or stopped, or of which a run failed; returns the same."""
    if len(set(arguments) - {"--json"}) > 2:
        raise UserError("--resume takes no other flag, because a comparison keeps its settings: leave the others out")
    from compare.experiment import plan
    from compare.experiment.comparison import Comparison
    from compare.progress import Progress

    results, changed = plan.resumed(options.resume)
    with Progress() as progress:
        for what in changed:
            progress.note(f"Changed since the comparison began, so its figures may change too: {what}")
        return options.resume, results, Comparison(results, options.resume, progress).run()


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all went well, 1 if a run or the parity check failed, 2 for invalid arguments, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    with cli.figures(options.json) as show:
        if options.list:
            show({name: config.to_json() for name, config in presets.PRESETS.items()}, lambda: print(listing()))
            return 0
        comparison = resume if options.resume else start
        directory, results, status = comparison(options, arguments)
        from compare.report.figures import figures

        show(figures(results, directory), lambda: None)
        return status


if __name__ == "__main__":
    sys.exit(main())

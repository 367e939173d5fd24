"""Search for good settings: many trainings, each in its own process, ranked by validation accuracy.

    python -m compare.search mlp-mnist --tracks torch --trials 20 --epochs 2 --space lr=1e-3:1:log batch_size=32,64,128
    python -m compare.search mlp-mnist cnn-mnist --tracks jax --grid --seeds 0 1 --space optimizer=sgd,adamw lr=0.01,0.1

The test set is not used. Run the same command again to resume a search, or at the same time in another terminal to
share its trials. A trial whose process was killed is run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from compare import cli, machine, overrides, presets
from compare.cli import command_line
from compare.config import Config
from compare.errors import UserError
from compare.search import report, results, study


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("search", __doc__)
    training = cli.group(options, "what to train")
    training.add_argument(
        "presets",
        nargs="*",
        metavar="PRESET",
        help="settings to start from; if there are several, the preset is searched too",
    )
    cli.add_network(options)
    cli.add_track(options, default="torch")
    cli.add_seeds(options, default=[0], what="trainings of each trial, whose mean accuracy ranks it")
    cli.add_settings(options, "epochs", "steps", "dataset", "data_dir", "device")
    search = cli.group(options, "search")
    search.add_argument(
        "--space", nargs="+", metavar="NAME=VALUES", default=[],
        help="what to vary: lr=1e-3:1:log (a range), batch_size=32,64,128 (choices), model_args.hidden=[256],[512,512]",
    )  # fmt: skip
    search.add_argument(
        "--trials", type=cli.number(int), metavar="N", help="number of trials in all (default: 20, or the whole grid)"
    )
    search.add_argument("--grid", action="store_true", help="try every combination once, instead of sampling")
    search.add_argument(
        "--pruner", type=cli.one_of("pruner", study.PRUNERS), default="median", metavar="|".join(study.PRUNERS),
        help="median: stop a trial below the median of the others at the same evaluation (default); or none",
    )  # fmt: skip
    search.add_argument("--storage", type=cli.database, metavar="URL|FILE", help="database (default: DIR/study.db)")
    cli.add_output(options, default="search-")
    cli.add_mlflow(options)
    cli.add_json(options, "the content of search.json")
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What identifies a search, in plain JSON types: a command with the same settings resumes it."""
    from compare import networks

    names = ("presets", "track", "grid", "epochs", "steps", "pruner")
    return {
        **({"dataset": options.dataset} if options.dataset else {}),
        **({"network": networks.digest(str(options.network))} if options.network else {}),
        **{name: getattr(options, name) for name in names},
        "seeds": list(dict.fromkeys(options.seeds)),
        "space": sorted(options.space),
    }


def configs_of(options: argparse.Namespace, fields: dict[str, overrides.Field]) -> dict[str, Config]:
    """The config of each preset with the command line's overrides; UserError for an unknown field."""
    from compare import networks

    if not (options.presets or options.network):
        raise UserError("nothing to train: name a preset, or a network of your own with --network")
    found = {}
    for preset in presets.chosen(options.presets, options.network):
        config = overrides.fitted(dataclasses.replace(preset, **cli.given(options)))
        networks.available(config.model, [options.track], asked=True)
        overrides.require_arguments(config)
        overrides.require_known(fields, config)
        found[config.preset] = config
    return found


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if a trial finished, 1 if none did, 2 for a usage error, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    with cli.figures(options.json) as show:
        return search(options, given, show)


def search(options: argparse.Namespace, given: Sequence[str], show: cli.Show) -> int:
    """Check what was asked for, run the trials, and report them; returns the exit status."""
    fields = overrides.parse(options.space)
    configs = configs_of(options, fields)
    if len(configs) > 1:
        fields = {"preset": overrides.Choice("preset", tuple(configs)), **fields}
    if not fields:
        raise UserError("nothing to search: name what varies, like --space lr=1e-3:1:log, or several presets")
    trials = options.trials or (study.grid_size(fields) if options.grid else 20)
    if options.grid:
        trials = min(trials, study.grid_size(fields))
    directory = cli.output_folder(options.out, "search-")
    cli.require_writable(directory)
    from compare.training import preflight

    preflight.require(list(configs.values()), [options.track], folder=directory)
    settings = settings_of(options)
    url = options.storage or cli.sqlite_url(directory / "study.db")
    found = study.opened(url, directory, settings)
    command = shlex.join(
        ["python", "-m", "compare.search", *given, *([] if options.out else ["--out", str(directory)])]
    )
    from compare.progress import Progress
    from compare.search.trials import Search
    from compare.tracking import Tracker

    with Progress() as progress:
        tracker = Tracker(results_dir=directory, warn=progress.note, enabled=not options.no_mlflow)
        return run(Search(found, directory, configs, fields, settings, trials, progress, tracker), command, show)


def run(search: Any, command: str, show: cli.Show) -> int:
    """Search and report with ``show`` of ``cli.figures``; after Ctrl-C, report the trials that have ended."""
    from compare.tracking import contents

    status, key = 0, search.study.user_attrs.get("mlflow") or uuid.uuid4().hex[:12]
    search.study.set_user_attr("mlflow", key)
    environment = machine.facts(threads=machine.cores())
    with search.tracker as tracker:
        source = contents.source_tags(command, environment["git_commit"])
        tracker.start("search", search.directory.name, key=key, params={"command": command}, source=source)
        try:
            search.run()
        except KeyboardInterrupt:
            search.progress.note(f"Stopped; the trials that have ended are kept. Resume with: {command}")
            status = 130
        found = results.results(search.study, search.settings, search.fields)
        written = [report.write(found, search.directory), *report.draw(found, search.directory)]
        ended = "interrupted" if status else "finished"
        tracker.finish(ended, documents={"environment.json": environment}, artifacts=written)
    show({"folder": str(search.directory), **found}, lambda: report.show(found, search.progress.console))
    for path in written:
        search.progress.note(str(path))
    return status or int(found["best"] is None)


if __name__ == "__main__":
    sys.exit(main())

"""Search for good settings: many trainings, each in its own process, ranked by validation accuracy.

python -m compare.search mlp-mnist --track torch --trials 20 --epochs 2 --space lr=1e-3:1:log batch_size=32,64,128
python -m compare.search mlp-mnist cnn-mnist --track jax --grid --seeds 0 1 --space optimizer=nesterov,adamw lr=0.01,0.1

The test set is not used. Run the same command again to resume a search, or at the same time in another terminal to
share its trials. A trial whose process was killed is run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import cli, machine, overrides, presets, tracks
from compare.cli import TRACKS, command_line, positive
from compare.config import Config
from compare.errors import UserError
from compare.search import report, results, study


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m compare.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "presets", nargs="+", metavar="PRESET", help="where to start; of several presets, the search chooses one"
    )
    options.add_argument("--track", choices=TRACKS, default="torch", help="numpy, jax or torch (default)")
    options.add_argument(
        "--space", nargs="+", metavar="NAME=VALUES", default=[],
        help="what to vary: lr=1e-3:1:log (a range), batch_size=32,64,128 (choices), model_args.hidden=[256],[512,512]",
    )  # fmt: skip
    options.add_argument(
        "--trials", type=positive(int), metavar="N", help="number of trials in all (default: 20, or the whole grid)"
    )
    options.add_argument(
        "--grid", action="store_true", help="try every combination once, instead of those that Optuna suggests"
    )
    options.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        metavar="S",
        help="seeds whose mean accuracy ranks a trial (default: 0)",
    )
    length = options.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=positive(float), metavar="N", help="passes over the training images")
    length.add_argument("--steps", type=positive(int), metavar="N", help="exact number of updates instead")
    options.add_argument(
        "--pruner", choices=study.PRUNERS, default="median",
        help="median: stop a trial below the median of the others at the same evaluation (default); or none",
    )  # fmt: skip
    options.add_argument("--storage", metavar="URL", help="Optuna's database (default: DIR/study.db)")
    options.add_argument("--device", type=tracks.parse_device, metavar="auto|cpu|gpu[:i]")
    options.add_argument("--data-dir", metavar="DIR", help="where datasets are that do not ship (or set NN_DATA_DIR)")
    options.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: runs/search-DATE_TIME)")
    options.add_argument("--no-mlflow", action="store_true", help="do not log to MLflow")
    return options


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What identifies a search, in plain JSON types: a command with the same settings resumes it."""
    names = ("presets", "track", "grid", "epochs", "steps", "pruner")
    return {
        **{name: getattr(options, name) for name in names},
        "seeds": list(dict.fromkeys(options.seeds)),
        "space": sorted(options.space),
    }


def configs_of(options: argparse.Namespace, fields: dict[str, overrides.Field]) -> dict[str, Config]:
    """The config of each preset with the command line's overrides; UserError for an unknown field."""
    given = {name: value for name in ("epochs", "steps", "device") if (value := getattr(options, name)) is not None}
    if options.data_dir:
        given["data_dir"] = str(Path(options.data_dir).resolve())
    found = {}
    for name in dict.fromkeys(options.presets):
        config = dataclasses.replace(presets.get(name), **given)
        overrides.require_known(fields, config)
        found[name] = config
    return found


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if a trial finished, 1 if none did, 2 for a usage error, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    fields = overrides.parse(options.space)
    configs = configs_of(options, fields)
    if len(configs) > 1:
        fields = {"preset": overrides.Choice("preset", tuple(configs)), **fields}
    if not fields:
        raise UserError("nothing to search: name what varies, like --space lr=1e-3:1:log, or several presets")
    trials = options.trials or (study.grid_size(fields) if options.grid else 20)
    if options.grid:
        trials = min(trials, study.grid_size(fields))
    directory = options.out or Path("runs", f"search-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    cli.require_writable(directory)
    settings = settings_of(options)
    url = options.storage or f"sqlite:///{directory.absolute() / 'study.db'}"
    found = study.opened(url, directory, settings)
    command = shlex.join(
        ["python", "-m", "compare.search", *given, *([] if options.out else ["--out", str(directory)])]
    )
    from compare.progress import Progress
    from compare.search.trials import Search
    from compare.tracking import Tracker, environment_tags

    with Progress() as progress:
        tracker = Tracker(results_dir=directory, warn=progress.note, enabled=not options.no_mlflow)
        tags = environment_tags(machine.facts(threads=machine.cores()))
        search = Search(found, directory, configs, fields, settings, trials, progress, tracker, tags)
        return run(search, command)


def run(search: Any, command: str) -> int:
    """Search and report; after Ctrl-C, report the trials that have ended."""
    status, known = 0, search.study.user_attrs.get("mlflow", "")
    with search.tracker as tracker:
        params = {"command": command}
        parent = tracker.start("search", search.directory.name, params=params, tags=search.tags, parent=known)
        search.study.set_user_attr("mlflow", parent or known)
        try:
            search.run()
        except KeyboardInterrupt:
            search.progress.note(f"Stopped; the trials that have ended are kept. Resume with: {command}")
            status = 130
        found = results.results(search.study, search.settings, search.fields)
        written = [report.write(found, search.directory), *report.draw(found, search.directory)]
        tracker.finish("interrupted" if status else "finished", artifacts=written)
    report.show(found, search.progress.console)
    for path in written:
        search.progress.note(str(path))
    return status or int(found["best"] is None)


if __name__ == "__main__":
    sys.exit(main())

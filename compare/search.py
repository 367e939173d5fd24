"""Many trainings in search of good settings, each in a process of its own, judged by its validation accuracy.

python -m compare.search mlp-mnist --track torch --trials 20 --epochs 2 --space lr=1e-3:1:log batch_size=32,64,128
python -m compare.search mlp-mnist cnn-mnist --track jax --grid --seeds 0 1 --space optimizer=nesterov,adamw lr=0.01,0.1

The test images have no say and are not shown. The same command again goes on, to as many trials; at the same time, in
another terminal, it helps. A trial whose process was killed is done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import devices, machine, planning, presets, space, study, tracking, workers
from compare.config import Config
from compare.errors import UserError, command_line
from compare.jobs import Event, Job
from compare.progress import Progress
from compare.run_all import TRACKS, positive
from compare.training import NOT_FINITE

TESTED = ("test_loss", "test_accuracy")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m compare.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("presets", nargs="+", metavar="PRESET", help="what to begin with; of several, one is chosen")
    options.add_argument("--track", choices=TRACKS, default="torch", help="numpy, jax or torch (default)")
    options.add_argument(
        "--space", nargs="+", metavar="NAME=VALUES", default=[],
        help="what to vary: lr=1e-3:1:log (a range), batch_size=32,64,128 (choices), model_args.hidden=[256],[512,512]",
    )  # fmt: skip
    options.add_argument(
        "--trials", type=positive(int), metavar="N", help="how many in all (default: 20, or the whole grid)"
    )
    options.add_argument("--grid", action="store_true", help="every combination once, instead of Optuna's choice")
    options.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="S", help="the mean counts (default: 0)")
    length = options.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=positive(float), metavar="N", help="passes over the training images")
    length.add_argument("--steps", type=positive(int), metavar="N", help="exact number of updates instead")
    options.add_argument(
        "--pruner", choices=study.PRUNERS, default="median",
        help="median: cut off who is below the median of the others at the same evaluation (default); or none",
    )  # fmt: skip
    options.add_argument("--storage", metavar="URL", help="Optuna's database (default: DIR/study.db)")
    options.add_argument("--device", type=devices.parse, metavar="auto|cpu|gpu[:i]")
    options.add_argument("--data-dir", metavar="DIR", help="where datasets are that do not ship (or set NN_DATA_DIR)")
    options.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: runs/search-DATE_TIME)")
    options.add_argument("--no-mlflow", action="store_true", help="do not log to MLflow")
    return options


@dataclasses.dataclass
class Search:
    """What the trials of one search share."""

    study: Any
    directory: Path
    configs: dict[str, Config]  # by preset
    fields: dict[str, space.Field]
    asked: dict[str, Any]
    trials: int
    progress: Progress
    tracker: tracking.Tracker
    tags: dict[str, Any] = dataclasses.field(default_factory=dict)

    def run(self) -> None:
        """Do what is left to do; wait for what others do."""
        waiting = False
        while (left := self.trials - len(study.over(self.study))) > 0:
            if study.under_way(self.study) < left:
                study.next_trial(self.study, self.trial, self.fields, grid=self.asked["grid"])
                self.write()
            else:
                if not waiting:
                    self.progress.note("Waiting for the last trials of other processes (Ctrl-C: not)")
                waiting = True
                time.sleep(1)

    def trial(self, trial: Any) -> float:
        """One trial: its settings trained with each seed; returns the mean validation accuracy."""
        values = {name: field.suggested(trial) for name, field in self.fields.items()}
        config = space.replaced(self.configs[values.pop("preset", next(iter(self.configs)))], values)
        trial.set_user_attr("preset", config.preset)
        reported: list[float] = []
        own = [
            self.train(trial, dataclasses.replace(config, seed=seed), reported=reported) for seed in self.asked["seeds"]
        ]
        trial.set_user_attr("accuracies", own)
        return statistics.fmean(own)

    def train(self, trial: Any, config: Config, *, reported: list[float]) -> float:
        """One training; its validation accuracies are ``reported`` to Optuna, which may cut the trial off."""
        settings = "  ".join(f"{name}={value}" for name, value in trial.params.items())
        label = f"trial {trial.number} seed {config.seed}"
        self.progress.note(f"{label}: {settings}")
        child = self.tracker.child(
            config.preset, self.asked["track"], config.seed, name=label, params=config.to_json(), tags=self.tags
        )  # fmt: skip
        first = f"trial-{study.first_number(trial):04}"
        folder = self.directory.absolute() / "checkpoints" / f"{first}-seed{config.seed}"
        job = Job(config, self.asked["track"], machine.cores(), folder, keep=1)
        status, accuracy = "interrupted", None
        try:
            with workers.trainer(job, log=self.directory / "logs" / f"{folder.name}.log") as worker:
                for event in worker.events():
                    if event["event"] == "end":
                        status = event["status"]
                        accuracy = self.ended(trial, event, label)
                    else:
                        self.heard(trial, event, label, child=child, reported=reported)
        finally:
            self.tracker.finish_child(child, status, metrics={"val_accuracy": accuracy})
        shutil.rmtree(folder, ignore_errors=True)
        assert accuracy is not None
        return accuracy

    def heard(self, trial: Any, event: Event, label: str, *, child: str, reported: list[float]) -> None:
        """Show and log what a training reports; raise what ends a trial that is cut off."""
        kind = event["event"]
        if kind == "note":
            self.progress.note(f"{label}: {event['text']}")
        elif kind == "begin":
            self.progress.begin(label, event["steps"], step=event["step"])
            for row in event["history"]:  # of a trial that is done again
                self.judge(trial, row, reported)
        elif kind == "chunk":
            loss = event["loss"][-1]
            self.tracker.log_steps(child, [(event["step"], {"chunk_loss": loss, "lr": event["lr"]})])
            self.progress.update(event["step"], loss=loss, images_per_second=event["images_per_second"])
        elif kind == "eval":
            row = {name: value for name, value in event.items() if name not in ("event", "step", *TESTED)}
            self.tracker.log_steps(child, [(event["step"], row)])
            self.tracker.flush()
            self.progress.update(event["step"], accuracy=event["val_accuracy"])
            self.judge(trial, event, reported)

    def judge(self, trial: Any, row: Event, reported: list[float]) -> None:
        """Report an evaluation, and raise what ends a trial that is behind the others."""
        reported.append(row["val_accuracy"])
        trial.report(row["val_accuracy"], len(reported))
        if trial.should_prune():
            raise study.cut_off(self.why(trial, f"behind the others at evaluation {len(reported)}"))

    def ended(self, trial: Any, event: Event, label: str) -> float:
        """What a training came to: its validation accuracy; or raise why there is none."""
        if event["status"] == "finished":
            seconds = event["seconds"]["total"]
            self.progress.end(label, f"validation accuracy {event['val_accuracy']:.2%}, {seconds:.1f} s")
            return float(event["val_accuracy"])
        self.why(trial, event["message"])
        raise (
            study.cut_off(event["message"])
            if NOT_FINITE in event["message"]
            else study.FailedTrialError(event["message"])
        )

    def why(self, trial: Any, text: str) -> str:
        """Say and remember why a trial ended early."""
        trial.set_user_attr(study.WHY, text)
        self.progress.end(f"trial {trial.number}", text)
        return text

    def write(self) -> Path:
        """search.json, as it stands now."""
        from compare import search_report

        return search_report.write(search_report.results(self.study, self.asked, self.fields), self.directory)


def asked_of(options: argparse.Namespace, fields: dict[str, space.Field]) -> dict[str, Any]:
    """What decides whether a command goes on with a search: plain JSON types."""
    names = ("presets", "track", "grid", "epochs", "steps", "pruner")
    return {
        **{name: getattr(options, name) for name in names},
        "seeds": list(dict.fromkeys(options.seeds)),
        "space": sorted(options.space),
    }


def configs_of(options: argparse.Namespace, fields: dict[str, space.Field]) -> dict[str, Config]:
    """The config of each preset, the command line's wishes over it; UserError for a field that it has not."""
    given = {name: value for name in ("epochs", "steps", "device") if (value := getattr(options, name)) is not None}
    if options.data_dir:
        given["data_dir"] = str(Path(options.data_dir).resolve())
    found = {}
    for name in dict.fromkeys(options.presets):
        config = dataclasses.replace(presets.get(name), **given)
        space.require_known(fields, config)
        found[name] = config
    return found


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if there is a best trial, 1 if none came to anything, 2 for a wrong question, 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    fields = space.parse(options.space)
    configs = configs_of(options, fields)
    if len(configs) > 1:
        fields = {"preset": space.Choice("preset", tuple(configs)), **fields}
    if not fields:
        raise UserError("nothing varies: say what with --space, like --space lr=1e-3:1:log, or name several presets")
    trials = options.trials or (study.grid_size(fields) if options.grid else 20)
    if options.grid:
        trials = min(trials, study.grid_size(fields))
    directory = options.out or Path("runs", f"search-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    planning.require_writable(directory)
    asked = asked_of(options, fields)
    url = options.storage or f"sqlite:///{directory.absolute() / 'study.db'}"
    found = study.opened(url, directory, asked)
    command = shlex.join(
        ["python", "-m", "compare.search", *given, *([] if options.out else ["--out", str(directory)])]
    )
    with Progress() as progress:
        tracker = tracking.Tracker(results_dir=directory, warn=progress.note, enabled=not options.no_mlflow)
        search = Search(found, directory, configs, fields, asked, trials, progress, tracker)
        return _run(search, command)


def _run(search: Search, command: str) -> int:
    """The whole search, its report included."""
    from compare import search_report

    status = 0
    with search.tracker as tracker:
        parent = tracker.start(
            "search",
            search.directory.name,
            params={"command": command},
            parent=search.study.user_attrs.get("mlflow", ""),
        )
        search.study.set_user_attr("mlflow", parent)
        try:
            search.run()
        except KeyboardInterrupt:
            search.progress.note(f"Stopped; what is done is kept. Go on with: {command}")
            status = 130
        results = search_report.results(search.study, search.asked, search.fields)
        written = [search_report.write(results, search.directory), *search_report.draw(results, search.directory)]
        tracker.finish("interrupted" if status else "finished", artifacts=written)
    search_report.show(results, search.progress.console)
    for path in written:
        search.progress.note(str(path))
    return status or int(results["best"] is None)


if __name__ == "__main__":
    sys.exit(main())

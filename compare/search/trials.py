"""The trials of a search: each trains in its own process and reports its validation accuracy to the study.

When a trial ends, its checkpoints are deleted. One that is interrupted by Ctrl-C or loses its process keeps them, and
the next attempt resumes from there.
"""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from compare import machine, networks, overrides
from compare.config import Config
from compare.progress import Progress
from compare.results.runs import evaluation_metrics
from compare.search import report, study
from compare.search.results import results
from compare.tracking import Tracker
from compare.training.checks import NOT_FINITE
from compare.workers import process
from compare.workers.protocol import Event, Job

TESTED = ("test_loss", "test_accuracy")  # not logged: the test set is not used in a search


@dataclasses.dataclass
class Search:
    """What the trials of one search share."""

    study: Any
    directory: Path
    configs: dict[str, Config]  # by preset
    fields: dict[str, overrides.Field]
    settings: dict[str, Any]
    trials: int
    progress: Progress
    tracker: Tracker
    folder: Path | None = None  # of the running trial
    steps: int = 0  # of its running training

    def run(self) -> None:
        """Run the trials that are left, and wait for those that other processes are running."""
        waiting = False
        while (left := self.trials - len(study.ended(self.study))) > 0:
            if study.running(self.study) < left:
                counts = study.next_trial(self.study, self.trial, self.fields, grid=self.settings["grid"])
                if counts and self.folder:
                    shutil.rmtree(self.folder, ignore_errors=True)
                self.folder = None
                report.write(results(self.study, self.settings, self.fields), self.directory)
            else:
                if not waiting:
                    self.progress.note("Waiting for the last trials of other processes; Ctrl-C stops waiting")
                waiting = True
                time.sleep(1)

    def trial(self, trial: Any) -> float:
        """One trial: its settings trained with each seed; returns the mean validation accuracy."""
        values = {name: field.suggested(trial) for name, field in self.fields.items()}
        config = overrides.replaced(self.configs[values.pop("preset", next(iter(self.configs)))], values)
        trial.set_user_attr("preset", config.preset)
        paths = {"network": config.model if networks.is_file(config.model) else None, "data-dir": config.data_dir}
        trial.set_user_attr("paths", {flag: path for flag, path in paths.items() if path})
        self.folder = self.directory.absolute() / "checkpoints" / f"trial-{study.first_number(trial):04}"
        reported: list[float] = []
        own = [
            self.train(trial, dataclasses.replace(config, seed=seed), reported=reported)
            for seed in self.settings["seeds"]
        ]
        trial.set_user_attr("accuracies", own)
        return statistics.fmean(own)

    def train(self, trial: Any, config: Config, *, reported: list[float]) -> float:
        """One training; its validation accuracies are ``reported`` to Optuna, which may prune the trial."""
        settings = "  ".join(f"{name}={report.shown(value)}" for name, value in trial.params.items())
        label = f"trial {trial.number} seed {config.seed}"
        self.progress.note(f"{label}: {settings}")
        child = self.tracker.child(
            config.preset, self.settings["track"], config.seed, name=label, params=config.to_json()
        )
        assert self.folder
        job = Job(config, self.settings["track"], machine.cores(), self.folder / f"seed{config.seed}", keep=1)
        log = self.directory / "logs" / f"trial-{trial.number:04}-seed{config.seed}.log"
        status, accuracy = "interrupted", 0.0
        try:
            with process.trainer(job, log=log) as worker:
                for event in worker.events():
                    if event["event"] == "end":
                        status = event["status"]
                        accuracy = self.ended(trial, event, label)
                    else:
                        self.heard(trial, event, label, child=child, reported=reported)
        finally:
            self.tracker.finish_child(child, status)
        return accuracy

    def heard(self, trial: Any, event: Event, label: str, *, child: str, reported: list[float]) -> None:
        """Show and log what a training reports; raises the exception that prunes a trial."""
        kind = event["event"]
        if kind == "note":
            self.progress.note(f"{label}: {event['text']}")
        elif kind == "begin":
            self.steps = event["steps"]
            self.tracker.log_dataset(child, event["data"])
            self.progress.begin(label, self.steps, step=event["step"])
            for row in event["history"]:  # of an earlier attempt
                self.judge(trial, row, reported)
        elif kind == "chunk":
            self.tracker.log_chunk(child, event)
            self.progress.update(event["step"], loss=event["loss"][-1], images_per_second=event["images_per_second"])
        elif kind == "eval":
            row = {name: value for name, value in evaluation_metrics(event).items() if name not in TESTED}
            self.tracker.log_steps(child, [(event["step"], row)])
            self.tracker.flush()
            self.progress.update(event["step"], accuracy=event["val_accuracy"])
            self.judge(trial, event, reported)

    def judge(self, trial: Any, row: Event, reported: list[float]) -> None:
        """Report an evaluation; raises the exception that prunes a trial below the median of the others."""
        reported.append(row["val_accuracy"])
        trial.report(row["val_accuracy"], len(reported))
        if row["step"] < self.steps and trial.should_prune():
            raise study.pruned(
                self.why(trial, f"pruned: below the median of the other trials at evaluation {len(reported)}")
            )

    def ended(self, trial: Any, event: Event, label: str) -> float:
        """The validation accuracy of a training that ended; raises the reason if there is none."""
        if event["status"] == "finished":
            seconds = event["seconds"]["total"]
            self.progress.end(label, f"validation accuracy {event['val_accuracy']:.2%}, {seconds:.1f} s")
            return float(event["val_accuracy"])
        message = self.why(trial, event["message"])
        raise study.pruned(message) if NOT_FINITE in message else study.FailedTrialError(message)

    def why(self, trial: Any, text: str) -> str:
        """Show and store why a trial ended early."""
        trial.set_user_attr(study.WHY, text)
        self.progress.end(f"trial {trial.number}", text)
        return text

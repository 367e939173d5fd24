"""One comparison: prove, train every (preset, seed, track) in turn, write down what came out.

results.json is written anew after every run, so that whatever happens later is
not at the cost of what is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare import machine, tracking, tracks
from compare.config import Config, Interval
from compare.errors import UserError
from compare.experiment import plan
from compare.parity.check import proof_of
from compare.progress import Progress
from compare.report.write import show, write
from compare.results import Results, Run, final_figures, trajectory
from compare.workers import process
from compare.workers.process import Worker
from compare.workers.protocol import Job


@dataclass
class Comparison:
    """Everything that the runs of one command share."""

    results: Results  # of plan.plan, or plan.resumed: the runs that are not finished are done
    directory: Path
    progress: Progress
    stopping: bool = False
    worker: Worker | None = None
    products: list[float] = dataclasses.field(default_factory=list)  # GFLOP/s of large ones, since the last run ended

    @property
    def configs(self) -> list[Config]:
        """One per preset and seed."""
        runs = {(run["preset"], run["seed"]): run for run in self.results["runs"]}
        return [Config.from_json(run["config"]) for run in runs.values()]

    @property
    def track_names(self) -> list[str]:
        """The tracks that are compared."""
        return list(dict.fromkeys(run["track"] for run in self.results["runs"]))

    def run(self) -> int:
        """Do what is not done; return the exit status: 0, 1 if a run failed or a proof did, 130 if interrupted."""
        settings, environment = self.results["settings"], self.results["environment"]
        tracker = tracking.Tracker(results_dir=self.directory, warn=self.progress.note, enabled=settings["mlflow"])
        with plan.locked(self.directory), self.on_interrupt(), tracker:
            self.write()
            tags = tracking.environment_tags(environment)
            tracker.start("compare", self.directory.name, params={"command": self.results["command"]}, tags=tags)
            if settings["proof"]:
                self.prove()
            try:
                for run in self.results["runs"]:
                    if run["status"] == "finished":  # before this comparison was resumed
                        tracker.log_run(run, tags=tags)
                    elif not self.stopping:
                        self.train(run, tracker, tags)
                        self.write()
            except KeyboardInterrupt:  # the second Ctrl-C
                self.stopping = True
            self.finish(tracker)
        failed = any(run["status"] == "failed" for run in self.results["runs"])
        unequal = any(not row["passed"] for row in self.results["proof"])
        return 130 if self.stopping else int(failed or unequal)

    @contextlib.contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C, SIGTERM or SIGHUP asks the run to save and end; the second ends everything at once."""

        def handle(*_: object) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            self.progress.note("Stopping: the run under way saves its state (Ctrl-C again: at once)")
            if self.worker:
                self.worker.ask_to_stop()

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def prove(self) -> None:
        """Show that the tracks are one function: in float64 to rounding, and in the precision that is timed."""
        if len(self.track_names) < 2:
            return
        first_seed = {config.preset: config for config in self.configs if config.seed == self.configs[0].seed}
        proven = {row["precision"] for row in self.results["proof"]}
        for precision in dict.fromkeys(("float64", *(config.precision for config in self.configs))):
            if self.stopping:
                return
            if precision in proven:  # before this comparison was resumed
                continue
            configs = [proof_of(config, precision) for config in first_seed.values()]
            without = [name for name in self.track_names if name not in tracks.that_have(precision, self.track_names)]
            but = f" ({', '.join(without)} has none)" if without else ""
            self.progress.note(f"Proving that the tracks are one model: {', '.join(first_seed)} in {precision}{but}")
            try:
                rows = process.call(
                    *("compare.parity", "--json", json.dumps([config.to_json() for config in configs])),
                    *("--tracks", *self.track_names),
                    variables=tracks.device_variables(configs[0]),
                )
            except (RuntimeError, UserError) as error:
                if not self.stopping:
                    self.progress.note(f"The proof failed to run: {error}")
                continue
            self.results["proof"] += rows
            for row in rows:
                if not row["passed"]:
                    self.progress.note(f"NOT THE SAME: {row['preset']}, {row['a']} against {row['b']}, {precision}")

    def train(self, run: Run, tracker: tracking.Tracker, tags: dict[str, str]) -> None:
        """One run: started, followed, written into the results."""
        self.products = self.products or machine.products(threads=self.results["environment"]["threads"])
        if self.stopping:
            return
        config = Config.from_json(run["config"])
        label = f"{config.preset} {run['track']} seed {config.seed}"
        child = tracker.child(config.preset, run["track"], config.seed, params=run["config"], tags=tags)
        run["status"] = "interrupted"
        self.write()
        log = self.directory / "logs" / f"{file_name(run)}.log"
        with process.trainer(self.job(run, config), log=log) as self.worker:
            for event in self.worker.events():
                kind = event.pop("event")
                if kind == "note":
                    self.progress.note(f"{label}: {event['text']}")
                elif kind == "begin":
                    run |= {name: event[name] for name in ("chunk", "history", "step_loss")}
                    tracker.log_steps(child, trajectory(run))
                    self.progress.begin(label, event["steps"], step=event["step"])
                elif kind == "chunk":
                    run["step_loss"] += event["loss"]
                    chunk_loss = sum(event["loss"]) / len(event["loss"])
                    tracker.log_steps(child, [(event["step"], {"chunk_loss": chunk_loss, "lr": event["lr"]})])
                    self.progress.update(
                        event["step"], loss=event["loss"][-1], images_per_second=event["images_per_second"]
                    )
                elif kind == "eval":
                    run["history"].append(event)
                    tracker.log_steps(child, [(event["step"], {k: v for k, v in event.items() if k != "step"})])
                    tracker.flush()
                    self.progress.update(event["step"], accuracy=event["val_accuracy"])
                elif kind == "end":
                    self.end(run, event, config, label)
        self.worker = None
        self.weigh(run)
        tracker.finish_child(child, run["status"], metrics=final_figures(run))

    def job(self, run: Run, config: Config) -> Job:
        """What a worker is told."""
        settings, environment = self.results["settings"], self.results["environment"]
        return Job(
            config=config,
            track=run["track"],
            threads=machine.cores(),
            folder=self.directory.absolute() / "checkpoints" / file_name(run),
            resume_from=Path(settings["resume_from"]) if settings["resume_from"] else None,
            save_every=Interval.parse(settings["save_every"]),
            keep=settings["keep"],
            origin={name: environment[name] for name in ("versions", "git_commit")},
        )

    def end(self, run: dict[str, Any], event: dict[str, Any], config: Config, label: str) -> None:
        """Enter a run's figures, and what follows from them."""
        run |= event
        if self.stopping and run["status"] == "failed" and not run["steps"]:  # asked to stop before it had begun
            run |= {"status": "interrupted", "message": "stopped before the first step"}
        if run["checkpoint"]:
            run["checkpoint"] = os.path.relpath(run["checkpoint"], self.directory)
        speed = run["images_per_second"]
        if speed:
            run["gflops"] = speed * run["flops_per_image"] / 1e9
        if run["status"] == "finished":
            accuracy = f"test accuracy {run['test_accuracy']:.2%} of {run['test_count']:,} images"
            pace = f", {speed:,.0f} images/s" if speed else ""
            best = f" (best validation at step {run['best_step']:,} of {run['steps']:,})" if run["best_step"] else ""
            self.progress.end(label, f"{accuracy}{best}, {run['seconds']['total']:.1f} s{pace}")
        else:
            self.progress.end(label, f"{run['status'].upper()}: {run['message']}")

    def weigh(self, run: Run) -> None:
        """Hold a run's speed against large products just before it and just after: a machine has slow minutes.

        What ran on an accelerator is held against that one's.
        """
        environment, before, config = self.results["environment"], self.products, run["config"]
        self.products = [] if self.stopping else machine.products(threads=environment["threads"])
        pace = machine.around(environment, before, self.products)
        if not machine.on_cpu(run["hardware"]):
            each = machine.accelerator_gflops(config["device"], config["precision"])
            pace = each and each * config["devices"]
        run["gemm_gflops"] = pace
        run["gemm_share"] = run["gflops"] / pace if run["gflops"] and pace else None

    def finish(self, tracker: tracking.Tracker) -> None:
        """Measure the drift, write results and report, end the MLflow run."""
        self.results["environment"]["load"].append(machine.load())
        self.write()
        if len(self.track_names) > 1:
            try:
                self.results["parity"] = process.call("compare.parity.drift", str(self.directory.absolute()))
            except (RuntimeError, UserError) as error:
                self.progress.note(f"The drift between the tracks was not measured: {error}")
        self.results["status"] = "interrupted" if self.stopping else "finished"
        written = [self.write(), *write(self.results, self.directory)]
        tracker.finish(self.results["status"], artifacts=written)
        show(self.results, self.progress.console)
        for path in written:
            self.progress.note(str(path))
        if any(run["status"] != "finished" for run in self.results["runs"]):
            self.progress.note(f"Go on with: python -m compare.run_all --resume {shlex.quote(str(self.directory))}")

    def write(self) -> Path:
        """Write results.json: the new one whole, or the old one still."""
        path = self.directory / "results.json"
        part = path.with_suffix(".part")
        try:
            part.write_text(json.dumps(self.results, indent=1), encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise UserError(
                f"cannot write {path} ({error.strerror}): free some space, then go on with --resume {self.directory}"
            ) from error
        return path


def file_name(run: Run) -> str:
    """What the files of a run are called."""
    return f"{run['preset']}-{run['track']}-seed{run['seed']}"

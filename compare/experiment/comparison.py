"""One comparison: check parity, train every (preset, seed, track) in turn, write the results.

results.json is written after every run, so that nothing that is finished can be lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from compare import cli, machine, networks
from compare.config import Config, Interval
from compare.errors import UserError
from compare.experiment import plan
from compare.files import write_json
from compare.machine import disturbance, gemm
from compare.parity import process as parity
from compare.progress import Progress
from compare.report.summary import parity_in_short
from compare.report.write import import_libraries, show, write
from compare.results.runs import evaluation_metrics, examples, loss_in_bits, trajectory, unit
from compare.results.schema import Evaluation, Results, RunResult
from compare.tracking import Tracker, commands
from compare.workers import process
from compare.workers.process import Worker
from compare.workers.protocol import Job


@dataclass
class Comparison:
    """Everything that the runs of one command share."""

    results: Results  # of plan.plan or plan.resumed: every run that is not finished will be trained
    directory: Path
    progress: Progress
    wait: float = dataclasses.field(default_factory=cli.wait_for_quiet)  # seconds, before the first run
    stopping: bool = False
    worker: Worker | None = None
    matmuls: list[float] = dataclasses.field(default_factory=list)  # GFLOP/s, measured since the last run ended

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
        """Run everything that is not finished; return 0, 1 if a run or a parity check failed, 130 if interrupted."""
        settings = self.results["settings"]
        tracker = Tracker(results_dir=self.directory, warn=self.progress.note, enabled=settings["mlflow"])
        with plan.locked(self.directory), self.on_interrupt(), tracker:
            self.write()
            with ThreadPoolExecutor(1) as beside:  # both are done before anything is timed
                prepared = beside.submit(self.prepare, tracker)
                if settings["parity"]:
                    self.check_parity()
                prepared.result()
            self.wait_until_quiet()
            try:
                for run in [] if self.refused() else self.results["runs"]:
                    if run["status"] == "finished":  # before this comparison was resumed
                        tracker.log_run(self.results, run)
                    elif not self.stopping:
                        self.train(run, tracker)
                        self.write()
            except KeyboardInterrupt:  # the second Ctrl-C
                self.stopping = True
            self.finish(tracker)
        failed = any(run["status"] == "failed" for run in self.results["runs"])
        unequal = any(not row["passed"] for row in self.results["parity"])
        return 130 if self.stopping else int(failed or unequal)

    @contextlib.contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C, SIGTERM or SIGHUP asks the run to save and end; the second ends everything at once."""

        def handle(*_: object) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            self.progress.note("Stopping: the current run saves its state (press Ctrl-C again to stop at once)")
            if self.worker:
                self.worker.ask_to_stop()

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def prepare(self, tracker: Tracker) -> None:
        """Start the MLflow run and import what draws the report: seconds that the parity check takes anyway."""
        commands.start(tracker, self.results, self.directory.name)
        import_libraries()

    def check_parity(self) -> None:
        """Compare the tracks in float64, to rounding, and in the precision that is timed."""
        first_seed = {config.preset: config for config in self.configs if config.seed == self.configs[0].seed}
        checked = {row["precision"] for row in self.results["parity"]}  # before this comparison was resumed
        wanted = [config for config in parity.wanted([*first_seed.values()]) if config.precision not in checked]
        if len(self.track_names) < 2 or not wanted:
            return
        self.progress.note(f"Parity check: {', '.join(first_seed)} ({', '.join(self.track_names)})")
        hear = self.progress.stage("Parity check", parity.parts(wanted, self.track_names))
        try:
            self.results["parity"] += parity.check(wanted, self.track_names, hear=hear)
        except (RuntimeError, UserError) as error:
            if not self.stopping:
                self.progress.end("The parity check could not run", str(error))
            return
        for row in self.results["parity"]:
            if not row["passed"]:
                where = f"{row['preset']}, {row['a']} and {row['b']}, {row['precision']}"
                self.progress.note(f"PARITY CHECK FAILED: {where}")
        self.progress.end("Parity check", parity_in_short(self.results))

    def refused(self) -> bool:
        """Whether nothing is trained, because the classes of a network of the user are not the same network."""
        own = [config for config in self.configs if networks.is_file(config.model)]
        failed = own and any(not row["passed"] for row in self.results["parity"])
        if failed:
            self.progress.note(
                f"{own[0].model}: nothing is trained or timed, because the tracks are not the same network. "
                f"python -m compare.parity --network {own[0].model} shows where; --skip-parity trains without speeds"
            )
        return bool(failed)

    def wait_until_quiet(self) -> None:
        """Wait until no other program is busy, ``wait`` seconds at most; note it if the machine stays busy."""
        if self.stopping or not self.wait:
            return
        self.progress.note(f"Waiting up to {self.wait:g} s for a quiet machine")
        if not disturbance.wait_until_quiet(self.wait, stop=lambda: self.stopping) and not self.stopping:
            busy = f"other programs kept the machine busy for {self.wait:g} s before the first run"
            self.results["environment"]["disturbed"].append(busy)
            self.progress.note(f"⚠ {busy[0].upper()}{busy[1:]}: disturbed runs will be marked and not ranked")

    def train(self, run: RunResult, tracker: Tracker) -> None:
        """Train one run in a worker process and enter what it reports into the results."""
        self.matmuls = self.matmuls or machine.matmul_gflops(threads=self.results["environment"]["threads"])
        if self.stopping:
            return
        config = Config.from_json(run["config"])
        label = f"{config.preset} {run['track']} seed {config.seed}"
        child = tracker.child(config.preset, run["track"], config.seed, params=run["config"])
        run["status"] = "interrupted"
        self.write()
        log = self.directory / "logs" / f"{file_name(run)}.log"
        with process.trainer(self.job(run, config), log=log) as self.worker:
            for event in self.worker.events():
                kind = event.pop("event")
                if kind == "note":
                    self.progress.note(f"{label}: {event['text']}")
                elif kind == "begin":
                    run["chunk"], run["step_loss"] = event["chunk"], event["step_loss"]
                    run["history"], run["data"] = event["history"], event["data"]
                    tracker.log_dataset(child, event["data"])
                    tracker.log_steps(child, trajectory(run))
                    self.progress.begin(label, event["steps"], step=event["step"], examples=examples(run))
                elif kind == "chunk":
                    run["step_loss"] += event["loss"]
                    tracker.log_chunk(child, event)
                    self.progress.update(
                        event["step"], loss=event["loss"][-1], images_per_second=event["images_per_second"]
                    )
                elif kind == "eval":
                    run["history"].append(cast(Evaluation, event))
                    tracker.log_steps(child, [(event["step"], evaluation_metrics(event))])
                    tracker.flush()
                    self.progress.update(event["step"], accuracy=event["val_accuracy"])
                elif kind == "end":
                    self.end(run, event, config, label)
        self.worker = None
        self.measure_matmul(run, config, label)
        tracker.finish_run(child, self.results, run)

    def job(self, run: RunResult, config: Config) -> Job:
        """The job of the worker that trains a run."""
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

    def end(self, run: RunResult, measured: dict[str, Any], config: Config, label: str) -> None:
        """Enter what the worker measured, and the figures that follow from it."""
        run.update(cast(RunResult, measured))
        if self.stopping and run["status"] == "failed" and not run["steps"]:  # asked to stop before it had begun
            run["status"], run["message"] = "interrupted", "stopped before the first step"
        if run["checkpoint"]:
            run["checkpoint"] = os.path.relpath(run["checkpoint"], self.directory)
        speed, seconds = run["images_per_second"], run["seconds"]
        if speed:
            run["gflops"] = speed * (run["flops_per_image"] or 0) / 1e9
        if run["status"] == "finished":
            accuracy = f"test accuracy {run['test_accuracy']:.2%} on {run['test_count']:,} {unit(run)}"
            accuracy += "".join(f", {bits:.3f} bits per {unit(run).removesuffix('s')}" for bits in loss_in_bits([run]))
            best = f" (best validation accuracy at step {run['best_step']:,})" if run["best_step"] else ""
            total = f", {seconds['total']:.1f} s" if seconds else ""
            pace = f", {speed:,.0f} {examples(run)}/s" if speed else ""
            self.progress.end(label, f"{accuracy}{best}{total}{pace}")
        else:
            self.progress.end(label, f"{run['status'].upper()}: {run['message']}")

    def measure_matmul(self, run: RunResult, config: Config, label: str) -> None:
        """Enter the matmul speeds around a run, in NumPy and in its own library, and what they say of every run so far.

        How much NumPy's varied is the last figure that tells whether other programs disturbed the run. The speed of a
        run on an accelerator is compared with that accelerator's matmul speed.
        """
        environment, before = cast(dict[str, Any], self.results["environment"]), self.matmuls
        self.matmuls = [] if self.stopping else machine.matmul_gflops(threads=environment["threads"])
        run["matmul_gflops"] = gemm.around(run, before, self.matmuls, environment=environment, config=config)
        gemm.set_peaks(self.results["runs"])
        if seen := run["disturbance"]:
            on_cpu = machine.on_cpu(run["hardware"])
            seen["matmul_swing"] = disturbance.swing(before, self.matmuls) if on_cpu else None
            run["disturbed"] = disturbance.reason(seen)
        if run["disturbed"]:
            self.results["environment"]["disturbed"].append(f"{label}: {run['disturbed']}")
            self.progress.note(f"⚠ {label} was disturbed and is not ranked: {run['disturbed']}")

    def finish(self, tracker: Tracker) -> None:
        """Measure the drift, write the results and the report, end the MLflow run."""
        self.results["environment"]["load"]["after"] = machine.load()
        self.write()
        if len(self.track_names) > 1:
            try:
                self.results["drift"] = process.call("compare.parity.drift", str(self.directory.absolute()))
            except (RuntimeError, UserError) as error:
                self.progress.note(f"The drift could not be measured: {error}")
        self.results["status"] = "interrupted" if self.stopping else "finished"
        written = [self.write(), *write(self.results, self.directory)]
        tracker.finish_comparison(self.results, written)
        for path in written:
            self.progress.note(str(path))
        show(self.results, self.progress.console)
        self.progress.note((self.directory.absolute() / "report.html").as_uri())
        if any(run["status"] != "finished" for run in self.results["runs"]):
            self.progress.note(f"Resume with: python -m compare.run_all --resume {shlex.quote(str(self.directory))}")

    def write(self) -> Path:
        """Write results.json as it stands."""
        try:
            return write_json(self.directory / "results.json", self.results)
        except UserError as error:
            raise UserError(f"{error}; then continue with --resume {self.directory}") from error


def file_name(run: RunResult) -> str:
    """The name of a run's checkpoint folder and log file."""
    return f"{run['preset']}-{run['track']}-seed{run['seed']}"

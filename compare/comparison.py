"""One comparison: prove, train every (preset, seed, track) in turn, write down what came out.

results.json is written anew after every run, so that whatever happens later is
not at the cost of what is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import shlex
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare import machine, report, tracking, tracks, workers
from compare.config import Config
from compare.errors import UserError
from compare.flops import training_flops
from compare.progress import Progress
from compare.results import SCHEMA, final_figures
from compare.workers import Worker

FIGURES = (
    "steps best_step epochs test_accuracy test_count test_loss val_accuracy val_loss val_count seconds step_ms "
    "images_per_second chunk parameters peak_rss_mb import_rss_mb checkpoint message"
).split()


@dataclass
class Comparison:
    """Everything that the runs of one command share."""

    configs: Sequence[Config]  # one per preset and seed
    track_names: Sequence[str]
    directory: Path
    command: Sequence[str]
    progress: Progress
    proof: bool = True
    mlflow: bool = True
    threads: int = field(default_factory=machine.cores)
    stopping: bool = False
    worker: Worker | None = None
    results: dict[str, Any] = field(default_factory=dict)

    def run(self) -> int:
        """Do it all; return the exit status: 0, 1 if a run failed or a proof did, 130 if interrupted."""
        require_writable(self.directory)
        self.results = {
            "schema": SCHEMA,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "status": "interrupted",
            "command": shlex.join(self.command),
            "environment": machine.describe(threads=self.threads),
            "runs": [],
            "parity": [],
            "proof": [],
        }
        tracker = tracking.Tracker(results_dir=self.directory, warn=self.progress.note, enabled=self.mlflow)
        with self.on_interrupt(), tracker:
            tags = tracking.environment_tags(self.results["environment"])
            tracker.start("compare", self.directory.name, params={"command": self.results["command"]}, tags=tags)
            self.prove()
            try:
                for config, track in itertools.product(self.configs, self.track_names):
                    self.train(config, track, tracker, tags)
                    self.write()
            except KeyboardInterrupt:  # the second Ctrl-C
                self.stopping = True
            self.finish(tracker)
        failed = any(run["status"] == "failed" for run in self.results["runs"])
        unequal = any(not row["passed"] for row in self.results["proof"])
        return 130 if self.stopping else int(failed or unequal)

    @contextlib.contextmanager
    def on_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C asks the run under way to save and end; the second ends everything at once."""

        def handle(*_: object) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            self.progress.note("Stopping: the run under way saves its state (Ctrl-C again: at once)")
            if self.worker:
                self.worker.ask_to_stop()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def prove(self) -> None:
        """Show that the tracks are one function: in float64 to rounding, and in the precision that is timed."""
        if not self.proof or len(self.track_names) < 2:
            return
        first_seed = {config.preset: config for config in self.configs if config.seed == self.configs[0].seed}
        for precision in dict.fromkeys(("float64", *(config.precision for config in self.configs))):
            if self.stopping:
                return
            configs = [dataclasses.replace(config, precision=precision).to_json() for config in first_seed.values()]
            without = [name for name in self.track_names if name not in tracks.that_have(precision, self.track_names)]
            but = f" ({', '.join(without)} has none)" if without else ""
            self.progress.note(f"Proving that the tracks are one model: {', '.join(first_seed)} in {precision}{but}")
            try:
                rows = workers.call("compare.parity", "--json", json.dumps(configs), "--tracks", *self.track_names)
            except RuntimeError as error:
                if not self.stopping:
                    self.progress.note(f"The proof failed to run: {error}")
                continue
            self.results["proof"] += rows
            for row in rows:
                if not row["passed"]:
                    self.progress.note(f"NOT THE SAME: {row['preset']}, {row['a']} against {row['b']}, {precision}")

    def train(self, config: Config, track: str, tracker: tracking.Tracker, tags: dict[str, str]) -> None:
        """One run: started, followed, written into the results."""
        run = self.new_run(config, track)
        if self.stopping:
            return
        name = f"{config.preset}-{track}-seed{config.seed}"
        label = f"{config.preset} {track} seed {config.seed}"
        child = tracker.child(config.preset, track, config.seed, params=run["config"], tags=tags)
        worker = Worker(
            config,
            track,
            threads=self.threads,
            checkpoint=self.directory / "checkpoints" / name,
            log=self.directory / "logs" / f"{name}.log",
        )
        run["status"] = "interrupted"
        with worker as self.worker:
            for event in worker.events():
                kind = event.pop("event")
                if kind == "begin":
                    self.progress.begin(label, event["steps"])
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
        tracker.finish_child(child, run["status"], metrics=final_figures(run))

    def new_run(self, config: Config, track: str) -> dict[str, Any]:
        """An entry of results.json's ``runs``, as it stands before the run has begun."""
        run: dict[str, Any] = {
            "preset": config.preset,
            "track": track,
            "seed": config.seed,
            "model": config.model,
            "dataset": config.dataset,
            "precision": config.precision,
            "devices": config.devices,
            "batch_size": config.batch_size,
            **dict.fromkeys(FIGURES),
            "flops_per_image": None,
            "gflops": None,
            "gemm_share": None,
            "compile_note": None,
            "history": [],
            "step_loss": [],
            "config": config.to_json(),
            "status": "not started",
        }
        self.results["runs"].append(run)
        return run

    def end(self, run: dict[str, Any], event: dict[str, Any], config: Config, label: str) -> None:
        """Enter a run's figures, and what follows from them."""
        run |= event
        if self.stopping and run["status"] == "failed" and not run["steps"]:  # asked to stop before it had begun
            run |= {"status": "interrupted", "message": "stopped before the first step"}
        if run["checkpoint"]:
            run["checkpoint"] = os.path.relpath(run["checkpoint"], self.directory)
        speed = run["images_per_second"]
        if speed:
            run["flops_per_image"] = training_flops(config)
            run["gflops"] = speed * run["flops_per_image"] / 1e9
        if run["status"] == "finished":
            accuracy = f"test accuracy {run['test_accuracy']:.2%} of {run['test_count']:,} images"
            pace = f", {speed:,.0f} images/s" if speed else ""
            best = f" (best validation at step {run['best_step']:,} of {run['steps']:,})" if run["best_step"] else ""
            self.progress.end(label, f"{accuracy}{best}, {run['seconds']['total']:.1f} s{pace}")
        else:
            self.progress.end(label, f"{run['status'].upper()}: {run['message']}")

    def finish(self, tracker: tracking.Tracker) -> None:
        """Measure the drift, write results and report, end the MLflow run."""
        environment = self.results["environment"]
        environment["load"].append(machine.load())
        again = machine.gemm_gflops(threads=self.threads)  # the machine may have been busy the first time
        peak = environment["gemm_gflops"] = max(environment["gemm_gflops"] or 0, again or 0) or None
        for run in self.results["runs"]:
            run["gemm_share"] = run["gflops"] / peak if run["gflops"] and peak else None
        self.write()
        if len(self.track_names) > 1:
            try:
                self.results["parity"] = workers.call("compare.drift", str(self.directory.absolute()))
            except RuntimeError as error:
                self.progress.note(f"The drift between the tracks was not measured: {error}")
        self.results["status"] = "interrupted" if self.stopping else "finished"
        written = [self.write(), *report.write(self.results, self.directory)]
        tracker.finish(self.results["status"], artifacts=written)
        report.show(self.results, self.progress.console)
        for path in written:
            self.progress.note(str(path))

    def write(self) -> Path:
        """Write results.json: the new one whole, or the old one still."""
        path = self.directory / "results.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.results, indent=1), encoding="utf-8")
        part.replace(path)
        return path


def require_writable(directory: Path) -> None:
    """Make the folder and try it, before hours of training find out; never write over another comparison."""
    if (directory / "results.json").exists():
        raise UserError(f"{directory} holds a comparison already; choose another folder with --out, or remove it")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {directory} ({error.strerror}); choose another folder with --out") from error

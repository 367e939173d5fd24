"""One run of the training loop in a process of its own.

``python -m compare.training.worker`` reads one job (JSON) from standard input and answers
with events, one JSON line each:

    {"event": "note", "text"}
    {"event": "begin", "steps", "chunk", "parameters", "data", "step", and of a resumed run "history", "step_loss"}
    {"event": "chunk", "step", "loss": [of each step], "accuracy", "lr", "images_per_second", "usage"}
    {"event": "eval", and a row of the history}
    {"event": "end", "status", "message", and the figures of the run}
"""

from __future__ import annotations

import dataclasses
import signal
import threading

import numpy as np

from compare import machine, networks, tracks
from compare.config import Config
from compare.data import Data
from compare.data import load as load_data
from compare.errors import UserError
from compare.machine import gemm
from compare.machine.usage import Sampler
from compare.results.schema import DataFacts, ErrorAnalysis
from compare.training import loop, resume
from compare.training.checks import require_images, require_validation
from compare.training.clocks import Timings
from compare.training.error_analysis import error_analysis
from compare.training.loop import Training
from compare.training.saver import Saver
from compare.training.steps import plan
from compare.workers.protocol import Emit, Event, Job, received, stop_signals
from numpy_nn import tree


def run(job: Job, *, emit: Emit, stop: threading.Event) -> None:
    """Train as the job says and emit events; the last one says how it ended.

    When ``stop`` is set, training ends after the current chunk, and its state is saved.
    """
    timings = Timings()
    with timings.clock("import"):
        track = tracks.load(job.track)
    import_rss_mb = machine.peak_rss_mb()
    try:
        training = begin(job, track, timings, emit)
        training.memory.setdefault("import_rss_mb", import_rss_mb)
        emit(
            {
                "event": "begin",
                "steps": training.schedule.steps,
                "chunk": training.schedule.chunk,
                "parameters": training.parameters,
                "step": training.step,
                "history": list(training.history),
                "step_loss": list(training.step_loss),
                "data": facts_of(training.data),
            }
        )
        with Saver(job, training) as saver:
            loop.train(training, with_usage(emit), stop=stop.is_set, save=saver.save_if_due)
            figures = training.result()
            try:
                figures["checkpoint"] = str(saver.finish())
            except UserError as error:
                figures |= {"status": "failed", "message": f"the trained state could not be saved: {error}"}
            figures |= training.memory | track.device_facts(training.state)
        if training.finished:
            if training.data.train_x.ndim == 4:  # images, which the report shows
                try:
                    figures["error_analysis"] = analysed(training)
                except Exception as error:  # the training and its checkpoint are good without it
                    emit({"event": "note", "text": f"no error analysis: {type(error).__name__}: {error}"})
            figures["matmul_gflops"] = gemm.own_gflops(
                job.track, device=job.config.device, precision=job.config.precision, threads=job.threads
            )
    except UserError as error:
        figures = {"status": "failed", "message": f"{job.config.preset} {job.track}: {error}"}
    emit({"event": "end", **figures})


def facts_of(data: Data) -> DataFacts:
    """The dataset by its digest and its number of images."""
    counts = len(data.train_y), len(data.val_y), len(data.test_y)
    return {"name": data.name, "digest": data.digest, "train": counts[0], "val": counts[1], "test": counts[2]}


def with_usage(emit: Emit) -> Emit:
    """Add what the machine was used for to a chunk's event, once a second at most: between two timed chunks."""
    sampler = Sampler()

    def emit_with_usage(event: Event) -> None:
        emit(event | {"usage": sampler.sample()} if event["event"] == "chunk" else event)

    return emit_with_usage


def begin(job: Job, track: tracks.Track, timings: Timings, emit: Emit, *, find: resume.Find = resume.find) -> Training:
    """The job's training, at its first step or at that of the checkpoint that ``find`` returns.

    Raises UserError where the data, the checkpoint and the job's settings do not fit together.
    """

    def note(text: str) -> None:
        emit({"event": "note", "text": text})

    config = job.config
    networks.require_unchanged(config.model, config.network_digest)
    with timings.clock("data"):
        data = load_data(config.dataset, data_dir=config.data_dir, val_size=config.val_size, seed=config.seed)
        found = find(job, note)
        schedule = plan(config, len(data.train_x), first=found.step if found else 0)
        if job.chunk:
            schedule = dataclasses.replace(schedule, chunk=job.chunk)
        require_images(config, data)
        require_validation(config, data)
        if found:
            resume.require_fit(found, job, data, steps=schedule.steps)
    snapshot = found.snapshot if found else first_snapshot(config)
    arguments = tracks.state_arguments(config, job.track, steps=schedule.steps, threads=job.threads)
    arguments |= job.arguments
    try:
        training = loop.begin(track, config, data, snapshot, schedule=schedule, arguments=arguments, timings=timings)
    except UserError as error:
        raise UserError(f"{found.path}: {error}" if found else str(error)) from error
    if found:
        resume.restore(training, found, job, note)
    return training


def analysed(training: Training) -> ErrorAnalysis:
    """The error analysis of the state that is the result, after every clock has stopped."""
    track, data, state = training.track, training.data, training.state
    if best := training.best_state:
        state = track.init_state(best.snapshot, **training.arguments | {"devices": 1})
    snapshot = track.to_snapshot(state)
    params, batch_size = snapshot.get("ema") or snapshot["params"], training.config.eval_batch_size
    return error_analysis(lambda x: track.logits(state, x), params, data, batch_size=batch_size)


def first_snapshot(config: Config) -> tree.Tree:
    """First parameters, the same for all tracks: those that the NumPy network draws under this seed."""
    return networks.first_snapshot(config.model, config.model_args, np.random.default_rng(config.seed))


def main() -> None:
    """Do the one job on standard input; SIGTERM and SIGHUP ask to stop."""
    stop = threading.Event()
    for number in stop_signals():
        signal.signal(number, lambda *_: stop.set())
    job, emit = received()
    run(Job.from_json(job), emit=emit, stop=stop)


if __name__ == "__main__":
    main()

"""One trial of the benchmark, in a process of its own: ``python -m compare.benchmark.trial`` reads a job.

A trial is a run of the training loop that saves nothing. It ends after a fixed number of steps, or at the first
evaluation that reaches a validation accuracy. Or it times the layers one by one.
"""

from __future__ import annotations

import dataclasses
import importlib
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from compare import machine, tracks
from compare.benchmark import roofline
from compare.benchmark.results import SHOWN
from compare.config import Config
from compare.data.loaders import BatchIterator
from compare.data.stream import IndexSampler
from compare.errors import UserError
from compare.training import loop, worker
from compare.training.clocks import Timings
from compare.training.loop import Training
from compare.workers import protocol
from compare.workers.protocol import Job

LAPS = 5  # of every part of the split


def run(
    job: Job, *, module: str | None = None, target: float | None = None, evaluate: bool = True, split: bool = True
) -> dict[str, Any]:
    """Train and measure.

    Args:
        job: what to train, where, and for how long at most.
        module: the module to call instead of the job's track (``compare.benchmark.baseline_torch``).
        target: validation accuracy to stop at; None trains to the end.
        evaluate: evaluate all test images at the end.
        split: measure the parts of a step.

    Returns:
        ``seconds`` of each clock, ``step_ms`` of every timed call, ``losses`` of the first steps, ``split_ms``, memory
        in MB, the device facts, and ``test_accuracy`` (None without an evaluation); ``reached`` is whether the
        validation accuracy reached the target.
    """
    timings = Timings()
    with timings.clock("import"):
        track = importlib.import_module(module) if module else tracks.load(job.track)
    import_rss_mb = machine.peak_rss_mb()
    training = worker.begin(job, track, timings, emit=lambda _: None)
    if target is None:  # only the test images are evaluated, once at most
        data, steps = training.data, training.schedule.steps
        training.data = dataclasses.replace(data, val_x=data.val_x[:0], val_y=data.val_y[:0])
        training.schedule = dataclasses.replace(training.schedule, evaluations=frozenset([steps] if evaluate else []))
    if module:
        with timings.clock("data"):
            importlib.import_module(module).hold(training)

    def reached() -> bool:
        return target is not None and (training.last.get("val_accuracy") or 0.0) >= target

    loop.train(training, stop=reached)
    peak = machine.peak_rss_mb()  # before the split makes arrays of its own
    facts = tracks.recorded_facts(track, training.state)
    figures = training.result()
    return {
        "seconds": figures["seconds"],
        "step_ms": [1000 * lap / training.schedule.chunk for lap in timings.chunks.steady],
        "split_ms": parts(training) if split else None,
        "input_share": figures["input_share"],
        "losses": training.step_loss[:SHOWN],
        "chunk": training.schedule.chunk,
        "steps": training.step,
        "test_accuracy": figures["test_accuracy"],
        "val_accuracy": figures["val_accuracy"],
        "reached": None if target is None else reached(),
        "import_rss_mb": import_rss_mb,
        "peak_rss_mb": peak,
        **facts,
    }


def parts(training: Training) -> dict[str, float]:
    """The parts of a step in ms: ``input``, ``forward``, ``backward``, ``update``.

    Frameworks fuse these parts, so none can be timed inside a running step. Input is gathering and augmenting the
    images. Update is a step on two images: the update, and whatever else does not grow with the batch. Forward is
    the time of evaluating the batch minus that of evaluating two images; backward is the rest of a timed step.
    """
    track, data, config, k = training.track, training.data, training.config, training.schedule.chunk

    sampler = IndexSampler(seed=config.seed, batch_size=config.batch_size, train_size=len(data.train_x), k=k, stop=k)

    def batches() -> tuple[np.ndarray, np.ndarray]:
        return next(BatchIterator(data, sampler, augment=config.augment))

    def step(x: np.ndarray, y: np.ndarray) -> None:
        training.state, _ = track.train_steps(training.state, x, y)
        track.synchronize(training.state)

    def forward(x: np.ndarray, y: np.ndarray) -> None:
        float(track.eval_batch(training.state, x, y)["loss_sum"])

    x, y = batches()
    few = x[:, :2].copy(), y[:, :2].copy()
    images, labels = data.train_x[: config.batch_size], data.train_y[: config.batch_size]
    evaluations = [_median(partial(forward, images[:n], labels[:n])) for n in (len(images), 2)]
    milliseconds = {
        "input": _median(batches) / k,
        "forward": max(evaluations[0] - evaluations[1], 0.0),
        "update": _median(lambda: step(*few)) / k,
    }
    whole = 1000 * statistics.median(training.timings.chunks.steady) / k
    return milliseconds | {"backward": whole - sum(milliseconds.values())}


def _median(function: Callable[[], Any]) -> float:
    """Milliseconds that a call takes after warming up."""
    function()
    laps = []
    for _ in range(LAPS):
        start = time.perf_counter()
        function()
        laps.append(1000 * (time.perf_counter() - start))
    return statistics.median(laps)


def main() -> None:
    """Do the one job that the parent sends: train, or time the layers; the only event says how it ended."""
    job, emit = protocol.received()
    answer: dict[str, Any]
    try:
        if "layers" in job:
            answer = {"layers": roofline.measured(Config.from_json(job["layers"]), job["track"])}
        else:
            answer = run(Job.from_json(job.pop("job")), **job)
    except UserError as error:
        answer = {"status": "failed", "message": str(error)}
    except Exception as error:  # a compiler that is missing, memory that is short: a row of the table says so
        traceback.print_exc()
        answer = {"status": "failed", "message": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    emit({"event": "end", "status": "finished", **answer})


if __name__ == "__main__":
    main()

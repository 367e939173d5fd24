"""One trial of the benchmark, in its own process: ``python -m compare.benchmark.trial`` reads a job.

A trial trains as ``compare.training.worker`` does, on the same clocks, and saves nothing. It ends when it has timed
enough steps, or at the first evaluation that reaches a validation accuracy. Or it times the layers one by one.
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
from compare.benchmark.results import COMPARED
from compare.config import Config
from compare.data.loaders import BatchIterator
from compare.data.stream import IndexSampler
from compare.errors import UserError
from compare.machine import gemm
from compare.training import loop, worker
from compare.training.clocks import Timings
from compare.training.loop import Training
from compare.workers import protocol
from compare.workers.protocol import Job

LAPS = 5  # of each part of the breakdown


def run(
    job: Job,
    *,
    module: str | None = None,
    target: float | None = None,
    stop_after: int | None = None,
    min_seconds: float = 0.0,
    evaluate: bool = True,
    breakdown: bool = True,
) -> dict[str, Any]:
    """Train and measure; returns the figures of a ``results.Trial``.

    Args:
        job: what to train, where, and for how long at most.
        module: called instead of the job's track (``compare.benchmark.baseline_torch``).
        target: validation accuracy to stop at.
        stop_after: steps after which to stop, once ``min_seconds`` of steps have been timed; None trains to the end.
        min_seconds: see ``stop_after``; the first call, which warms up, is not timed.
        evaluate: measure accuracy on all test images, after ``stop_after`` steps or at the end.
        breakdown: measure the parts of a step.
    """
    timings = Timings()
    with timings.clock("import"):
        track = importlib.import_module(module) if module else tracks.load(job.track)
    import_rss_mb = machine.peak_rss_mb()
    training = worker.begin(job, track, timings, emit=lambda _: None)
    if target is None:  # no validation: only the test images are evaluated, once at most
        data, steps = training.data, stop_after or training.schedule.steps
        training.data = dataclasses.replace(data, val_x=data.val_x[:0], val_y=data.val_y[:0])
        training.schedule = dataclasses.replace(training.schedule, evaluations=frozenset([steps] if evaluate else []))
    if module:
        with timings.clock("data"):
            importlib.import_module(module).hold(training)

    def enough() -> bool:
        if target is not None:
            return (training.last.get("val_accuracy") or 0.0) >= target
        return training.step >= steps and sum(timings.chunks.steady) >= min_seconds

    loop.train(training, stop=enough)
    peak = machine.peak_rss_mb()  # before the breakdown allocates arrays of its own
    figures = training.result()
    config = job.config
    return {
        "seconds": figures["seconds"],
        "step_ms": [1000 * lap / training.schedule.chunk for lap in timings.chunks.steady],
        "breakdown_ms": parts(training) if breakdown else None,
        "input_share": figures["input_share"],
        "disturbance": figures["disturbance"],
        "losses": training.step_loss[:COMPARED],
        "chunk": training.schedule.chunk,
        "steps": training.step,
        "test_accuracy": figures["test_accuracy"],
        "val_accuracy": figures["val_accuracy"],
        "reached": None if target is None else enough(),
        "import_rss_mb": import_rss_mb,
        "peak_rss_mb": peak,
        **track.device_facts(training.state),
        "matmul_gflops": gemm.own_gflops(
            job.track, device=config.device, precision=config.precision, threads=job.threads
        ),
    }


def parts(training: Training) -> dict[str, float]:
    """Milliseconds of a step spent on ``input``, ``forward``, ``backward`` and ``update``, estimated by differences.

    Frameworks fuse these parts, so they cannot be timed inside a running step. Input is gathering and augmenting the
    images. Update is a step on two images: the update and all else that does not grow with the batch. Forward is
    evaluating the batch minus evaluating two images; backward is a timed step minus the other three.
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
    """Median milliseconds of a call, after a first one to warm up."""
    function()
    laps = []
    for _ in range(LAPS):
        start = time.perf_counter()
        function()
        laps.append(1000 * (time.perf_counter() - start))
    return statistics.median(laps)


def main() -> None:
    """Do the one job that the parent sends, train or time the layers, and report how it ended in a single event."""
    job, emit = protocol.received()
    answer: dict[str, Any]
    try:
        if "layers" in job:
            answer = {"layers": roofline.measured(Config.from_json(job["layers"]), job["track"])}
            answer["matmul_gflops"] = gemm.own_gflops(job["track"], device="cpu", precision="float32", threads=1)
        else:
            answer = run(Job.from_json(job.pop("job")), **job)
    except UserError as error:
        answer = {"status": "failed", "message": str(error)}
    except Exception as error:  # a missing compiler, too little memory: the row of the table says so
        traceback.print_exc()
        answer = {"status": "failed", "message": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    emit({"event": "end", "status": "finished", **answer})


if __name__ == "__main__":
    main()

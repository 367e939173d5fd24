"""One trial of the benchmark, in a process of its own: ``python -m compare.trial`` reads a job and prints JSON.

A trial trains as ``compare.runner`` does, with the same clocks, and saves nothing. It ends after a fixed number of
steps, or at the first evaluation that reaches a validation accuracy.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from compare import machine, tracks
from compare.clocks import Timings
from compare.config import Config, plan
from compare.data import load as load_data
from compare.errors import UserError
from compare.runner import first_snapshot
from compare.training import Training
from numpy_nn import tree

LAPS = 7  # of every part of the split


def run(
    config: Config,
    track_name: str,
    *,
    threads: int,
    chunk: int | None = None,
    target: float | None = None,
    arguments: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and measure.

    Args:
        config: what to train, and for how long at most.
        track_name: a name in ``tracks.TRACKS``.
        threads: cores to use.
        chunk: steps per call; as planned if None.
        target: validation accuracy to stop at; None trains to the end.
        arguments: further keyword arguments of the track's ``init_state``.

    Returns:
        the clocks in seconds, every steady step time in ms, the split of a step in ms, memory in MB, and the
        accuracy that was reached; ``reached`` is whether that is the target.
    """
    timings = Timings()
    with timings.clock("import"):
        track = tracks.load(track_name)
    import_rss_mb = machine.peak_rss_mb()
    with timings.clock("data"):
        data = load_data(config.dataset, data_dir=config.data_dir, val_size=config.val_size, seed=config.seed)
        schedule = plan(config, len(data.train_x))
        if chunk:
            schedule = dataclasses.replace(schedule, chunk=chunk)
    with timings.clock("set-up"):
        snapshot = first_snapshot(config)
        given = tracks.state_arguments(config, track_name, steps=schedule.steps, threads=threads) | (arguments or {})
        state = track.init_state(snapshot, **given, mean=data.mean, std=data.std)
        track.synchronize(state)
    training = Training(config, track, data, schedule, state, timings, tree.count(snapshot["params"]))
    row: dict[str, Any] = {}
    while not training.finished and not (target and row and row["val_accuracy"] >= target):
        event = training.chunk()
        if training.step in schedule.evaluations:
            row = training.evaluation(event)
    peak = machine.peak_rss_mb()
    figures = timings.figures(chunk=schedule.chunk, batch_size=config.batch_size)
    return {
        "seconds": figures["seconds"],
        "step_ms": [1000 * lap / schedule.chunk for lap in timings.chunks.steady],
        "images_per_second": figures["images_per_second"],
        "split_ms": None if target else split(training),
        "chunk": schedule.chunk,
        "steps": training.step,
        "test_accuracy": row["test_accuracy"],
        "test_count": len(data.test_y),
        "reached": None if target is None else row["val_accuracy"] >= target,
        "import_rss_mb": import_rss_mb,
        "peak_rss_mb": peak,
    }


def split(training: Training) -> dict[str, float]:
    """What a step is made of, in ms: ``input``, ``forward``, ``backward``, ``update``, each measured as a whole.

    Frameworks fuse these parts, so none can be cut out of a running step. Input is the gathering (and augmenting) of
    the images; forward is an evaluation of the batch; update is a step on two images, which leaves next to
    nothing but the update and the overhead of the call; backward is what a step takes beyond these three.
    """
    track, data, config, k = training.track, training.data, training.config, training.schedule.chunk

    def batches(size: int = config.batch_size) -> tuple[np.ndarray, np.ndarray]:
        return data.train_chunk(config.seed, 0, k, batch_size=size, augment=config.augment)

    def step(x: np.ndarray, y: np.ndarray) -> None:
        training.state, _ = track.train_steps(training.state, x, y)
        track.synchronize(training.state)

    def forward(x: np.ndarray, y: np.ndarray) -> None:
        metrics = track.eval_batch(training.state, x, y)
        float(metrics["loss_sum"])

    x, y = batches()
    labels = y if y.ndim == 2 else y.argmax(axis=2).astype(np.int32)
    few = x[:, :2].copy(), y[:, :2].copy()
    milliseconds = {
        "input": _median(batches) / k,
        "forward": _median(lambda: forward(x[0], labels[0])),
        "update": _median(lambda: step(*few)) / k,
    }
    whole = _median(lambda: step(x, y)) / k
    return milliseconds | {"backward": whole - milliseconds["forward"] - milliseconds["update"]}


def _median(function: Callable[[], Any]) -> float:
    """Milliseconds that a call takes, once it has warmed up."""
    function()
    laps = []
    for _ in range(LAPS):
        start = time.perf_counter()
        function()
        laps.append(1000 * (time.perf_counter() - start))
    return statistics.median(laps)


def main() -> None:
    """Do the one job on standard input; what libraries print goes to stderr, the answer to standard output."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    try:
        result = run(Config(**job.pop("config")), job.pop("track"), **job)
    except UserError as error:
        result = {"error": str(error)}
    except Exception as error:  # a compiler that is missing, memory that is short: a row of the table says so
        result = {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    print(json.dumps(result), file=answer)


if __name__ == "__main__":
    main()

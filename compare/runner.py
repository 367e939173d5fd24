"""THE training loop, the same for all tracks, in a process of its own per run.

``python -m compare.runner`` reads one job (JSON) from standard input and answers
with events, one JSON line each:

    {"event": "begin", "steps", "chunk", "parameters"}
    {"event": "chunk", "step", "loss": [of each step], "accuracy", "lr", "images_per_second"}
    {"event": "eval", and a row of the history}
    {"event": "end", "status", "message", and the figures of the run}
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from compare import tracks
from compare.clocks import Timings
from compare.config import Config, plan
from compare.data import load as load_data
from compare.errors import UserError
from compare.training import Event, Training, require_validation
from numpy_nn import tree


def run(
    config: Config,
    track_name: str,
    *,
    threads: int,
    checkpoint: Path,
    emit: Callable[[Event], None],
    stop: threading.Event,
) -> None:
    """Train as configured and emit what happens; the last event says how it ended.

    Args:
        config: what to train.
        track_name: a name in ``tracks.TRACKS``.
        threads: cores to use.
        checkpoint: folder for the trained state.
        emit: receives the events.
        stop: when set, training ends after the chunk under way; its state is saved.
    """
    timings = Timings()
    with timings.clock("import"):
        track = tracks.load(track_name)
    import_rss_mb = peak_rss_mb()
    try:
        with timings.clock("data"):
            data = load_data(config.dataset, data_dir=config.data_dir, val_size=config.val_size, seed=config.seed)
            schedule = plan(config, len(data.train_x))
            require_validation(config, data)
        with timings.clock("set-up"):
            snapshot = first_snapshot(config)
            arguments = tracks.state_arguments(config, track_name, steps=schedule.steps, threads=threads)
            try:
                state = track.init_state(snapshot, **arguments, mean=data.mean, std=data.std)
            except ValueError as error:
                raise UserError(str(error)) from error
            track.synchronize(state)
        parameters = tree.count(snapshot["params"])
        emit({"event": "begin", "steps": schedule.steps, "chunk": schedule.chunk, "parameters": parameters})
        training = Training(config, track, data, schedule, state, timings)
        while not training.finished and not stop.is_set():
            chunk = training.chunk()
            emit(chunk)
            if training.step in schedule.evaluations:
                emit(training.evaluation(chunk))
        memory = {"import_rss_mb": import_rss_mb, "peak_rss_mb": peak_rss_mb()}  # before Orbax imports JAX
        snapshot, figures = training.result()
        figures |= {"parameters": parameters, **memory}
        try:
            figures["checkpoint"] = str(save(checkpoint, snapshot, config, track_name))
        except (OSError, ValueError) as error:
            figures |= {"status": "failed", "message": f"the trained state could not be saved in {checkpoint}: {error}"}
    except UserError as error:
        figures = {"status": "failed", "message": f"{config.preset} {track_name}: {error}"}
    emit({"event": "end", **figures})


def first_snapshot(config: Config) -> tree.Tree:
    """First parameters, the same for all tracks: those that the NumPy network draws under this seed."""
    from numpy_nn.models import MODELS

    return MODELS[config.model](**config.model_args).init(np.random.default_rng(config.seed))


def save(directory: Path, snapshot: tree.Tree, config: Config, track_name: str) -> Path:
    """Write a checkpoint. Orbax is imported this late because it brings JAX along, into every track's memory."""
    from compare import checkpoint

    step = int(snapshot["step"])
    return checkpoint.save(directory, step, snapshot, {"config": config.to_json(), "track": track_name, "step": step})


def peak_rss_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (2²⁰ bytes); None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return round(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024, 1)


def main() -> None:
    """Do the one job on standard input; events go to what was standard output, prints of libraries to stderr."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: Event) -> None:
        try:
            print(json.dumps(_json(event)), file=events, flush=True)
        except BrokenPipeError:  # the parent is gone: nobody is left to work for
            os._exit(1)

    job = json.load(sys.stdin)
    checkpoint = Path(job.pop("checkpoint"))
    run(Config(**job.pop("config")), job.pop("track"), **job, checkpoint=checkpoint, emit=emit, stop=stop)


def _json(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()

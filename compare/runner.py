"""THE training loop, the same for all tracks, in a process of its own per run.

``python -m compare.runner`` reads one job (JSON) from standard input and answers
with events, one JSON line each:

    {"event": "begin", "steps", "chunk", "parameters"}
    {"event": "chunk", "step", "loss": [of each step], "accuracy", "lr", "images_per_second"}
    {"event": "eval", and a row of the history}
    {"event": "end", "status", "message", and the figures of the run}

Every clock stops at a synchronised device. The first chunk and the first
evaluation batch carry compilation and lazy set-up: what they take beyond the
median of the others is compile time, and the others are the steady time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from compare import tracks
from compare.config import Config, plan
from compare.data import Data, eval_batches
from compare.data import load as load_data
from compare.errors import UserError
from numpy_nn import tree

Event = dict[str, Any]


class Stopwatch:
    """Durations of equal pieces of work; the first of them also warms up."""

    def __init__(self) -> None:
        self.laps: list[float] = []

    @contextmanager
    def lap(self) -> Iterator[None]:
        """Time one piece."""
        start = time.perf_counter()
        yield
        self.laps.append(time.perf_counter() - start)

    @property
    def steady(self) -> list[float]:
        """Every lap but the first."""
        return self.laps[1:]

    @property
    def warm_up(self) -> float:
        """What the first lap took beyond the median of the others."""
        return max(self.laps[0] - statistics.median(self.steady), 0.0) if self.steady else 0.0

    @property
    def work(self) -> float:
        """All laps, the warm-up left out."""
        return sum(self.laps) - self.warm_up


@dataclasses.dataclass
class Timings:
    """The clocks of one run."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    chunks: Stopwatch = dataclasses.field(default_factory=Stopwatch)
    evaluations: Stopwatch = dataclasses.field(default_factory=Stopwatch)

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Time something that happens once."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def figures(self, *, chunk: int, batch_size: int) -> Event:
        """``seconds``, ``step_ms`` and ``images_per_second`` of results.json."""
        warm_up = self.chunks.warm_up + self.evaluations.warm_up
        seconds = self.seconds | {
            "compile": self.seconds["set-up"] + warm_up,
            "train": self.chunks.work,
            "eval": self.evaluations.work,
        }
        del seconds["set-up"]
        seconds["total"] = sum(seconds.values())
        step_ms = [1000 * lap / chunk for lap in self.chunks.steady]
        if not step_ms:
            return {"seconds": seconds, "step_ms": None, "images_per_second": None}
        p10, median, p90 = np.percentile(step_ms, [10, 50, 90]).tolist()
        return {
            "seconds": seconds,
            "step_ms": {"median": median, "p10": p10, "p90": p90},
            "images_per_second": 1000 * batch_size / median,
        }


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
        with timings.clock("set-up"):
            snapshot = first_snapshot(config)
            arguments = tracks.state_arguments(config, track_name, steps=schedule.steps, threads=threads)
            try:
                state = track.init_state(snapshot, **arguments, mean=data.mean, std=data.std)
            except ValueError as error:
                raise UserError(f"{config.preset} {track_name}: {error}") from error
            track.synchronize(state)
        parameters = tree.count(snapshot["params"])
        emit({"event": "begin", "steps": schedule.steps, "chunk": schedule.chunk, "parameters": parameters})

        step, row = 0, {}
        images = schedule.chunk * config.batch_size
        while step < schedule.steps and not stop.is_set():
            with timings.chunks.lap():
                x, y = data.train_chunk(
                    config.seed, step, schedule.chunk, batch_size=config.batch_size, augment=config.augment
                )
                state, metrics = track.train_steps(state, x, y)
                track.synchronize(state)
            loss, correct, lr = (np.asarray(metrics[name], np.float64) for name in ("loss", "correct", "lr"))
            require_finite(loss, step, config=config, track_name=track_name)
            step += schedule.chunk
            emit(
                {
                    "event": "chunk",
                    "step": step,
                    "loss": loss.tolist(),
                    "accuracy": correct.sum() / images,
                    "lr": float(lr[-1]),
                    "images_per_second": images / timings.chunks.laps[-1],
                }
            )
            if step in schedule.evaluations:
                row = {
                    "step": step,
                    "epoch": step * config.batch_size / len(data.train_x),
                    "train_loss": float(loss.mean()),
                    **evaluate(track, state, data, batch_size=config.eval_batch_size, watch=timings.evaluations),
                    "lr": float(lr[-1]),
                    "seconds": timings.chunks.work,
                }
                emit({"event": "eval", **row})
        finished = step == schedule.steps
        figures = timings.figures(chunk=schedule.chunk, batch_size=config.batch_size)
        figures |= {name: row.get(name) for name in ("test_loss", "test_accuracy", "val_loss", "val_accuracy")}
        figures |= {
            "status": "finished" if finished else "interrupted",
            "message": None if finished else f"stopped after step {step:,} of {schedule.steps:,}",
            "steps": step,
            "epochs": step * config.batch_size / len(data.train_x),
            "chunk": schedule.chunk,
            "parameters": parameters,
            "test_count": len(data.test_y) if row else None,
            "val_count": len(data.val_y) if row else None,
            "peak_rss_mb": peak_rss_mb(),  # before Orbax comes in, which imports JAX
            "import_rss_mb": import_rss_mb,
        }
        try:
            figures["checkpoint"] = str(save(checkpoint, step, track.to_snapshot(state), config, track_name))
        except (OSError, ValueError) as error:
            figures |= {"status": "failed", "message": f"the trained state could not be saved in {checkpoint}: {error}"}
    except UserError as error:
        figures = {"status": "failed", "message": str(error)}
    emit({"event": "end", **figures})


def first_snapshot(config: Config) -> tree.Tree:
    """First parameters, the same for all tracks: those that the NumPy network draws under this seed."""
    from numpy_nn.models import MODELS

    return MODELS[config.model](**config.model_args).init(np.random.default_rng(config.seed))


def require_finite(loss: np.ndarray, first_step: int, *, config: Config, track_name: str) -> None:
    """Raise UserError at the first loss that is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(loss))
    if len(bad):
        raise UserError(
            f"{config.preset} {track_name}: the loss became {loss[bad[0]]} at step {first_step + bad[0]:,}; "
            f"try a lower learning rate than --lr {config.lr:g}"
        )


def evaluate(track: tracks.Track, state: Any, data: Data, *, batch_size: int, watch: Stopwatch) -> Event:
    """Loss and accuracy over all of the validation and the test images; sums are added, and divided once."""
    figures = {}
    for split, x, y in (("val", data.val_x, data.val_y), ("test", data.test_x, data.test_y)):
        sums = {"loss_sum": 0.0, "correct": 0.0, "count": 0.0}
        for batch in eval_batches(x, y, batch_size):
            with watch.lap():
                metrics = track.eval_batch(state, *batch)
                sums = {name: value + float(metrics[name]) for name, value in sums.items()}
        if sums["count"] != len(y):
            raise AssertionError(f"{len(y)} {split} images, but {sums['count']:.0f} were counted")
        figures[f"{split}_loss"] = sums["loss_sum"] / len(y) if len(y) else None
        figures[f"{split}_accuracy"] = sums["correct"] / len(y) if len(y) else None
    return figures


def save(directory: Path, step: int, snapshot: tree.Tree, config: Config, track_name: str) -> Path:
    """Write a checkpoint. Orbax is imported this late because it brings JAX along, into every track's memory."""
    from compare import checkpoint

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

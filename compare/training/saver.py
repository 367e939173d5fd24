"""When a run is saved, and what a checkpoint says of it.

Saving happens between the timed chunks: the state is copied, checked and handed to Orbax, which
writes it while the training goes on.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare import machine
from compare.checkpoint.store import Writer
from compare.errors import UserError
from compare.training.loop import Moment, Training
from compare.workers.protocol import Event, Job


@dataclass
class Saver:
    """Saves one run at its intervals and at its end: a context manager."""

    job: Job
    training: Training
    writer: Writer | None = None
    last_time: float = field(default_factory=time.monotonic)
    last_step: int = field(init=False)

    def __post_init__(self) -> None:
        self.last_step = self.training.step

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        """What was begun is written, whatever ended the run; ``finish`` has told of any trouble."""
        with contextlib.suppress(UserError):
            self.close()

    def save_if_due(self) -> None:
        """Save if the interval has passed since the last time."""
        passed = self.training.step - self.last_step, time.monotonic() - self.last_time
        if self.job.save_every.passed(steps=passed[0], seconds=passed[1]):
            self.save()
            self.last_step, self.last_time = self.training.step, time.monotonic()

    def finish(self) -> Path:
        """Save where the training stands, wait for the disk; return the result's checkpoint, or what to go on from."""
        training = self.training
        self.save()
        self.close()
        best = training.best_moment if training.finished else None
        return self.job.folder / str(best.step if best else training.step)

    def save(self) -> None:
        """Write the best state, if it is to be kept and new, and the present one."""
        best = self.training.best_moment
        if best and self.training.on_disk < best.step < self.training.step:
            self.write(best)
        if self.training.on_disk < self.training.step:
            self.write(self.training.moment())

    def write(self, moment: Moment) -> None:
        """Begin to write one checkpoint."""
        if self.writer is None:
            self.writer = self.open()
        self.writer.save(moment.step, moment.snapshot, self.meta(moment.metrics), moment.progress)
        self.training.on_disk = moment.step

    def open(self) -> Writer:
        """Open the folder; what memory the training needs is looked up before, because Orbax brings JAX along."""
        memory, peak = self.training.memory, machine.peak_rss_mb()
        memory["peak_rss_mb"] = max(filter(None, (memory.get("peak_rss_mb"), peak)), default=None)
        return Writer(self.job.folder, keep=self.job.keep)

    def close(self) -> None:
        """Wait until everything is on disk."""
        writer, self.writer = self.writer, None
        if writer:
            writer.close()

    def meta(self, metrics: Event) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        data = self.training.data
        return {
            "config": self.job.config.to_json(),
            "track": self.job.track,
            "mean": list(data.mean),
            "std": list(data.std),
            **self.job.origin,
            "data": {"name": data.name, "digest": data.digest},
            "metrics": metrics,
        }

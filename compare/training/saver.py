"""Saves a run at intervals and at its end.

Saving happens between the timed chunks: the state is copied, checked and handed to Orbax, which
writes it in the background while the training continues.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare import machine
from compare.checkpoint.store import Writer
from compare.data import Data
from compare.errors import UserError
from compare.training.loop import SavedState, Training
from compare.weights import energy
from compare.workers.protocol import Job


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
        """Complete what is being written, whatever ended the run; errors are those of ``finish``."""
        with contextlib.suppress(UserError):
            self.close()

    def save_if_due(self) -> None:
        """Save if the interval has passed since the last save."""
        passed = self.training.step - self.last_step, time.monotonic() - self.last_time
        if self.job.save_every.passed(steps=passed[0], seconds=passed[1]):
            self.save()
            self.last_step, self.last_time = self.training.step, time.monotonic()

    def finish(self) -> Path:
        """Save the present state and wait for the disk; return the checkpoint of the result, or the one to resume.

        Raises UserError if it cannot be written.
        """
        training = self.training
        self.save()
        self.close()
        best = training.best_state if training.finished else None
        return self.job.folder / str(best.step if best else training.step)

    def save(self) -> None:
        """Write the best state, if it is kept and new, and the present one."""
        best = self.training.best_state
        if best and self.training.saved_step < best.step < self.training.step:
            self.write(best)
        if self.training.saved_step < self.training.step:
            self.write(self.training.saved_state())

    def write(self, state: SavedState) -> None:
        """Begin to write one checkpoint."""
        if self.writer is None:
            self.writer = self.open()
        self.writer.save(state.step, state.snapshot, self.meta(state), state.progress)
        self.training.saved_step = state.step

    def open(self) -> Writer:
        """Open the folder for writing, and note the peak memory before: Orbax imports JAX, which takes more."""
        memory, peak = self.training.memory, machine.peak_rss_mb()
        memory["peak_rss_mb"] = max(filter(None, (memory.get("peak_rss_mb"), peak)), default=None)
        return Writer(self.job.folder, keep=self.job.keep)

    def close(self) -> None:
        """Wait until everything is on disk."""
        writer, self.writer = self.writer, None
        if writer:
            writer.close()

    def meta(self, state: SavedState) -> dict[str, Any]:
        """The metadata of a checkpoint."""
        data = self.training.data
        return {
            "config": self.job.config.to_json(),
            "track": self.job.track,
            **facts(data),
            energy.KEY: state.energy_threshold,
            **self.job.origin,
            "metrics": state.metrics,
        }


def facts(data: Data) -> dict[str, Any]:
    """What a network says of the dataset that it was trained on."""
    return {
        "mean": list(data.mean),
        "std": list(data.std),
        "classes": list(data.classes),
        **({"prepared": data.preparation.to_json()} if data.preparation.known else {}),
        "data": {"name": data.name, "digest": data.digest},
    }

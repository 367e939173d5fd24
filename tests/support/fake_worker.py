"""A worker that trains nothing, for tests of the search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compare.workers.protocol import Job


class FakeWorker:
    """Trains nothing: the nearer the learning rate is to 0.1, the better; what the test images say is the opposite."""

    def __init__(self, job: Job, log: Path):
        self.job, self.log = job, log

    def __enter__(self) -> FakeWorker:
        self.job.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None: ...

    def events(self) -> Iterator[dict[str, Any]]:
        rate = self.job.config.lr
        data = {"name": "mnist", "digest": "0" * 64, "train": 55_000, "val": 5_000, "test": 10_000}
        yield {"event": "begin", "steps": 3, "step": 0, "history": [], "data": data}
        for step in (1, 2, 3):
            accuracy = max(0.0, 0.9 - abs(rate - 0.1) + 0.01 * step + 0.001 * self.job.config.seed)
            yield {"event": "chunk", "step": step, "loss": [1.0], "lr": rate, "images_per_second": 1.0}
            yield {"event": "eval", "step": step, "val_accuracy": accuracy, "test_accuracy": 1 - accuracy}
        if rate > 100:
            yield {"event": "end", "status": "failed", "message": "the loss became nan at step 3"}
        elif rate < 0.001:
            yield {"event": "end", "status": "failed", "message": "the worker was killed by SIGKILL"}
        else:
            yield {"event": "end", "status": "finished", "val_accuracy": accuracy, "seconds": {"total": 0.1}}

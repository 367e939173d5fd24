"""One trial of a loader, in its own process: ``python -m compare.loaders.trial`` reads a job and reports its end.

Chunks are taken as fast as they come. Each is read once, for a checksum of every step's labels, in order, and of the
XOR of its images, pixel by pixel: a cheap way to notice another image or another order.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from typing import Any

import numpy as np

from compare import machine
from compare.data import load
from compare.data.loaders import BatchIterator
from compare.data.stream import IndexSampler
from compare.errors import UserError
from compare.workers import protocol


def run(loader: str, *, dataset: str, data_dir: str | None, batch_size: int, k: int, chunks: int) -> dict[str, Any]:
    """Take ``chunks`` chunks of ``k`` steps from a loader; returns the figures of a ``results.Trial``."""
    data = load(dataset, data_dir=data_dir)
    before = machine.pss_mb()
    sampler = IndexSampler(seed=0, batch_size=batch_size, train_size=len(data.train_x), k=k, stop=k * (chunks + 1))
    seconds, memory, sha = [], [], hashlib.sha256()
    start = time.perf_counter()
    with BatchIterator(data, sampler, loader=loader) as batches:
        started = time.perf_counter() - start
        lap = time.perf_counter()
        for x, y in batches:
            sha.update(np.bitwise_xor.reduce(x, axis=1).data)
            sha.update(y.data)
            seconds.append(time.perf_counter() - lap)
            if len(seconds) in (1, chunks // 2):
                memory.append(machine.pss_mb() or 0.0)
            lap = time.perf_counter()
    return {
        "start_seconds": started,
        "chunk_seconds": seconds[1:],  # the first was made while starting
        "images_per_second": k * batch_size / statistics.mean(seconds[1:]),
        "memory_mb": max(memory),
        "before_mb": before,
        "checksum": sha.hexdigest(),
        "shape": data.train_x.shape[1:],
        "classes": len(data.classes),
    }


def main() -> None:
    """Do the one job that the parent sends, and report how it ended in a single event."""
    job, emit = protocol.received()
    try:
        answer = {"status": "finished", **run(**job)}
    except UserError as error:
        answer = {"status": "failed", "message": str(error)}
    emit({"event": "end", **answer})


if __name__ == "__main__":
    main()

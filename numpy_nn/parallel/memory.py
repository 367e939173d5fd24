"""Memory that several processes map: a file without a name, which is gone when the last process that has it ends.

``multiprocessing.shared_memory`` has names, and Python 3.11 and 3.12 count on them: the resource tracker of a killed
worker unlinks the memory that the others still use, that of a killed parent warns of leaks, and /dev/shm is limited
(64 MB in a container by default). A file descriptor that workers inherit has none of these problems.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

LINE = 64  # bytes of a cache line


def memory_file(size: int) -> int:
    """Descriptor of a nameless file of ``size`` zero bytes, in memory where the system can (Linux), else on disk."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("numpy_nn")
    else:
        with tempfile.TemporaryFile() as on_disk:
            file = os.dup(on_disk.fileno())
    os.truncate(file, size)
    return file


class SharedArrays:
    """Arrays in a file that several processes map; all must ask for the same arrays in the same order."""

    def __init__(self, file: int):
        self.buffer = mmap.mmap(file, 0)
        self.used = 0  # bytes

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The next array, zero at first, on cache lines of its own."""
        start = -(-self.used // LINE) * LINE
        array = np.frombuffer(self.buffer, dtype, math.prod(shape), start).reshape(shape)
        self.used = start + array.nbytes
        return array


class SharedBatch:
    """The batches of a call, written by rank 0 and read by the workers. The file grows with them."""

    def __init__(self, file: int):
        self.file = file
        self.arrays: SharedArrays | None = None

    def write(self, *batches: np.ndarray) -> list[tuple[tuple[int, ...], str]]:
        """Copy the batches to the file; returns the shape and dtype of each, which :meth:`read` takes."""
        room = sum(batch.nbytes + LINE for batch in batches)
        if room > os.fstat(self.file).st_size:
            os.truncate(self.file, room)
        described = [(batch.shape, batch.dtype.str) for batch in batches]
        for array, batch in zip(self.read(described), batches, strict=True):
            array[...] = batch
        return described

    def read(self, described: Sequence[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
        """The batches, as views of the file."""
        if self.arrays is None or len(self.arrays.buffer) < os.fstat(self.file).st_size:
            self.arrays = SharedArrays(self.file)
        self.arrays.used = 0
        return [self.arrays.array(*each) for each in described]

"""Memory that several processes see: a file without a disk, mapped by each of them, and what keeps its order."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

LINE = 64  # bytes of a cache line
FENCE = Lock()


def file_in_memory(size: int) -> int:
    """Descriptor of a file of so many zeros, gone when the last process that has it is."""
    with tempfile.TemporaryFile() as on_disk:  # where the system knows no better
        file = os.memfd_create("numpy_nn") if hasattr(os, "memfd_create") else os.dup(on_disk.fileno())
    os.truncate(file, size)
    return file


class Memory:
    """A file in memory that several processes map: each asks for the same arrays in the same order."""

    def __init__(self, file: int):
        self.buffer = mmap.mmap(file, 0)
        self.used = 0

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """The next array, zero at first; each begins on a cache line of its own."""
        start = -(-self.used // LINE) * LINE
        array = np.frombuffer(self.buffer, dtype, math.prod(shape), start).reshape(shape)
        self.used = start + array.nbytes
        return array


class Tray:
    """Where the first of the group lays the batches of a call for all to see. It grows with what is laid on it."""

    def __init__(self, file: int):
        self.file = file
        self.memory: Memory | None = None

    def lay(self, *arrays: np.ndarray) -> list[tuple[tuple[int, ...], str]]:
        """Copy the arrays; returns what :meth:`look` needs to know."""
        room = sum(array.nbytes + LINE for array in arrays)
        if room > os.fstat(self.file).st_size:
            os.truncate(self.file, room)
        found = [(array.shape, array.dtype.str) for array in arrays]
        for place, array in zip(self.look(found), arrays, strict=True):
            place[...] = array
        return found

    def look(self, found: Sequence[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
        """The arrays that lie there."""
        if self.memory is None or len(self.memory.buffer) < os.fstat(self.file).st_size:
            self.memory = Memory(self.file)
        self.memory.used = 0
        return [self.memory.array(*each) for each in found]


def fence() -> None:
    """Keep what is read and written before apart from what is read and written after, whatever the processor.

    Once is not enough: reads and writes of either side may move in between taking a lock and letting it go.
    But nothing moves past letting it go and taking it again.
    """
    for _ in range(2):
        with FENCE:
            pass

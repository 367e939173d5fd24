"""Barriers between processes: ``wait`` returns when every process of the group has called it.

``SpinBarrier`` watches counters in shared memory, for a step may be shorter than it takes to wake a process. It assumes
that an aligned 8-byte number is read and written whole, and that other processes see writes in the order in which they
were made, across a ``fence``. It was tested on x86-64, whose memory order promises both. On any other processor
``PipeBarrier`` takes its place: it waits in the operating system, whose calls order memory everywhere.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from threading import Lock

import numpy as np

SPINS, YIELDS = 2_000, 20_000  # looks at a counter before yielding the core, and before sleeping
FENCE = Lock()


class PeerError(RuntimeError):
    """Another process of the group failed: its own error says more."""


def can_spin() -> bool:
    """Whether the processor is one that ``SpinBarrier`` was tested on."""
    return platform.machine() in ("x86_64", "AMD64")


class SpinBarrier:
    """Each process counts its arrivals in ``arrived (size,)``, int64, and waits for the counts of the others."""

    def __init__(self, rank: int, arrived: np.ndarray):
        self.rank, self.arrived = rank, arrived.data  # a memoryview is read faster than an array

    def reset(self) -> None:
        """Forget arrivals: rank 0 calls this while the workers are idle."""
        if self.rank == 0:
            for rank in range(len(self.arrived)):
                self.arrived[rank] = 0

    def wait(self, check: Callable[[], None]) -> None:
        """Return when every process has called this as often as this one; ``check`` may raise while it waits."""
        now = self.arrived[self.rank] + 1
        fence()
        self.arrived[self.rank] = now
        for other in range(len(self.arrived)):
            looks = 0
            while self.arrived[other] < now:
                looks += 1
                if looks > SPINS:
                    check()
                    os.sched_yield() if looks < YIELDS else time.sleep(1e-4)
        fence()


def fence() -> None:
    """Keep reads and writes before this call before those after it, as far as locks promise it.

    Memory operations may move into the section that a lock protects, from both sides, but not past a release that is
    followed by an acquire. Hence the second round.
    """
    for _ in range(2):
        with FENCE:
            pass


class PipeBarrier:
    """Each worker sends a byte to rank 0, which answers all of them when it has heard from all."""

    def __init__(self, rank: int, pipes: Sequence[Connection]):
        self.rank, self.pipes = rank, pipes  # a pipe to each worker, or one to rank 0

    def reset(self) -> None:
        """Forget the bytes of a call that failed: every process calls this before it waits for the first time."""
        for pipe in self.pipes:
            with contextlib.suppress(EOFError, OSError):  # the process is gone, and will be missed elsewhere
                while pipe.poll():
                    pipe.recv_bytes()

    def wait(self, check: Callable[[], None]) -> None:
        """Return when every process has called this; ``check`` may raise while it waits."""
        try:
            if self.rank:
                self._tell()
            self._hear(check)
            if self.rank == 0:
                self._tell()
        except (EOFError, OSError):
            raise PeerError("another process of this step is gone") from None

    def _tell(self) -> None:
        for pipe in self.pipes:
            pipe.send_bytes(b".")

    def _hear(self, check: Callable[[], None]) -> None:
        for pipe in self.pipes:
            while not pipe.poll(0.1):
                check()
            pipe.recv_bytes()

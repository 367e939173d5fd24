"""The processes that take a step together, as each of them sees it, and the worker processes, as rank 0 sees them."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import numpy as np

from numpy_nn.network_file import defining_file
from numpy_nn.parallel.barrier import PeerError, PipeBarrier, SpinBarrier, can_spin
from numpy_nn.parallel.memory import LINE, SharedArrays, SharedBatch, memory_file
from numpy_nn.tree import Tree, leaves, tree_map

SCRATCH = 2**16  # numbers that all_sum can take: more channels than any network here has


def shards(x: np.ndarray, parts: int, *, equal: bool = False) -> list[np.ndarray]:
    """Split along the first axis into ``parts`` whose sizes differ by at most 1, or return ``[x]``.

    It is not split if a part would be empty, or, with ``equal``, if the parts would differ.
    """
    fits = len(x) >= parts and not (equal and len(x) % parts)
    return np.array_split(x, parts if fits else 1)


class Group:
    """Process number ``rank`` of the ``size`` that take a step together; without arguments, one process on its own.

    With ``exact``, a batch that ``size`` does not divide is refused. ``parent`` is the process number of rank 0: a
    worker ends when its parent is another, even if rank 0 was gone before the worker had started.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, exact: bool = False, parent: int = 0):
        self.rank, self.size, self.exact, self.parent = rank, size, exact, parent
        self.workers: list[WorkerProcess] = []  # rank 0 has them, and the memory for their batches
        self.batch: SharedBatch

    def join(self, state: Any, memory: SharedArrays, pipes: Sequence[Connection]) -> Any:
        """The state with its arrays in the shared memory; every process of the group calls this once.

        ``pipes`` are for a ``PipeBarrier``; without any, the processes spin.
        """

        def move(leaf: np.ndarray) -> np.ndarray:
            if leaf.ndim == 0:  # a counter: each process has its own
                return leaf
            shared = memory.array(leaf.shape, leaf.dtype)
            if self.rank == 0:
                shared[...] = leaf
            return shared

        params, opt, ema = (tree_map(move, tree) for tree in (state.params, state.opt, state.ema))
        self.grads = [tree_map(lambda p: memory.array(p.shape, p.dtype), params) for _ in range(self.size)]
        self.scratch = memory.array((2, self.size, SCRATCH), np.float64)
        self.failed = memory.array((1,), np.int64)
        arrived = memory.array((self.size,), np.int64)
        self.barrier: SpinBarrier | PipeBarrier = (
            PipeBarrier(self.rank, pipes) if pipes else SpinBarrier(self.rank, arrived)
        )
        optimizer = state.optimizer | {"all_sum": self.all_sum}
        return replace(state, params=params, opt=opt, ema=ema, optimizer=optimizer, group=self)

    # --- collectives --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Prepare for a call: every process does this before it meets the others."""
        self.turn = 0
        self.barrier.reset()

    def wait(self) -> None:
        """Return when every process of the group has called this; RuntimeError if one of them failed or is gone."""
        self.barrier.wait(self.check)

    def check(self) -> None:
        """Raise PeerError if another process failed, RuntimeError if a worker is gone; end if rank 0 is."""
        if self.failed[0]:
            raise PeerError("another process of this step failed")
        if self.rank and os.getppid() != self.parent:
            os._exit(1)  # nobody is left to report to
        for worker in self.workers:
            if worker.process.poll() is not None:
                raise worker.gone()

    def all_sum(self, array: Any) -> np.ndarray:
        """Sum of the arrays that the processes bring, in float64, the same bits in each process."""
        array = np.asarray(array)
        self.turn = 1 - self.turn  # two places, as some processes may still read the last sum
        places = self.scratch[self.turn, :, : array.size]
        places[self.rank] = array.ravel()
        self.wait()
        return places.sum(axis=0).reshape(array.shape)

    def all_mean(self, array: np.ndarray) -> np.ndarray:
        """Mean of the arrays that the processes bring, in their dtype."""
        return (self.all_sum(array) / self.size).astype(array.dtype)

    def split(self, x: np.ndarray, *, equal: bool = False) -> list[np.ndarray]:
        """The shards of a batch, one for each process, or one for rank 0 if it cannot be split (see ``shards``)."""
        if self.exact and len(x) % self.size:
            raise ValueError(f"a batch of {len(x)} does not divide by {self.size} devices: choose another batch size")
        return shards(x, self.size, equal=equal)

    def part(self, tree: Tree, rank: int | None = None) -> Tree:
        """The rank's part of every leaf, as a flat view; this process's by default. Counters stay as they are."""
        r = self.rank if rank is None else rank

        def part(leaf: np.ndarray) -> np.ndarray:
            if leaf.ndim == 0:
                return leaf
            return leaf.reshape(-1)[r * leaf.size // self.size : (r + 1) * leaf.size // self.size]

        return tree_map(part, tree)

    def reduce_scatter(self, numbers: np.ndarray, grads: Tree) -> tuple[np.ndarray, Tree]:
        """Sum the numbers and the gradients of all processes; of the gradients, each gets its part of the sum."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        for other in others:
            tree_map(np.copyto, self.part(self.grads[self.rank], other), self.part(grads, other))
        numbers = self.all_sum(numbers)  # returns when every process has written its gradients
        total = self.part(grads)
        for other in others:
            tree_map(lambda a, b: np.add(a, b, out=a), total, self.part(self.grads[other]))
        return numbers, total

    # --- the workers, as rank 0 sees them -----------------------------------------------------------------------------

    @contextmanager
    def call(self, function: str, state: Any, *batches: np.ndarray) -> Iterator[None]:
        """Have the workers call ``train.<function>`` of the same batches while this process runs the block.

        If the block or a worker fails, the others stop waiting, and the error is raised. One process alone, and a
        worker, just run the block.
        """
        if not self.workers:
            yield
            return
        described = self.batch.write(*batches)
        self.failed[0] = 0
        self.begin()
        asked: list[WorkerProcess] = []
        errors: list[BaseException] = []
        try:
            for worker in self.workers:
                worker.send((function, state.stats, state.step, described))
                asked.append(worker)
            yield
        except BaseException as error:
            errors.append(error)
            self.failed[0] = 1
        errors += filter(None, [worker.receive() for worker in asked])
        if errors:
            try:
                raise next((error for error in errors if not isinstance(error, PeerError)), errors[0])
            finally:
                del errors  # or the error would hold this frame, the frame the error, and both the group


class WorkerProcess:
    """A worker, ``python -m numpy_nn.parallel.worker``, as rank 0 sees it."""

    def __init__(self, files: Sequence[int]):
        path = os.pathsep.join(dict.fromkeys((str(Path(__file__).parents[2]), *filter(None, sys.path))))
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        self.connection, connection = Pipe()
        self.pipe, pipe = Pipe()
        with connection, pipe:
            inherited = [connection.fileno(), pipe.fileno(), *files]
            command = [sys.executable, "-m", "numpy_nn.parallel.worker", *map(str, inherited)]
            self.process = subprocess.Popen(command, env=environment, pass_fds=inherited)

    def send(self, message: Any) -> None:
        """Send anything that can be pickled; RuntimeError if the process is gone."""
        try:
            self.connection.send(message)
        except BrokenPipeError:
            raise self.gone() from None

    def receive(self) -> Exception | None:
        """Wait for the end of a call: the worker's error, if there was one."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self.gone()

    def gone(self) -> RuntimeError:
        """The error to raise if the process has ended."""
        return RuntimeError(f"a process of the NumPy track ended with exit code {self.process.wait()}: start again")


def start(state: Any, processes: int, *, exact: bool = False) -> Any:
    """Start a worker for every process but this one; the state with its arrays in memory that all of them share."""
    trees = (state.params, state.opt, state.ema, *[state.params] * processes)  # the last for everybody's gradients
    room = sum(leaf.nbytes + LINE for tree in trees for leaf in leaves(tree).values())
    arrays, batch = memory_file(room + 8 * (2 * processes * SCRATCH + processes) + 4 * LINE), memory_file(LINE)
    group = Group(0, processes, exact=exact)
    group.batch = SharedBatch(batch)
    group.workers = [WorkerProcess([arrays, batch]) for _ in range(1, processes)]
    weakref.finalize(group, close, group.workers, batch)
    spin = can_spin()
    for rank, worker in enumerate(group.workers, 1):
        worker.send(defining_file(state.model))
        worker.send((rank, processes, exact, spin, os.getpid(), state))
    shared = group.join(state, SharedArrays(arrays), [] if spin else [worker.pipe for worker in group.workers])
    os.close(arrays)
    return shared


def close(workers: Sequence[WorkerProcess], batch: int) -> None:
    """End the workers: each ends when its connection is closed."""
    os.close(batch)
    for worker in workers:
        worker.connection.close()
        worker.pipe.close()
    for worker in workers:
        worker.process.wait()

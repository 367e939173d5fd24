"""Several cores for one step: a process for each, the batch is split, the gradients are summed.

NumPy lets go of Python's lock inside its large operations, so threads could share the work. But they
queue for that lock before and after each of them, and a step has hundreds: an LSTM gained 1.4 times its
speed from a second thread, and more than twice from a second process. So each core gets a process of its
own (``numpy_nn.worker``), with a lock of its own. What they all see is one piece of memory: the
parameters, the optimizer's memory, and each one's gradients.

A step of process r, of N:

    1. forward and backward of its shard of the batch: gradients ∇ᵣ
    2. wait until all are there
    3. of every parameter, update the r-th of N parts with that part of Σ ∇ₛ
    4. wait until all are there

Steps 2 to 4 are what is known as reduce-scatter, sharded update and all-gather (Rajbhandari et al. 2020,
"ZeRO"): no number is added twice, and nothing is sent, as everybody reads the same memory.

Batch norm wants the mean of the whole batch, so its processes also meet half-way, each with its
part of the sum (``Group.all_mean``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import numpy as np

from numpy_nn.shared import LINE, Memory, Tray, fence, file_in_memory
from numpy_nn.tree import Tree, leaves, tree_map

SCRATCH = 2**16  # numbers that all_mean can take: more channels than any network here has
SPINS, YIELDS = 2_000, 20_000  # looks at a clock before giving the core away, and before sleeping


def shards(x: np.ndarray, parts: int, *, equal: bool = False) -> list[np.ndarray]:
    """Split along the first axis into ``parts`` as equal as can be, or not at all.

    It is not split where a part would be empty, or, with ``equal``, where the parts would differ.
    """
    fits = len(x) >= parts and not (equal and len(x) % parts)
    return np.array_split(x, parts if fits else 1)


class Elsewhere(RuntimeError):
    """Another process of the step failed: its error says more."""


class Worker:
    """One of the other processes, as the first of the group sees it."""

    def __init__(self, files: Sequence[int]):
        path = os.pathsep.join(dict.fromkeys((str(Path(__file__).parents[1]), *filter(None, sys.path))))
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        self.connection, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", "numpy_nn.worker", str(theirs.fileno())]
            self.process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno(), *files])

    def send(self, message: Any) -> None:
        """Send anything that can be pickled."""
        try:
            self.connection.send(message)
        except BrokenPipeError:
            raise self.gone() from None

    def receive(self) -> Any:
        """The answer, or the error that stands in its place."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self.gone()

    def gone(self) -> RuntimeError:
        """What to raise when the process is no more."""
        return RuntimeError(f"a process of the NumPy track ended with exit code {self.process.wait()}: start again")


class Group:
    """The processes that take a step together, as one of them sees it: the ``rank``-th of ``size``.

    Alone (``size`` 1, no ``memory``), everything is its own and there is nobody to wait for. Where the split must be
    ``exact``, a batch that does not divide is refused.
    """

    def __init__(self, rank: int = 0, size: int = 1, memory: Memory | None = None, *, exact: bool = False):
        self.rank, self.size, self.exact = rank, size, exact
        self.parent = os.getppid()
        self.workers: list[Worker] = []
        if memory:
            self.arrived = memory.array((size + 1,), np.int64).data  # how often each has; the last tells of a failure
            self.scratch = memory.array((2, size, SCRATCH), np.float64)

    def share(self, memory: Memory, params: Tree, opt: Tree, ema: Tree) -> tuple[Tree, Tree, Tree]:
        """Move the trees to where every process sees them, and make room for everybody's gradients."""

        def move(leaf: np.ndarray) -> np.ndarray:
            if leaf.ndim == 0:  # a counter: each keeps its own
                return leaf
            place = memory.array(leaf.shape, leaf.dtype)
            if self.rank == 0:
                place[...] = leaf
            return place

        moved = tree_map(move, params), tree_map(move, opt), tree_map(move, ema)
        self.grads = [tree_map(lambda p: memory.array(p.shape, p.dtype), params) for _ in range(self.size)]
        return moved

    # --- meeting ------------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Return when every process has called this as often as this one.

        Raises RuntimeError when that will not happen, because one of them failed or is gone.
        """
        if self.size == 1:
            return
        now = self.arrived[self.rank] + 1
        fence()
        self.arrived[self.rank] = now
        for other in range(self.size):
            looks = 0
            while self.arrived[other] < now:
                looks += 1
                if looks > SPINS:
                    self._patience(looks)
        fence()

    def _patience(self, looks: int) -> None:
        if self.arrived[self.size]:
            raise Elsewhere("another process of this step failed")
        if looks < YIELDS:
            os.sched_yield()
            return
        time.sleep(1e-4)
        if self.rank and os.getppid() != self.parent:
            os._exit(1)  # nobody is left to tell
        for worker in self.workers:
            if worker.process.poll() is not None:
                raise worker.gone()

    def all_mean(self, array: np.ndarray) -> np.ndarray:
        """Mean of the arrays that the processes bring, the same bits in each."""
        if self.size == 1:
            return array
        places = self.scratch[self.arrived[self.rank] % 2, :, : array.size]  # two, as some still read the last one
        places[self.rank] = array.ravel()
        self.wait()
        return places.mean(axis=0).astype(array.dtype).reshape(array.shape)

    def all_sum(self, number: float) -> float:
        """Sum of the numbers that the processes bring."""
        return self.size * float(self.all_mean(np.array(number)))

    def shards(self, x: np.ndarray, *, equal: bool = False) -> list[np.ndarray]:
        """The shards of a batch, one for each process, or one for the first."""
        if self.exact and len(x) % self.size:
            raise ValueError(f"a batch of {len(x)} does not divide by {self.size} devices: choose another batch size")
        return shards(x, self.size, equal=equal)

    # --- the update ---------------------------------------------------------------------------------------------------

    def part(self, tree: Tree, rank: int | None = None) -> Tree:
        """The part of every leaf that is this process's, or another's, as a flat view; counters are its own already."""
        if self.size == 1:
            return tree
        r = self.rank if rank is None else rank

        def part(leaf: np.ndarray) -> np.ndarray:
            if leaf.ndim == 0:
                return leaf
            return leaf.reshape(-1)[r * leaf.size // self.size : (r + 1) * leaf.size // self.size]

        return tree_map(part, tree)

    def reduce_scatter(self, grads: Tree) -> Tree:
        """Sum everybody's gradients; each gets its own part of the sum."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        for other in others:
            tree_map(np.copyto, self.part(self.grads[self.rank], other), self.part(grads, other))
        self.wait()
        total = self.part(grads)
        for other in others:
            tree_map(lambda a, b: np.add(a, b, out=a), total, self.part(self.grads[other]))
        return total

    # --- the workers, as rank 0 sees them -----------------------------------------------------------------------------

    def start(self, state: Any, file: int, tray: int) -> None:
        """Start a process for each of the other ranks, which joins with this state."""
        self.tray = Tray(tray)
        self.workers = [Worker([file, tray]) for _ in range(1, self.size)]
        weakref.finalize(self, close, self.workers, tray)
        for rank, worker in enumerate(self.workers, 1):
            worker.send((rank, self.size, self.exact, file, tray, state))

    @contextmanager
    def call(self, function: str, state: Any, *batches: np.ndarray) -> Iterator[list[Any]]:
        """Have the workers call a function of ``worker``; their answers are in the list when the block is left.

        When the block fails, or a worker does, the others stop waiting, and the error is raised.
        """
        found = self.tray.lay(*batches) if self.workers else []
        asked: list[Worker] = []
        answers: list[Any] = []
        own: list[BaseException] = []
        try:
            for worker in self.workers:
                worker.send((function, state.stats, state.step, found))
                asked.append(worker)
            yield answers
        except BaseException as error:
            own.append(error)
            self.fail()
        answers += [worker.receive() for worker in asked]
        errors = own + [answer for answer in answers if isinstance(answer, Exception)]
        if errors:
            for place in range(self.size + 1) if self.workers else ():
                self.arrived[place] = 0  # nobody has arrived anywhere
            try:
                raise next((error for error in errors if not isinstance(error, Elsewhere)), errors[0])
            finally:
                del own, answers, errors  # or the error would hold this frame, the frame the error, and both the group

    def fail(self) -> None:
        """Tell the others not to wait."""
        if self.size > 1:
            self.arrived[self.size] = True


def close(workers: Sequence[Worker], tray: int) -> None:
    """A worker ends when nobody can ask it any more."""
    os.close(tray)
    for worker in workers:
        worker.connection.close()
    for worker in workers:
        worker.process.wait()


def spread(state: Any, processes: int, *, exact: bool = False) -> Any:
    """Move the arrays of a state to where several processes see them, and start the others."""
    trees = (state.params, state.opt, state.ema, *[state.params] * processes)  # the last for everybody's gradients
    room = sum(leaf.nbytes + LINE for tree in trees for leaf in leaves(tree).values())
    file = file_in_memory(room + 8 * (2 * processes * SCRATCH + processes + LINE))
    memory = Memory(file)
    group = Group(0, processes, memory, exact=exact)
    group.start(state, file, file_in_memory(LINE))
    os.close(file)
    return join(state, group, memory)


def join(state: Any, group: Group, memory: Memory) -> Any:
    """The state as a process of the group has it: its arrays are those that all of them see."""
    params, opt, ema = group.share(memory, state.params, state.opt, state.ema)
    return replace(state, params=params, opt=opt, ema=ema, group=group)

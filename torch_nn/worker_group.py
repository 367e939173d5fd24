"""Worker processes of one training: each holds the same states as rank 0, this process, and takes the same steps.

Workers read commands from standard input and end when it closes. Only one group exists at a time: it uses the
default process group of ``torch.distributed``, over the loopback interface.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

HOST = "127.0.0.1"

_next_id = itertools.count(1)
_current: WorkerGroup | None = None


class WorkerGroup:
    """Rank 0, this process, and the N - 1 workers that it starts, one for each other device."""

    def __init__(self, devices: int, backend: str, threads: int):
        self.devices, self.backend, self.threads = devices, backend, threads
        self.state_ids: set[int] = set()  # of the states that the workers hold
        self.released: list[int] = []  # of states deleted here: the next command tells the workers
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback())
        store = dist.TCPStore(HOST, 0, devices, is_master=True, wait_for_workers=False)
        self.stderr_files = [tempfile.TemporaryFile() for _ in range(1, devices)]  # noqa: SIM115 (closed by close())
        self.workers: list[Any] = [
            subprocess.Popen(
                [sys.executable, "-m", "torch_nn.worker", str(rank), str(devices), str(store.port), backend],
                env=environment(max(threads // devices, 1)),
                process_group=0,  # only rank 0 receives Ctrl-C
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
            for rank, stderr in enumerate(self.stderr_files, 1)
        ]
        with self.closed_on_failure():
            for worker in self.workers:
                if worker.stdout.readline() != b"ready\n":
                    raise RuntimeError("a worker process did not start")
            dist.init_process_group(backend, store=store, rank=0, world_size=devices)

    @contextlib.contextmanager
    def closed_on_failure(self) -> Iterator[None]:
        """Close the group if the block fails, because no process can go on without the others; name the one that ended.

        A ValueError is about the arguments: all processes raise it, and all survive it.
        """
        try:
            yield
        except ValueError:
            raise
        except BaseException as error:
            report = self.exit_report() if isinstance(error, RuntimeError) else ""
            self.close()
            if report:
                raise RuntimeError(report) from error
            raise

    def init_state(self, snapshot: Any, arguments: dict[str, Any]) -> int:
        """Let the workers call ``init_state``; return the ID of the new state."""
        state_id = next(_next_id)
        self.send([("init_state", state_id, snapshot, arguments)] * len(self.workers))
        self.state_ids.add(state_id)
        return state_id

    def bind(self, state: Any, state_id: int) -> None:
        """Let the workers keep their copies of the state as long as this process keeps its own."""
        state.state_id = state_id
        weakref.finalize(state, self.released.append, state_id)

    def train_steps(self, state: Any, xs: np.ndarray, ys: np.ndarray) -> None:
        """Let the workers call ``train_steps``, each with its shard: xs (devices, k, n/devices, h, w, c)."""
        self.send([("train_steps", state.state_id, *shard) for shard in zip(xs[1:], ys[1:], strict=True)])

    def send(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send each worker its command, and the IDs of the states that it can delete."""
        released = list(self.released)
        for rank, (worker, command) in enumerate(zip(self.workers, commands, strict=True), 1):
            try:
                pickle.dump((command, released), worker.stdin, pickle.HIGHEST_PROTOCOL)
                worker.stdin.flush()
            except OSError as error:  # the worker has ended
                raise RuntimeError(f"the worker of device {rank} has ended") from error
        del self.released[: len(released)]
        self.state_ids.difference_update(released)

    def exit_report(self) -> str:
        """Say which worker ended, its exit code and its last line on standard error; "" if all are running."""
        for rank, (worker, stderr) in enumerate(zip(self.workers, self.stderr_files, strict=True), 1):
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(timeout=1)
            if worker.returncode is not None:
                stderr.seek(0)
                lines = stderr.read().decode(errors="replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), "none")
                return (
                    f"the worker of device {rank} ended with exit code {worker.returncode}; last line of stderr: {last}"
                )
        return ""

    def close(self) -> None:
        """End the workers and discard their states; the states of this process can still be read."""
        global _current
        for worker in self.workers:
            worker.kill()  # before closing stdin, whose flush would block if the worker had stopped reading
            worker.wait()
            with contextlib.suppress(OSError):
                worker.stdin.close()
            worker.stdout.close()
        for stderr in self.stderr_files:
            stderr.close()
        self.state_ids.clear()
        if dist.is_initialized():
            dist.destroy_process_group()
        _current = None


def get(devices: int, backend: str, threads: int) -> WorkerGroup:
    """Return the group of this process; start it, or replace one of another size."""
    global _current
    if _current and (_current.devices, _current.backend, _current.threads) != (devices, backend, threads):
        _current.close()
    if not _current:
        _current = WorkerGroup(devices, backend, threads)
    return _current


def holding(state: Any) -> WorkerGroup:
    """Return the group that holds this state; RuntimeError if it has ended."""
    if not _current or state.state_id not in _current.state_ids:
        raise RuntimeError("the worker processes of this state have ended: make a new state with init_state")
    return _current


def is_launched() -> bool:
    """Return whether this process was started as one of several, by torchrun or as a worker."""
    return dist.is_initialized() and _current is None


@atexit.register
def _close_current() -> None:
    if _current:
        _current.close()


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker, with the path to this package and its number of threads."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}


def loopback() -> str:
    """Return the name of the loopback interface: lo, or lo0."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))

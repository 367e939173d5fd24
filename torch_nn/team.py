"""Helper processes: each holds the same states as the process that started them, and takes the same steps.

They wait for commands on standard input, and end with it. One team at a time: its process group
is the default one of ``torch.distributed``, over the loopback interface.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import itertools
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

HELPER = "import sys; from torch_nn.team import serve; serve(*sys.argv[1:])"
HOST = "127.0.0.1"

_numbers = itertools.count(1)
_current: Team | None = None


class Team:
    """Rank 0 of N processes, this one, and its N - 1 helpers."""

    def __init__(self, devices: int, backend: str, threads: int):
        self.size, self.backend, self.threads = devices, backend, threads
        self.known: set[int] = set()  # numbers of the states that the helpers hold
        self.forgotten: list[int] = []  # those that nobody needs any more: they are told with the next command
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback())
        store = dist.TCPStore(HOST, 0, devices, is_master=True, wait_for_workers=False)
        self.words = [tempfile.TemporaryFile() for _ in range(1, devices)]  # noqa: SIM115 (closed with the team)
        self.helpers: list[Any] = [
            subprocess.Popen(
                [sys.executable, "-c", HELPER, str(rank), str(devices), str(store.port), backend],
                env=environment(max(threads // devices, 1)),
                process_group=0,  # Ctrl-C is for rank 0 to hear
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
            )
            for rank, words in enumerate(self.words, 1)
        ]
        with self.together():
            for helper in self.helpers:
                if helper.stdout.readline() != b"ready\n":
                    raise RuntimeError("a helper process did not start")
            dist.init_process_group(backend, store=store, rank=0, world_size=devices)

    @contextlib.contextmanager
    def together(self) -> Iterator[Team]:
        """While all processes do the same. If one cannot go on, none can: the helpers end, and who was first is named.

        Only what is wrong with the question (ValueError) is noticed by all, and survived by all.
        """
        try:
            yield self
        except ValueError:
            raise
        except BaseException as error:
            obituary = self.obituary() if isinstance(error, RuntimeError) else ""
            self.close()
            if obituary:
                raise RuntimeError(obituary) from error
            raise

    def begin(self, snapshot: Any, arguments: dict[str, Any]) -> int:
        """The helpers call ``init_state``; they know the state by the number that is returned."""
        number = next(_numbers)
        self.tell([("init_state", number, snapshot, arguments)] * len(self.helpers))
        self.known.add(number)
        return number

    def follow(self, state: Any, number: int) -> None:
        """Keep the helpers' states as long as this process keeps its own."""
        state.number = number
        weakref.finalize(state, self.forgotten.append, number)

    def go_on(self, state: Any, xs: np.ndarray, ys: np.ndarray) -> None:
        """The helpers call ``train_steps``, each with its shard: xs (devices, k, n/devices, h, w, c)."""
        self.tell([("train_steps", state.number, *shard) for shard in zip(xs[1:], ys[1:], strict=True)])

    def tell(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send each helper its command, and which states are not needed any more."""
        forgotten = list(self.forgotten)
        for rank, (helper, command) in enumerate(zip(self.helpers, commands, strict=True), 1):
            try:
                pickle.dump((command, forgotten), helper.stdin, pickle.HIGHEST_PROTOCOL)
                helper.stdin.flush()
            except OSError as error:  # nobody reads
                raise RuntimeError(f"the process of device {rank} is gone") from error
        del self.forgotten[: len(forgotten)]
        self.known.difference_update(forgotten)

    def obituary(self) -> str:
        """Which helper ended, how, and its last words; empty if all are well."""
        for rank, (helper, words) in enumerate(zip(self.helpers, self.words, strict=True), 1):
            with contextlib.suppress(subprocess.TimeoutExpired):
                helper.wait(timeout=1)
            if helper.returncode is not None:
                words.seek(0)
                lines = words.read().decode(errors="replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), "none")
                return f"the process of device {rank} ended with exit code {helper.returncode}; its last words: {last}"
        return ""

    def close(self) -> None:
        """End the helpers; their states are lost, those of this process remain and can be read."""
        global _current
        for helper in self.helpers:
            helper.kill()  # first: one that reads no more would let the flush of half a command wait for ever
            helper.wait()
            with contextlib.suppress(OSError):
                helper.stdin.close()
            helper.stdout.close()
        for words in self.words:
            words.close()
        self.known.clear()
        if dist.is_initialized():
            dist.destroy_process_group()
        _current = None


def of(devices: int, backend: str, threads: int) -> Team:
    """The team of this process; another one, if it was of another size, ends."""
    global _current
    if _current and (_current.size, _current.backend, _current.threads) != (devices, backend, threads):
        _current.close()
    if not _current:
        _current = Team(devices, backend, threads)
    return _current


def of_state(state: Any) -> Team:
    """The team that holds this state."""
    if not _current or state.number not in _current.known:
        raise RuntimeError("the helper processes of this state have ended: make a new one with init_state")
    return _current


def is_launched() -> bool:
    """Was this process started together with its like, by torchrun or as a helper?"""
    return dist.is_initialized() and _current is None


@atexit.register
def _end() -> None:
    if _current:
        _current.close()


def environment(threads: int) -> dict[str, str]:
    """What a helper needs to find this package, and to use its share of the cores."""
    here = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}


def loopback() -> str:
    """Name of the interface on which a machine talks to itself: lo, or lo0."""
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


def serve(rank: str, devices: str, port: str, backend: str) -> None:
    """A helper's life: join the group, then do what is asked for until nobody is left to ask."""
    from torch_nn import train
    from torch_nn.parallel import on_own_shard

    print("ready", flush=True)
    os.dup2(2, 1)  # whatever a library prints is not for rank 0 to read
    store = dist.TCPStore(HOST, int(port), int(devices), is_master=False)
    dist.init_process_group(backend, store=store, rank=int(rank), world_size=int(devices))
    states: dict[int, Any] = {}
    while True:
        try:
            (what, number, *given), forgotten = pickle.load(sys.stdin.buffer)
        except EOFError:
            return dist.destroy_process_group()
        for old in forgotten:
            states.pop(old, None)
        try:
            if what == "init_state":
                snapshot, arguments = given
                states[number] = train.init_state(snapshot, **arguments)
            else:
                on_own_shard(inspect.unwrap(train.train_steps), states[number], *given)
        except ValueError:  # rank 0 sees it as well, and says it
            traceback.print_exc()

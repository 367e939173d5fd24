"""Training with several processes, on one machine or many, each started by torchrun, a shell or Slurm.

    torchrun --nproc-per-node 2 program.py

starts them and sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. After ``join``, ``init_state(..., devices=N)``
trains on all N. Every process makes the same calls with the same whole batches.

If a process is lost, the others cannot go on: an all-reduce without it never completes. Some get an error, others
would wait for ever. The one with the error notifies the others (``leave``), and together they find the lost process.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
GRACE_SECONDS = 5  # in which a process that hears of a loss may report an error of its own
REPORT_TIMEOUT = datetime.timedelta(seconds=3 * GRACE_SECONDS)  # until every process alive has reported, even if busy
FOREVER = datetime.timedelta(days=365)
DONE = "done"  # last message of a process that finished
LOST = "was lost without a message: it was killed, or its machine is down"

_store: dist.Store | None = None  # which all processes can read and write
_listener = threading.Thread()  # waits for another process to leave
_leaving = threading.Event()  # from now on the other processes may disconnect


def exit_now(reason: str) -> None:
    """End this process at once, because an orderly exit would wait for the lost one."""
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


def join(device: str = "cpu", *, timeout: int = 60, on_loss: Callable[[str], None] = exit_now) -> tuple[int, int]:
    """Wait up to ``timeout`` seconds for all processes; return this one's rank and the number of processes.

    If a process is lost later and this one gets no error from it, ``on_loss`` is called in a thread with its name.
    ValueError for missing environment variables; TimeoutError names the processes that did not connect.
    """
    global _store, _listener
    if absent := [name for name in VARIABLES if name not in os.environ]:
        raise ValueError(f"{', '.join(absent)} not set: start with torchrun, or set {', '.join(VARIABLES)}")
    patience = datetime.timedelta(seconds=timeout)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            world,
            is_master=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",  # torchrun has one
            timeout=patience,
            wait_for_workers=False,
        )
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        raise TimeoutError(_not_connected([0], timeout)) from error
    # torchrun keeps its store over a restart, with the keys of the previous processes
    _store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    _store.set(f"here/{rank}", socket.gethostname())
    try:
        missing = _missing("here", range(world), patience)
    except dist.DistNetworkError as error:
        raise TimeoutError("process 0 gave up waiting and left; its error names the missing processes") from error
    if missing:
        raise TimeoutError(_not_connected(missing, timeout))
    on_gpus = device != "cpu" and torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, store=_store, rank=rank, world_size=world)
    atexit.register(dist.destroy_process_group)
    _listener = threading.Thread(target=_listen, args=(_store.clone(), on_loss), daemon=True)
    _listener.start()
    return rank, world


def exchange(message: str) -> list[str]:
    """Return the messages of all processes, in the order of their ranks; every process must call this."""
    messages: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    return messages


def leave(error: Exception | None = None, message: str = DONE) -> list[str]:
    """Disconnect from the other processes: at the end, or after an ``error``, with a message that explains it.

    Return the other processes' messages. A process sends none if its error is a RuntimeError from
    ``torch.distributed``, which is the consequence of another's loss.
    """
    if error:
        caused_by_loss = isinstance(error, RuntimeError) and re.search(
            "gloo|nccl|connection", str(error), re.IGNORECASE
        )
        return _report("" if caused_by_loss else message)
    assert _store
    with contextlib.suppress(RuntimeError):  # a process lost now does not matter any more
        exchange(message)
    _leaving.set()
    with contextlib.suppress(dist.DistNetworkError):
        _store.set("leaving", "")
    _listener.join(GRACE_SECONDS)  # PyTorch may crash at exit while the thread waits for the store
    return []


def _report(message: str) -> list[str]:
    """Store the last message of this process; return those of the others, and the names of those that sent none."""
    assert _store
    _leaving.set()
    rank, world = dist.get_rank(), dist.get_world_size()
    others = [each for each in range(world) if each != rank]
    try:
        _store.set(f"message/{rank}", message)
        _store.set("leaving", "")
        lost = _missing("message", others, REPORT_TIMEOUT)
        found = [f"process {each} {LOST}" for each in lost]
        found += [_store.get(f"message/{each}").decode() for each in others if each not in lost]
        _store.set(f"read/{rank}", "")
        if rank == 0:  # it may host the store
            _missing("read", [each for each in others if each not in lost], REPORT_TIMEOUT)
    except dist.DistNetworkError:
        return [f"process 0 {LOST}"]
    return [each for each in found if each]


def _listen(store: dist.Store, on_loss: Callable[[str], None]) -> None:
    """Wait for another process to leave; report here if this process hangs in a collective that will not complete."""
    with contextlib.suppress(dist.DistNetworkError):  # the store went down with process 0
        store.wait(["leaving"], FOREVER)
    if not _leaving.wait(GRACE_SECONDS):
        on_loss("; ".join(_report("")))


def _missing(key: str, processes: Sequence[int], timeout: datetime.timedelta) -> list[int]:
    """Return the processes that have not written ``key`` to the store within the timeout."""
    assert _store
    keys = {process: f"{key}/{process}" for process in processes}
    try:
        _store.wait(list(keys.values()), timeout)
    except dist.DistStoreError:
        return [process for process, each in keys.items() if not _store.check([each])]
    return []


def _not_connected(ranks: list[int], timeout: int) -> str:
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    return (
        f"process {', '.join(map(str, ranks))} of {os.environ['WORLD_SIZE']} did not connect within {timeout} s: "
        f"check that it is running and can reach {address}"
    )

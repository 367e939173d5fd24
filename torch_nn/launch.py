"""One training by processes that others have started, on one machine or on many: they find each other here.

    torchrun --nproc-per-node 2 program.py

starts them and says in RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT who is who; so can a shell, or Slurm. After
``join``, ``init_state(..., devices=N)`` trains on all N. Every process makes the same calls with the same whole
batches.

A process that is gone takes the others with it, as no sum over all ever ends again: some get an error from it, others
would wait for ever. Whoever has the error tells all (``leave``), and together they find out which process it was.
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

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
GRACE = 5  # seconds in which a process that is told that another parts may find its own words
SOON = datetime.timedelta(seconds=3 * GRACE)  # by then all have words, on a busy machine too, but for who is gone
EVER = datetime.timedelta(days=365)
DONE = "done"  # last words of who has nothing left to do
GONE = "is gone without a word: killed, or its machine is down"

_store: dist.Store | None = None  # what all of them can write to and read
_listener = threading.Thread()  # through which this process hears that another parts
_leaving = threading.Event()  # the others may do what they like


def end(why: str) -> None:
    """End this process at once: an orderly exit would wait for whoever is gone."""
    print(f"error: {why}", file=sys.stderr, flush=True)
    os._exit(1)


def join(device: str = "cpu", *, timeout: int = 60, on_loss: Callable[[str], None] = end) -> tuple[int, int]:
    """Wait for the other processes, ``timeout`` seconds at most; returns this one's number, and that of all.

    TimeoutError names the processes that did not come. If one is lost later, and this one does not notice by itself,
    ``on_loss`` hears which.
    """
    global _store, _listener
    if absent := [name for name in NEEDED if name not in os.environ]:
        raise ValueError(f"{', '.join(absent)} not set: start this by torchrun, or set {', '.join(NEEDED)}")
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
        raise TimeoutError(_absent([0], timeout)) from error
    # after a restart, torchrun's store still knows of the processes before
    _store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    _store.set(f"here/{rank}", socket.gethostname())
    try:
        missing = _silent("here", range(world), patience)
    except dist.DistNetworkError as error:
        raise TimeoutError("process 0 is gone, having waited long enough: it says for whom") from error
    if missing:
        raise TimeoutError(_absent(missing, timeout))
    on_gpus = device != "cpu" and torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, store=_store, rank=rank, world_size=world)
    atexit.register(dist.destroy_process_group)
    _listener = threading.Thread(target=_listen, args=(_store.clone(), on_loss), daemon=True)
    _listener.start()
    return rank, world


def said(words: str) -> list[str]:
    """What each process says here, in their order; all of them have to say something."""
    every: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(every, words)
    return every


def leave(error: Exception | None = None, words: str = DONE) -> list[str]:
    """Part from the others: with nothing left to do, or, before this process ends by an error, telling them why.

    Returns why they end, of each a sentence. Nothing from those that only suffer from another's end, as those do that
    get a RuntimeError from ``torch.distributed``.
    """
    if error:
        suffers = isinstance(error, RuntimeError) and re.search("gloo|nccl|connection", str(error), re.IGNORECASE)
        return _part("" if suffers else words)  # whoever only misses another has nothing to say
    assert _store
    with contextlib.suppress(RuntimeError):  # who is gone now does not matter any more
        said(words)
    _leaving.set()
    with contextlib.suppress(dist.DistNetworkError):
        _store.set("parting", "")
    _listener.join(GRACE)  # an exit in the middle of what it waits for is none that PyTorch likes
    return []


def _part(words: str) -> list[str]:
    """Leave last words; returns those of the others, where they have any, and who left none."""
    assert _store
    _leaving.set()
    rank, world = dist.get_rank(), dist.get_world_size()
    others = [each for each in range(world) if each != rank]
    try:
        _store.set(f"words/{rank}", words)
        _store.set("parting", "")
        gone = _silent("words", others, SOON)
        found = [f"process {each} {GONE}" for each in gone]
        found += [_store.get(f"words/{each}").decode() for each in others if each not in gone]
        _store.set(f"heard/{rank}", "")
        if rank == 0:  # who may be keeping the store
            _silent("heard", [each for each in others if each not in gone], SOON)
    except dist.DistNetworkError:
        return [f"process 0 {GONE}"]
    return [sentence for sentence in found if sentence]


def _listen(store: dist.Store, on_loss: Callable[[str], None]) -> None:
    """Hear that another process parts. This one may be waiting for it: then it parts here, while it waits."""
    with contextlib.suppress(dist.DistNetworkError):  # process 0 took the store with it
        store.wait(["parting"], EVER)
    if not _leaving.wait(GRACE):
        on_loss("; ".join(_part("")))


def _silent(what: str, processes: Sequence[int], patience: datetime.timedelta) -> list[int]:
    """Those of the processes that have not written ``what`` in time."""
    assert _store
    keys = {process: f"{what}/{process}" for process in processes}
    try:
        _store.wait(list(keys.values()), patience)
    except dist.DistStoreError:
        return [process for process, key in keys.items() if not _store.check([key])]
    return []


def _absent(ranks: list[int], timeout: int) -> str:
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    who = ", ".join(map(str, ranks))
    return (
        f"after {timeout} s there is no sign of process {who} of {os.environ['WORLD_SIZE']}: "
        f"is it started, and does it reach {where}?"
    )

"""One training by processes that others have started, on one machine or on many: they find each other here.

Slurm, Open MPI and Kubernetes say by themselves who is who; otherwise each process is told

    join("10.0.0.1:29500", processes=2, process=0)     # the address is that of process 0

Afterwards ``jax.devices()`` are those of all processes, and ``init_state(..., devices=jax.device_count(),
parallel="shard_map")`` trains on all of them. Every process makes the same calls with the same whole batches.

A process that is gone takes the others with it, as no sum over all devices ever ends again. JAX says so by and by, and
mostly of whom. Processes that were told an address keep a line to process 0: when it breaks, all know at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

DONE = "done"  # last words of who has nothing left to do
GONE = "is gone without a word: killed, or its machine is down"
SOON = 2  # seconds: enough to notice that a process is gone

_lines: dict[int, socket.socket] = {}  # from process 0 to each of the others, from these to process 0
_leaving = threading.Event()  # the others may do what they like


def end(why: str) -> None:
    """End this process at once: an orderly exit would wait for whoever is gone."""
    print(f"error: {why}", file=sys.stderr, flush=True)
    os._exit(1)


def join(
    coordinator: str | None = None,
    *,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 60,
    on_loss: Callable[[str], None] = end,
) -> tuple[int, int]:
    """Wait for the other processes, ``timeout`` seconds at most; returns this one's number, and that of all devices.

    TimeoutError names the processes that did not come. If one is lost later, ``on_loss`` hears which and, if it had
    any, its last words.
    """
    if coordinator is not None and processes is not None and process is not None:
        _lines.update(roll_call(coordinator, processes, process, timeout))
    jax.config.update("jax_enable_preemption_service", False)  # it would let SIGTERM pass
    try:
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=timeout)
    except ValueError as error:  # JAX says which it lacks, of those that no Slurm, MPI or Kubernetes has told it
        raise ValueError(f"{error} Give all three: coordinator (HOST:PORT of process 0), processes, process") from error
    for other, line in _lines.items():
        threading.Thread(target=_listen, args=(other, line, on_loss), daemon=True).start()
    return jax.process_index(), jax.device_count()


def said(words: str) -> list[str]:
    """What each process says here, in their order; all of them have to say something."""
    data = np.frombuffer(words.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([data.size]))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - data.size)))
    return [row[: int(size)].tobytes().decode() for row, size in zip(rows, sizes.ravel(), strict=True)]


def leave(error: Exception | None = None, words: str = DONE) -> list[str]:
    """Part from the others: with nothing left to do, or, before this process ends by an error, telling them why.

    The error may come from another's end, of which the line to that one, broken, tells in these seconds: then
    ``on_loss`` is called, and has the last word.
    """
    if not isinstance(error, ValueError | RuntimeError):  # which JAX raises from a sum that fails
        _leaving.set()
    if error:
        time.sleep(SOON)
    _leaving.set()
    for line in _lines.values():
        _send(line, words)
    return []


# --- lines between processes ------------------------------------------------------------------------------------------


def roll_call(coordinator: str, processes: int, process: int, timeout: int) -> dict[int, socket.socket]:
    """Lines to the others, or TimeoutError, which names who is missing: JAX itself ends the program without a name.

    Process 0 listens at the coordinator's address, before JAX does; the others tell it their number, and hear who
    is missing.
    """
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(f"{coordinator!r} is no address of process 0: it is HOST:PORT, like 10.0.0.1:29500")
    if not 0 <= process < processes:
        raise ValueError(f"there is no process {process} of {processes}: they are counted from 0")
    end_of_waiting = time.monotonic() + timeout
    if process:
        absent, lines = _report(host, int(port), process, end_of_waiting)
    else:
        absent, lines = _gather(int(port), processes, end_of_waiting)
    if absent:
        for line in lines.values():
            line.close()
        who = ", ".join(map(str, absent))
        raise TimeoutError(
            f"after {timeout} s there is no sign of process {who} of {processes}: "
            f"is it started, and does it reach {coordinator}?"
        )
    return lines


def _report(host: str, port: int, process: int, until: float) -> tuple[list[int], dict[int, socket.socket]]:
    """Tell process 0 the own number: who is absent, and the line. Whatever else answers there is not yet process 0."""
    while (left := until - time.monotonic()) > 0:
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as if_in_vain:
            line = if_in_vain.enter_context(socket.create_connection((host, port), timeout=left))
            line.settimeout(left + 5)
            line.sendall(f"{process:8}".encode())
            with line.makefile() as words:
                absent = json.loads(words.readline())
            line.settimeout(None)
            if_in_vain.pop_all()
            return absent, {0: line}
        time.sleep(0.1)
    return [0], {}


def _gather(port: int, processes: int, until: float) -> tuple[list[int], dict[int, socket.socket]]:
    """Hear who is there, and tell them who is not."""
    lines: dict[int, socket.socket] = {}
    with _server(port, until) as server, contextlib.suppress(TimeoutError):
        while len(lines) < processes - 1:
            server.settimeout(max(until - time.monotonic(), 0.001))
            line = server.accept()[0]
            line.settimeout(min(5, max(until - time.monotonic(), 0.001)))
            with contextlib.suppress(OSError, ValueError):  # a stranger, who may say nothing
                number = int(line.recv(8, socket.MSG_WAITALL))
                line.settimeout(None)
                if 0 < number < processes:
                    lines[number] = line
    absent = sorted({*range(1, processes)} - lines.keys())
    for line in lines.values():
        line.sendall(f"{json.dumps(absent)}\n".encode())
    return absent, lines


def _server(port: int, until: float) -> socket.socket:
    """Listen; whoever was process 0 before a restart may still be about to leave."""
    while True:
        try:
            return socket.create_server(("", port))
        except OSError as error:
            if time.monotonic() > until:
                raise ValueError(f"process 0 cannot listen at port {port} ({error.strerror})") from error
            time.sleep(0.1)


def _listen(other: int, line: socket.socket, on_loss: Callable[[str], None]) -> None:
    """Hear the last words of another process; it has none if it was killed."""
    words = ""
    with contextlib.suppress(OSError), line.makefile() as end:
        words = end.read()
    if words == DONE or _leaving.is_set():
        return
    words = words or f"process {other} {GONE}"
    for each in _lines.values():  # of process 0, to whom all others have a line
        _send(each, words)
    on_loss(words)


def _send(line: socket.socket, words: str) -> None:
    with contextlib.suppress(OSError):
        line.sendall(words.encode())
        line.shutdown(socket.SHUT_WR)

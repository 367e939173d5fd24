"""One training by processes that others have started, on one machine or on many: they find each other here.

Slurm, Open MPI and Kubernetes say by themselves who is who; otherwise each process is told

    join("10.0.0.1:29500", processes=2, process=0)     # the address is that of process 0

Afterwards ``jax.devices()`` are those of all processes, and ``init_state(..., devices=jax.device_count(),
parallel="shard_map")`` trains on all of them. Every process makes the same calls with the same whole batches.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time

import jax


def join(
    coordinator: str | None = None, *, processes: int | None = None, process: int | None = None, timeout: int = 60
) -> tuple[int, int]:
    """Wait for the other processes, ``timeout`` seconds at most; returns this one's number, and that of all devices.

    TimeoutError names the processes that did not come.
    """
    if coordinator is not None and processes is not None and process is not None:
        absent = roll_call(coordinator, processes, process, timeout)
        if absent:
            who = ", ".join(map(str, absent))
            raise TimeoutError(
                f"after {timeout} s there is no sign of process {who} of {processes}: "
                f"is it started, and does it reach {coordinator}?"
            )
    jax.distributed.initialize(coordinator, processes, process, initialization_timeout=timeout)
    return jax.process_index(), jax.device_count()


def roll_call(coordinator: str, processes: int, process: int, timeout: int) -> list[int]:
    """The processes that are not there after ``timeout`` seconds: JAX itself ends the program without a name.

    Process 0 listens at the coordinator's address, before JAX does; the others tell it their number, and hear who
    is missing.
    """
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + timeout
    if process:
        with contextlib.suppress(OSError), reached(host, int(port), end) as line:
            line.sendall(f"{process:8}".encode())
            line.settimeout(timeout + 5)
            return list(json.loads(line.makefile().read()))
        return [0]
    with contextlib.ExitStack() as lines, socket.create_server(("", int(port))) as server:
        present: dict[int, socket.socket] = {}
        with contextlib.suppress(TimeoutError):
            while len(present) < processes - 1:
                server.settimeout(max(end - time.monotonic(), 0.001))
                line = lines.enter_context(server.accept()[0])
                present[int(line.recv(8, socket.MSG_WAITALL))] = line
        absent = sorted({*range(1, processes)} - present.keys())
        for line in present.values():
            line.sendall(json.dumps(absent).encode())
        return absent


def reached(host: str, port: int, end: float) -> socket.socket:
    """A line to an address at which somebody listens, at the latest at ``end`` on the monotonic clock."""
    while True:
        try:
            return socket.create_connection((host, port), timeout=max(end - time.monotonic(), 0.001))
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)

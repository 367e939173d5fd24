"""Training with several processes, on one machine or many, each started by the user or a scheduler.

Slurm, Open MPI and Kubernetes tell each process its rank; otherwise pass it:

    join("10.0.0.1:29500", processes=2, process=0)     # the address of process 0

After that ``jax.devices()`` lists the devices of all processes, and ``init_state(..., devices=jax.device_count(),
parallel="shard_map")`` trains on all of them. Every process makes the same calls with the same whole batches.

If a process is lost, the others cannot go on: an all-reduce without it never completes. JAX reports that late, and not
always by name. Processes that were given an address also keep a connection to process 0; when it breaks, all others
learn at once which process was lost.
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

DONE = "done"  # last message of a process that finished
LOST = "was lost without a message: it was killed, or its machine is down"
DETECTION_SECONDS = 2  # until a broken connection has been noticed

_connections: dict[int, socket.socket] = {}  # from process 0 to each other process, and from each of those to process 0
_leaving = threading.Event()  # from now on the other processes may disconnect


def exit_now(reason: str) -> None:
    """End this process at once, because an orderly exit would wait for the lost one."""
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


def join(
    coordinator: str | None = None,
    *,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 60,
    on_loss: Callable[[str], None] = exit_now,
) -> tuple[int, int]:
    """Wait up to ``timeout`` seconds for all processes; return this one's rank and the number of all devices.

    If a process is lost later, ``on_loss`` is called in a thread with its name and, if it sent one, its last message.
    ValueError for missing or invalid arguments; TimeoutError names the processes that did not connect.
    """
    if coordinator is not None and processes is not None and process is not None:
        _connections.update(connect(coordinator, processes, process, timeout))
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM
    try:
        jax.distributed.initialize(coordinator, processes, process, initialization_timeout=timeout)
    except ValueError as error:  # JAX names the argument that is missing and that no scheduler provides
        raise ValueError(f"{error} Give all three: coordinator (HOST:PORT of process 0), processes, process") from error
    for other, connection in _connections.items():
        threading.Thread(target=_listen, args=(other, connection, on_loss), daemon=True).start()
    return jax.process_index(), jax.device_count()


def exchange(message: str) -> list[str]:
    """Return the messages of all processes, in the order of their ranks; every process must call this."""
    data = np.frombuffer(message.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([data.size]))
    rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - data.size)))
    return [row[: int(size)].tobytes().decode() for row, size in zip(rows, sizes.ravel(), strict=True)]


def leave(error: Exception | None = None, message: str = DONE) -> list[str]:
    """Disconnect from the other processes: at the end, or after an ``error``, with a message that explains it.

    The error may be the consequence of another process's loss. Its broken connection is noticed within seconds, and
    ``on_loss`` is called before this function returns. The list is empty: other processes' messages go to ``on_loss``.
    """
    if not isinstance(error, ValueError | RuntimeError):  # JAX raises these if an all-reduce fails
        _leaving.set()
    if error:
        time.sleep(DETECTION_SECONDS)
    _leaving.set()
    for connection in _connections.values():
        _send(connection, message)
    return []


# --- connections between processes ------------------------------------------------------------------------------------


def connect(coordinator: str, processes: int, process: int, timeout: int) -> dict[int, socket.socket]:
    """Connect all processes to process 0; TimeoutError names the missing ones (JAX would exit without their names).

    Process 0 listens at the coordinator's address before JAX does. The others send their rank and receive the ranks
    that are missing.
    """
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(f"invalid address of process 0 {coordinator!r}: expected HOST:PORT, like 10.0.0.1:29500")
    if not 0 <= process < processes:
        raise ValueError(f"invalid process {process}: expected 0 to {processes - 1}, for {processes} processes")
    deadline = time.monotonic() + timeout
    if process:
        missing, connections = _connect_to_first(host, int(port), process, deadline)
    else:
        missing, connections = _accept(int(port), processes, deadline)
    if missing:
        for connection in connections.values():
            connection.close()
        ranks = ", ".join(map(str, missing))
        raise TimeoutError(
            f"process {ranks} of {processes} did not connect within {timeout} s: "
            f"check that it is running and can reach {coordinator}"
        )
    return connections


def _connect_to_first(
    host: str, port: int, process: int, deadline: float
) -> tuple[list[int], dict[int, socket.socket]]:
    """Send the rank to process 0; return the missing ranks and the connection. Retry until process 0 answers."""
    while (remaining := deadline - time.monotonic()) > 0:
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as on_failure:
            connection = on_failure.enter_context(socket.create_connection((host, port), timeout=remaining))
            connection.settimeout(remaining + 5)
            connection.sendall(f"{process:8}".encode())
            with connection.makefile() as answer:
                missing = json.loads(answer.readline())
            connection.settimeout(None)
            on_failure.pop_all()
            return missing, {0: connection}
        time.sleep(0.1)
    return [0], {}


def _accept(port: int, processes: int, deadline: float) -> tuple[list[int], dict[int, socket.socket]]:
    """Accept the other processes; return the missing ranks, which they are sent too, and the connections."""
    connections: dict[int, socket.socket] = {}
    with _server(port, deadline) as server, contextlib.suppress(TimeoutError):
        while len(connections) < processes - 1:
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            connection = server.accept()[0]
            connection.settimeout(min(5, max(deadline - time.monotonic(), 0.001)))
            with contextlib.suppress(OSError, ValueError):  # an unrelated client may send nothing or anything
                rank = int(connection.recv(8, socket.MSG_WAITALL))
                connection.settimeout(None)
                if 0 < rank < processes:
                    connections[rank] = connection
    missing = sorted({*range(1, processes)} - connections.keys())
    for connection in connections.values():
        connection.sendall(f"{json.dumps(missing)}\n".encode())
    return missing, connections


def _server(port: int, deadline: float) -> socket.socket:
    """Listen on the port; after a restart, the previous process 0 may hold it for a moment."""
    while True:
        try:
            return socket.create_server(("", port))
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(f"process 0 cannot listen on port {port} ({error.strerror})") from error
            time.sleep(0.1)


def _listen(other: int, connection: socket.socket, on_loss: Callable[[str], None]) -> None:
    """Wait for the last message of another process; it is empty if that process was killed."""
    message = ""
    with contextlib.suppress(OSError), connection.makefile() as incoming:
        message = incoming.read()
    if message == DONE or _leaving.is_set():
        return
    message = message or f"process {other} {LOST}"
    for each in _connections.values():  # process 0 forwards it to all others
        _send(each, message)
    on_loss(message)


def _send(connection: socket.socket, message: str) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(message.encode())
        connection.shutdown(socket.SHUT_WR)

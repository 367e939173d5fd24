"""A worker of a group, ``python -m numpy_nn.parallel.worker``, which ``parallel.start`` starts.

Rank 0 asks it for functions of ``train`` that all processes of the group call together.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from dataclasses import replace
from multiprocessing.connection import Connection

from numpy_nn import network_file, train
from numpy_nn.parallel.group import Group
from numpy_nn.parallel.memory import SharedArrays, SharedBatch


def main() -> None:
    """Join the group, then call what rank 0 asks for until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for rank 0
    connection, pipe, arrays, batch = map(int, sys.argv[1:])
    rank_0, batches = Connection(connection), SharedBatch(batch)
    if file := rank_0.recv():  # the state that follows holds an object of its class
        network_file.load(file)
    rank, size, exact, spin, parent, state = rank_0.recv()
    group = Group(rank, size, exact=exact, parent=parent)
    state = group.join(state, SharedArrays(arrays), [] if spin else [Connection(pipe)])
    while True:
        function, stats, step, described = rank_0.recv()
        error = None
        try:
            group.begin()
            getattr(train, function)(replace(state, stats=stats, step=step), *batches.read(described))
        except Exception as raised:
            group.failed[0] = 1
            error = raised
        rank_0.send(error)


if __name__ == "__main__":
    with contextlib.suppress(EOFError):
        main()

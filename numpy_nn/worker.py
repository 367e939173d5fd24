"""A process of a group: ``python -m numpy_nn.worker``, which ``parallel.Worker`` starts.

It is asked for functions of ``train`` that all processes of the group call together.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from numpy_nn import parallel, train
from numpy_nn.shared import Memory, Tray


def take_steps(*batches: Any) -> Any:
    """Steps of this process; the new state is told by whoever asks next."""
    return train.take_steps(*batches)[1]


FUNCTIONS: dict[str, Callable[..., Any]] = {"take_steps": take_steps, "evaluate": train.evaluate}


def main() -> None:
    """Join the group, then do as asked until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    connection = Connection(int(sys.argv[1]))
    rank, size, exact, file, tray, state = connection.recv()
    batches = Tray(tray)
    memory = Memory(file)
    group = parallel.Group(rank, size, memory, exact=exact)
    state = parallel.join(state, group, memory)
    while True:
        name, stats, step, found = connection.recv()
        try:
            answer = FUNCTIONS[name](replace(state, stats=stats, step=step), *batches.look(found))
        except Exception as error:
            group.fail()
            answer = error
        connection.send(answer)


if __name__ == "__main__":
    with contextlib.suppress(EOFError):
        main()

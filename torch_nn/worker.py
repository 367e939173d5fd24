"""The program of a worker process, which a ``WorkerGroup`` starts: it repeats the calls of rank 0."""

from __future__ import annotations

import inspect
import os
import pickle
import sys
import traceback
from typing import Any

import torch.distributed as dist

from torch_nn import train
from torch_nn.parallel import train_on_shard
from torch_nn.worker_group import HOST


def serve(rank: str, devices: str, port: str, backend: str) -> None:
    """Join the process group and run the commands from standard input until it closes."""
    print("ready", flush=True)
    os.dup2(2, 1)  # standard output is the channel to rank 0: send what libraries print to standard error
    store = dist.TCPStore(HOST, int(port), int(devices), is_master=False)
    dist.init_process_group(backend, store=store, rank=int(rank), world_size=int(devices))
    states: dict[int, Any] = {}
    while True:
        try:
            (function, state_id, *arguments), released = pickle.load(sys.stdin.buffer)
        except EOFError:
            return dist.destroy_process_group()
        for each in released:
            states.pop(each, None)
        try:
            if function == "init_state":
                snapshot, options = arguments
                states[state_id] = train.init_state(snapshot, **options)
            else:
                train_on_shard(inspect.unwrap(train.train_steps), states[state_id], *arguments)
        except ValueError:  # rank 0 raises the same error, and reports it
            traceback.print_exc()


if __name__ == "__main__":
    serve(*sys.argv[1:])

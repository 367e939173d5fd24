"""One training by processes that others have started, on one machine or on many: they find each other here.

    torchrun --nproc-per-node 2 program.py

starts them and says in RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT who is who; so can a shell, or Slurm. After
``join``, ``init_state(..., devices=N)`` trains on all N. Every process makes the same calls with the same whole
batches.
"""

from __future__ import annotations

import atexit
import datetime
import os
import socket

import torch
import torch.distributed as dist

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def join(device: str = "cpu", *, timeout: int = 60) -> tuple[int, int]:
    """Wait for the other processes, ``timeout`` seconds at most; returns this one's number, and that of all.

    TimeoutError names the processes that did not come.
    """
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
    store = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    here = [f"here/{process}" for process in range(world)]
    store.set(here[rank], socket.gethostname())
    try:
        store.wait(here, patience)
    except dist.DistStoreError as error:
        missing = [process for process in range(world) if not store.check([here[process]])]
        raise TimeoutError(_absent(missing, timeout)) from error
    except dist.DistNetworkError as error:
        raise TimeoutError("process 0 is gone, having waited long enough: it says for whom") from error
    on_gpus = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpus else "gloo", store=store, rank=rank, world_size=world)
    atexit.register(dist.destroy_process_group)
    return rank, world


def _absent(ranks: list[int], timeout: int) -> str:
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    who = ", ".join(map(str, ranks))
    return (
        f"after {timeout} s there is no sign of process {who} of {os.environ['WORLD_SIZE']}: "
        f"is it started, and does it reach {where}?"
    )

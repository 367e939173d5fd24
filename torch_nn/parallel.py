"""Data parallelism: a process per device, each with a shard of the batch, and the mean of their gradients.

DistributedDataParallel averages the gradients while others are still being computed. Batch norm shares its statistics
through ``collectives.all_mean``. The processes come from one of two sources:

    init_state(..., devices=N)   this process is rank 0 and starts N - 1 workers that repeat its calls: ``worker_group``
    torchrun                     N processes run the same program on the same batches: ``launch``

In both, each process computes its own shard (``sharded``), and all end with the same parameters.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from torch_nn import worker_group
from torch_nn.devices import choose


def data_parallel(network: nn.Module) -> nn.Module:
    """Return the network as one of N replicas, whose backward pass ends with the mean of all gradients."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.replicas = dist.get_world_size()
    return nn.parallel.DistributedDataParallel(network)


def local_device(device: str, devices: int) -> torch.device:
    """Return the device of this process; ValueError if the number of processes is not ``devices``."""
    if devices == 1 or not dist.is_initialized():
        return choose(device, devices)[0]
    if dist.get_world_size() != devices:
        raise ValueError(f"devices is {devices}, but {dist.get_world_size()} processes were started: make them equal")
    local_rank = int(os.environ.get("LOCAL_RANK", dist.get_rank()))  # torchrun's rank within the machine
    return choose(device, local_rank + 1)[local_rank]


def shard_batch(array: np.ndarray, devices: int, accumulate: int) -> np.ndarray:
    """Split (k, n, …) into shards (devices, k, n/devices, …), with a part of every micro-batch in each."""
    k, n, *rest = array.shape
    if n % (devices * accumulate):
        micro = f" x {accumulate} micro-batches" if accumulate > 1 else ""
        raise ValueError(f"a batch of {n} does not divide by {devices} devices{micro}: choose another batch size")
    shards = array.reshape(k, accumulate, devices, -1, *rest)
    return np.moveaxis(shards, 2, 0).reshape(devices, k, n // devices, *rest)


def all_reduce_metrics(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the metrics of the whole batch from those of its shards: the mean of ``loss``, the sum of ``correct``."""
    loss, correct = metrics["loss"] / dist.get_world_size(), metrics["correct"].clone()
    dist.all_reduce(loss)
    dist.all_reduce(correct)
    return metrics | {"loss": loss, "correct": correct}


def train_on_shard(train_steps: Callable[..., Any], state: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """Take the steps with this process's shard; return the new state and the metrics of the whole batch."""
    state, metrics = train_steps(state, x, y)
    return state, all_reduce_metrics(metrics)


# --- decorators of init_state and train_steps -------------------------------------------------------------------------


def on_every_device(init_state: Callable[..., Any]) -> Callable[..., Any]:
    """Extend init_state to several devices: the workers are started if necessary, and call it too."""

    @functools.wraps(init_state)
    def init_everywhere(snapshot: Any, **arguments: Any) -> Any:
        devices = arguments.get("devices", 1)
        if devices == 1 or worker_group.is_launched():
            return init_state(snapshot, **arguments)
        kind = choose(arguments.get("device", "cpu"), devices)[0].type
        group = worker_group.get(devices, "nccl" if kind == "cuda" else "gloo", arguments.get("threads", 1))
        with group.closed_on_failure():
            state_id = group.init_state(snapshot, arguments)
            state = init_state(snapshot, **arguments)
        group.bind(state, state_id)
        return state

    return init_everywhere


def sharded(train_steps: Callable[..., Any]) -> Callable[..., Any]:
    """Extend train_steps to several devices: it receives the whole batch, and each process computes its shard."""

    @functools.wraps(train_steps)
    def train_on_batch(state: Any, x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> Any:
        if state.devices == 1:
            return train_steps(state, x, y)
        xs, ys = (shard_batch(array, state.devices, state.accumulate) for array in (x, y))
        group = None if worker_group.is_launched() else worker_group.holding(state)
        with group.closed_on_failure() if group else contextlib.nullcontext():
            if group:
                group.train_steps(state, xs, ys)
            rank = dist.get_rank()
            return train_on_shard(train_steps, state, xs[rank], ys[rank])

    return train_on_batch

"""Several devices for one step: a process for each, its shard of the batch, and the mean of all gradients.

DistributedDataParallel takes the mean, of some gradients while others are still being computed. Batch norm has
to share its statistics, too (``all_mean``). Where the processes come from:

    init_state(..., devices=N)   makes the caller's process rank 0 of N; N - 1 helpers do as it does (``team``)
    torchrun                     starts N processes that run the same program on the same batches

Either way a process computes its own shard only (``each_its_shard``), and all arrive at the same parameters.
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

from torch_nn import team
from torch_nn.devices import choose


class AllMean(torch.autograd.Function):
    """y = 1/N Σ x over the processes; everybody's y depends on everybody's x, so dx = 1/N Σ dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return AllMean.apply(dy)


def all_mean(x: Tensor) -> Tensor:
    """Mean over the processes, through which gradients flow."""
    return AllMean.apply(x)


def share(network: nn.Module) -> nn.Module:
    """The network as one of N equal replicas: a backward pass ends with the mean of all their gradients."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.replicas = dist.get_world_size()
    return nn.parallel.DistributedDataParallel(network)


def dealt(array: np.ndarray, devices: int, accumulate: int) -> np.ndarray:
    """(k, n, …) -> (devices, k, n/devices, …): to each device its shard of every micro-batch."""
    k, n, *rest = array.shape
    if n % (devices * accumulate):
        micro = f" x {accumulate} micro-batches" if accumulate > 1 else ""
        raise ValueError(f"a batch of {n} does not divide by {devices} devices{micro}: choose another batch size")
    shards = array.reshape(k, accumulate, devices, -1, *rest)
    return np.moveaxis(shards, 2, 0).reshape(devices, k, n // devices, *rest)


def of_all(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean loss, and number of correct answers, over the shards."""
    loss, correct = metrics["loss"] / dist.get_world_size(), metrics["correct"].clone()
    dist.all_reduce(loss)
    dist.all_reduce(correct)
    return metrics | {"loss": loss, "correct": correct}


# --- around init_state and train_steps --------------------------------------------------------------------------------


def place(device: str, devices: int) -> torch.device:
    """This process's own device."""
    if devices == 1 or not dist.is_initialized():
        return choose(device, devices)[0]
    if dist.get_world_size() != devices:
        raise ValueError(f"{devices} devices are asked for, and {dist.get_world_size()} processes were started")
    number = int(os.environ.get("LOCAL_RANK", dist.get_rank()))  # torchrun counts those of a machine
    return choose(device, number + 1)[number]


def on_every_device(init_state: Callable[..., Any]) -> Callable[..., Any]:
    """The same init_state; with several devices the helpers call it too, and are started if need be."""

    @functools.wraps(init_state)
    def everywhere(snapshot: Any, **arguments: Any) -> Any:
        devices = arguments.get("devices", 1)
        if devices == 1 or team.is_launched():
            return init_state(snapshot, **arguments)
        kind = choose(arguments.get("device", "cpu"), devices)[0].type
        helpers = team.of(devices, "nccl" if kind == "cuda" else "gloo", arguments.get("threads", 1))
        with helpers.together():
            number = helpers.begin(snapshot, arguments)
            state = init_state(snapshot, **arguments)
        helpers.follow(state, number)
        return state

    return everywhere


def each_its_shard(train_steps: Callable[..., Any]) -> Callable[..., Any]:
    """The same train_steps of a whole batch, of which every process computes its shard."""

    @functools.wraps(train_steps)
    def of_whole(state: Any, x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> Any:
        if state.devices == 1:
            return train_steps(state, x, y)
        xs, ys = (dealt(array, state.devices, state.accumulate) for array in (x, y))
        with contextlib.nullcontext() if team.is_launched() else team.of_state(state).together() as helpers:
            if helpers:
                helpers.go_on(state, xs, ys)
            return on_own_shard(train_steps, state, xs[dist.get_rank()], ys[dist.get_rank()])

    return of_whole


def on_own_shard(train_steps: Callable[..., Any], state: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """What every process does."""
    state, metrics = train_steps(state, x, y)
    return state, of_all(metrics)

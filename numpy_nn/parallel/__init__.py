"""Several processes for one step: each computes the gradients of a shard of the batch, and the gradients are summed.

NumPy releases Python's lock inside its large operations, so threads could share the work. But they queue for that
lock before and after each operation, and a step has hundreds: an LSTM ran 1.4 times as fast with a second thread, and
more than twice with a second process. So each core gets a process of its own (``worker``). Parameters, optimizer
slots and everybody's gradients lie in memory that all of them map (``memory``).

A step of the process with rank r, of N:

    1. ``sharded``: forward and backward of its shard of the batch: gradients ∇ᵣ
    2. ``all_reduced``: reduce-scatter, after which it holds the r-th part of Σ ∇ₛ, of every parameter
    3. ``sharded_update``: update that part of the parameters; all processes see it, so an all-gather is not needed

This is the sharded update of Rajbhandari et al. 2020 ("ZeRO"): no number is added twice, and nothing is sent. Batch
norm takes the mean over the whole batch, for which the processes also meet inside a step (``Group.all_mean``).

The functions below wrap those of ``train``. Each returns its function unchanged where there is one process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numpy_nn.norm import TRAIN, Mode
from numpy_nn.parallel.group import Group, shards, start
from numpy_nn.tree import Tree, tree_map

__all__ = ["Group", "all_reduced", "sharded", "sharded_update", "shards", "start", "summed"]


def sharded(loss_and_grads: Callable[..., Any], group: Group) -> Callable[..., Any]:
    """``loss_and_grads`` of this process's shard of a batch, weighted by its share of the images: ∇ = Σ nᵣ/n ∇ᵣ."""
    if group.size == 1:
        return loss_and_grads

    def of_shard(state: Any, x: np.ndarray, y: np.ndarray, dloss: float = 1.0) -> Any:
        batch_norm = bool(state.stats)  # its mean over the batch is that of the shards' means if they are equal
        xs, ys = (group.split(array, equal=batch_norm) for array in (x, y))
        if group.rank >= len(ys):  # a batch that cannot be split is computed by rank 0
            return 0.0, 0, state.stats, tree_map(np.zeros_like, state.params)
        mode = Mode(train=True, shards=len(ys), all_mean=group.all_mean) if batch_norm and len(ys) > 1 else TRAIN
        images, labels = xs[group.rank], ys[group.rank]
        return loss_and_grads(state, images, labels, dloss * len(labels) / len(y), mode)

    return of_shard


def all_reduced(loss_and_grads: Callable[..., Any], group: Group) -> Callable[..., Any]:
    """``loss_and_grads`` summed over all processes; of the gradients, each gets its part of the sum."""
    if group.size == 1:
        return loss_and_grads

    def of_all(state: Any, x: np.ndarray, y: np.ndarray) -> Any:
        loss, right, stats, grads = loss_and_grads(state, x, y)
        (loss, right), grads = group.reduce_scatter(np.array([loss, right]), grads)
        return loss, right, stats, grads

    return of_all


def sharded_update(update: Callable[[Any, Tree], None], group: Group) -> Callable[[Any, Tree], None]:
    """``update`` of this process's part of the parameters, slots and averages; returns when all parts are updated."""
    if group.size == 1:
        return update

    def update_part(state: Any, grads: Tree) -> None:
        parts = {name: group.part(getattr(state, name)) for name in ("params", "opt", "ema")}
        update(replace(state, **parts), grads)
        group.wait()

    return update_part


def summed(evaluate: Callable[..., Any], group: Group) -> Callable[..., Any]:
    """Sum of ``evaluate``, an array of sums (3,), over the shards of a batch."""
    if group.size == 1:
        return evaluate

    def over_shards(state: Any, x: np.ndarray, y: np.ndarray) -> Any:
        xs, ys = (shards(array, group.size) for array in (x, y))
        return group.all_sum(evaluate(state, xs[group.rank], ys[group.rank]) if group.rank < len(ys) else np.zeros(3))

    return over_shards

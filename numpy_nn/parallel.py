"""Several cores for one step: the batch is split, the gradients are summed.

NumPy lets go of Python's lock inside every large operation, so plain threads
run side by side. Each thread takes a shard of the batch through the unchanged
forward and backward pass; what comes out is added up. It pays when the matrix
library itself runs single-threaded (``OPENBLAS_NUM_THREADS=1``): the threads
then share nothing but the parameters.

Batch norm is the exception: its mean is that of the whole batch, so its threads
must meet half-way, each with its part of the sum (``run_together``).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import Barrier, BrokenBarrierError, Lock
from typing import Any, TypeVar

import numpy as np

from numpy_nn.tree import Tree, tree_map

Result = TypeVar("Result")
_one_at_a_time = Lock()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="numpy_nn")


def run(function: Callable[..., Result], *arguments: Any, threads: int) -> list[Result]:
    """``[function(a, b, …) for a, b, … in zip(*arguments)]``, on ``threads`` threads, this one among them."""
    first, *others = zip(*arguments, strict=True)
    if threads == 1:
        return [function(*each) for each in (first, *others)]
    pending = [_pool(threads).submit(function, *each) for each in others]
    return [function(*first), *(each.result() for each in pending)]


def run_together(function: Callable[..., Result], *arguments: Any) -> list[Result]:
    """Like :func:`run`, on a thread for each call, and each call also gets ``all_mean`` and ``shards``.

    ``all_mean(array)`` waits until each of the ``shards`` calls has brought its array, and
    returns their mean to all. So all calls must ask for it equally often. When one of
    them fails, the others stop waiting, and its error is raised.
    """
    shards = len(arguments[0])
    brought: list[Any] = [None] * shards
    mean: Any = None

    def reduce() -> None:  # done by whoever comes last, before anybody goes on
        nonlocal mean
        mean = sum(brought[1:], brought[0]) / shards

    barrier = Barrier(shards, action=reduce)

    def all_mean(place: int, array: np.ndarray) -> np.ndarray:
        brought[place] = array
        barrier.wait()
        return mean

    def call(place: int, *each: Any) -> Result:
        try:
            return function(*each, all_mean=partial(all_mean, place), shards=shards)
        except BaseException:
            barrier.abort()
            raise

    with _one_at_a_time:  # two barriers in one pool could each hold the threads that the other waits for
        futures = [_pool(shards).submit(call, place, *each) for place, each in enumerate(zip(*arguments, strict=True))]
        errors = [error for future in futures if (error := future.exception())]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, BrokenBarrierError))
    return [future.result() for future in futures]


def shards(x: np.ndarray, threads: int, *, equal: bool = False) -> list[np.ndarray]:
    """Split along the first axis into ``threads`` parts as equal as can be; never an empty one.

    With ``equal`` into fewer parts rather than into unequal ones.
    """
    parts = min(threads, len(x))
    while equal and len(x) % parts:
        parts -= 1
    return np.array_split(x, parts)


def all_reduce(trees: list[Tree]) -> Tree:
    """Sum trees leaf by leaf, in place in the first."""
    total, *others = trees
    for other in others:
        tree_map(lambda a, b: np.add(a, b, out=a), total, other)
    return total

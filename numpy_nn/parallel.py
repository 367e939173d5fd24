"""Several cores for one step: the batch is split, the gradients are summed.

NumPy lets go of Python's lock inside every large operation, so plain threads
run side by side. Each thread takes a shard of the batch through the unchanged
forward and backward pass; what comes out is added up. It pays when the matrix
library itself runs single-threaded (``OPENBLAS_NUM_THREADS=1``): the threads
then share nothing but the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numpy as np

from numpy_nn.tree import Tree, tree_map

Result = TypeVar("Result")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="numpy_nn")


def run(function: Callable[..., Result], *arguments: Any, threads: int) -> list[Result]:
    """``[function(a, b, …) for a, b, … in zip(*arguments)]``, on ``threads`` threads."""
    if threads == 1:
        return [function(*each) for each in zip(*arguments, strict=True)]
    return list(_pool(threads).map(function, *arguments))


def shards(x: np.ndarray, threads: int) -> list[np.ndarray]:
    """Split along the first axis into ``threads`` parts as equal as can be; never an empty one."""
    return np.array_split(x, min(threads, len(x)))


def all_reduce(trees: list[Tree]) -> Tree:
    """Sum trees leaf by leaf, in place in the first."""
    total, *others = trees
    for other in others:
        tree_map(lambda a, b: np.add(a, b, out=a), total, other)
    return total

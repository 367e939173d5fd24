"""How a GPU is programmed: two kernels, with the loops that a GPU runs in parallel written out.

A *kernel* is a function that computes one tile of the result. The GPU runs it once for each tile: all tiles together
are the *grid*, each run is a *program* (CUDA calls it a block, whose threads share the elements of the tile). Programs
run at the same time, in any order, and cannot exchange data. All tiles have the same size, known beforehand; elements
beyond the edge of the array are masked. See docs/kernels.md; jax_nn/kernels.py and torch_nn/kernels.py hold the same
kernels for Pallas and Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numpy_nn.shapes import Array, Float, Int

Cache = Any

# --- what a GPU does --------------------------------------------------------------------------------------------------


def launch(kernel: Callable[..., None], grid: tuple[int, ...], *args: Any) -> None:
    """Run ``kernel(program, *args)`` for each program of the grid: here one after the other, on a GPU in parallel."""
    for program in np.ndindex(grid):
        kernel(program, *args)


def cdiv(size: int, block: int) -> int:
    """Number of blocks that cover ``size``: ⌈size/block⌉."""
    return -(-size // block)


def load(array: Array, *starts: int, block: int, fill: Any = 0) -> Array:
    """Copy a tile, ``block`` long in each axis, from slow memory; elements beyond the array's edge are ``fill``."""
    inside = array[tuple(slice(start, start + block) for start in starts)]
    tile = np.full((block,) * array.ndim, fill, array.dtype)
    tile[tuple(slice(size) for size in inside.shape)] = inside
    return tile


def store(array: Array, *starts: int, tile: Array) -> None:
    """Copy a tile back to slow memory; nothing is written beyond the array's edge."""
    inside = array[tuple(slice(start, start + size) for start, size in zip(starts, tile.shape, strict=True))]
    inside[...] = tile[tuple(slice(size) for size in inside.shape)]


# --- a tiled matmul ---------------------------------------------------------------------------------------------------


def matmul_kernel(program: tuple[int, int], a: Array, b: Array, y: Array, block: int) -> None:
    """One (block, block) tile of y: a row of tiles of a, times a column of tiles of b."""
    row, column = program[0] * block, program[1] * block
    accumulator = np.zeros((block, block), y.dtype)  # fast memory: on a GPU, the registers
    for start in range(0, a.shape[1], block):
        accumulator += load(a, row, start, block=block) @ load(b, start, column, block=block)
    store(y, row, column, tile=accumulator)  # y is written once, after all tiles were added


def matmul(a: Float[Array, "n i"], b: Float[Array, "i o"], *, block: int = 32) -> Float[Array, "n o"]:
    """y = a b, one program per (block, block) tile of y. Its gradients are two more: da = dy bᵀ, db = aᵀ dy."""
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"a is {a.shape} and b {b.shape}: a must have as many columns as b has rows")
    n, o = a.shape[0], b.shape[1]
    y = np.empty((n, o), np.result_type(a, b))
    launch(matmul_kernel, (cdiv(n, block), cdiv(o, block)), a, b, y, block)
    return y


# --- fused softmax and cross-entropy ----------------------------------------------------------------------------------


def loss_kernel(program: tuple[int], logits: Array, labels: Array, loss: Array, log_z: Array, block: int) -> None:
    """``block`` rows: log z = log Σᵥ e^x and loss = log z - x[label], in one pass over the logits.

    Subtracting the largest logit m keeps e^(x - m) from overflowing, but m is known only at the end. So m is the
    largest *so far*, total = Σ e^(x - m) so far, and whenever m grows, total is multiplied by e^(old m - new m)
    (Milakov & Gimelshein 2018, arXiv:1805.02867).
    """
    row = program[0] * block
    label = load(labels, row, block=block, fill=-1)[:, None]
    m = np.full((block, 1), -np.inf, logits.dtype)
    total = np.zeros((block, 1), logits.dtype)
    right = np.zeros((block, 1), logits.dtype)  # the logit of the label, once its tile has been read
    for start in range(0, logits.shape[1], block):
        x = load(logits, row, start, block=block, fill=np.finfo(logits.dtype).min)  # e^fill = 0 adds nothing
        new_m = np.maximum(m, x.max(axis=1, keepdims=True))
        total = total * np.exp(m - new_m) + np.exp(x - new_m).sum(axis=1, keepdims=True)
        right += np.where(start + np.arange(block) == label, x, 0).sum(axis=1, keepdims=True)
        m = new_m
    z = m + np.log(total)
    store(log_z, row, tile=z[:, 0])
    store(loss, row, tile=np.where(label >= 0, z - right, 0)[:, 0])


def gradient_kernel(
    program: tuple[int, int], logits: Array, labels: Array, log_z: Array, scale: Array, dlogits: Array, block: int
) -> None:
    """One (block, block) tile of dlogits = scale · (e^(x - log z) - [this is the label])."""
    row, column = program[0] * block, program[1] * block
    label, z, s = (load(each, row, block=block)[:, None] for each in (labels, log_z, scale))
    softmax = np.exp(load(logits, row, column, block=block, fill=np.finfo(logits.dtype).min) - z)
    store(dlogits, row, column, tile=s * (softmax - (column + np.arange(block) == label)))


def softmax_cross_entropy_forward(
    logits: Float[Array, "n v"], labels: Int[Array, " n"], *, block: int = 32
) -> tuple[np.floating, Cache]:
    """loss = -1/n Σₙ log softmax(logits)[label], one program per ``block`` rows; labels below zero are padding.

    None of the (n, v) values between logits and loss is kept: backward computes them again from log z, one number
    per row.
    """
    n = len(logits)
    loss, log_z = np.empty(n, logits.dtype), np.empty(n, logits.dtype)
    launch(loss_kernel, (cdiv(n, block),), logits, labels, loss, log_z, block)
    count = max(int((labels >= 0).sum()), 1)
    return loss.sum() / count, (logits, labels, log_z, count, block)


def softmax_cross_entropy_backward(dloss: float, cache: Cache) -> Float[Array, "n v"]:
    """dlogits = dloss/n · (softmax(logits) - target), one program per tile."""
    logits, labels, log_z, count, block = cache
    n, v = logits.shape
    scale = np.where(labels >= 0, dloss / count, 0).astype(logits.dtype)
    dlogits = np.empty_like(logits)
    launch(gradient_kernel, (cdiv(n, block), cdiv(v, block)), logits, labels, log_z, scale, dlogits, block)
    return dlogits

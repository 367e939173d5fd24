"""GPU kernels in Pallas: the kernels of numpy_nn/kernels.py.

On an NVIDIA GPU, Pallas compiles a kernel through Triton; tile sizes must be powers of two, at least 16.
Elsewhere Pallas interprets it, slowly, with the same result. ``ref`` is an array in the device's main memory;
``load`` copies a tile of it to registers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as gpu


def launch(kernel: Callable[..., None], grid: tuple[int, ...], out: Any, *arrays: Array) -> Any:
    """Run the kernel once per program of the grid, and return its outputs, of the shapes and dtypes ``out``."""

    def run(*arrays: Array, interpret: bool) -> Any:
        parameters = None if interpret else gpu.CompilerParams()
        return pl.pallas_call(kernel, out, grid=grid, interpret=interpret, compiler_params=parameters)(*arrays)

    compiled, interpreted = partial(run, interpret=False), partial(run, interpret=True)
    return lax.platform_dependent(*arrays, cuda=compiled, default=interpreted)


def tile(ref: Any, *starts: Any, block: int) -> tuple[Any, Array]:
    """Return a reference to the tile at ``starts`` and a mask, True for elements inside the array."""
    mask = jnp.full((block,) * len(starts), True)
    for axis, start in enumerate(starts):
        mask &= start + lax.broadcasted_iota(jnp.int32, mask.shape, axis) < ref.shape[axis]
    return ref.at[tuple(pl.ds(start, block) for start in starts)], mask


def load(ref: Any, *starts: Any, block: int, fill: Any = 0) -> Array:
    """Load a tile, ``block`` long in each axis, from main memory; elements outside the array are ``fill``."""
    tile_ref, mask = tile(ref, *starts, block=block)
    return gpu.load(tile_ref, mask=mask, other=fill)


def store(ref: Any, *starts: Any, value: Array) -> None:
    """Store a tile to main memory; elements outside the array are not written."""
    tile_ref, mask = tile(ref, *starts, block=value.shape[0])
    gpu.store(tile_ref, value, mask=mask)


# --- tiled matmul -----------------------------------------------------------------------------------------------------


def _matmul_kernel(a: Any, b: Any, y: Any, *, block: int) -> None:
    """Compute one (block, block) tile of y: a row of tiles of a times a column of tiles of b."""
    row, column = pl.program_id(0) * block, pl.program_id(1) * block

    def add(step: Array, accumulator: Array) -> Array:
        start = step * block
        operands = load(a, row, start, block=block), load(b, start, column, block=block)
        return accumulator + jnp.dot(*operands, precision="highest")  # no TF32

    accumulator = jnp.zeros((block, block), y.dtype)
    store(y, row, column, value=lax.fori_loop(0, pl.cdiv(a.shape[1], block), add, accumulator))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(a: Array, b: Array, block: int) -> Array:
    n, o = a.shape[0], b.shape[1]
    out = jax.ShapeDtypeStruct((n, o), jnp.result_type(a, b))
    return launch(partial(_matmul_kernel, block=block), (pl.cdiv(n, block), pl.cdiv(o, block)), out, a, b)


def _matmul_forward(a: Array, b: Array, block: int) -> tuple[Array, tuple[Array, Array]]:
    return _matmul(a, b, block), (a, b)


def _matmul_backward(block: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    a, b = saved
    return _matmul(dy, b.T, block), _matmul(a.T, dy, block)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def matmul(a: Array, b: Array, *, block: int = 32) -> Array:
    """y (n, o) = a (n, i) b (i, o), one program per (block, block) tile of y; da = dy bᵀ and db = aᵀ dy likewise.

    ValueError if the inner sizes differ.
    """
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"a is {a.shape} and b {b.shape}: a must have as many columns as b has rows")
    return _matmul(a, b, block)


# --- fused softmax and cross-entropy ----------------------------------------------------------------------------------


def _loss_kernel(logits: Any, labels: Any, loss: Any, log_z: Any, *, block: int) -> None:
    """Compute log z = log Σᵥ e^x and loss = log z - x[label] for ``block`` rows, in one pass over the logits.

    So far, m is the largest logit and total = Σ e^(x - m); right is the logit of the label
    (online softmax, Milakov & Gimelshein 2018, arXiv:1805.02867).
    """
    row = pl.program_id(0) * block
    label = load(labels, row, block=block, fill=-1)

    def add(step: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        m, total, right = carry
        start = step * block
        x = load(logits, row, start, block=block, fill=jnp.finfo(logits.dtype).min)  # e^fill = 0
        new_m = jnp.maximum(m, x.max(axis=1))
        total = total * jnp.exp(m - new_m) + jnp.exp(x - new_m[:, None]).sum(axis=1)
        is_label = start + lax.broadcasted_iota(label.dtype, x.shape, 1) == label[:, None]
        return new_m, total, right + jnp.where(is_label, x, 0).sum(axis=1)

    zeros = jnp.zeros(block, logits.dtype)
    m, total, right = lax.fori_loop(0, pl.cdiv(logits.shape[1], block), add, (zeros - jnp.inf, zeros, zeros))
    z = m + jnp.log(total)
    store(log_z, row, value=z)
    store(loss, row, value=jnp.where(label >= 0, z - right, 0))


def _gradient_kernel(logits: Any, labels: Any, log_z: Any, scale: Any, dlogits: Any, *, block: int) -> None:
    """Compute one (block, block) tile of dlogits = scale · (e^(x - log z) - one_hot(label))."""
    row, column = pl.program_id(0) * block, pl.program_id(1) * block
    label, z, s = (load(each, row, block=block)[:, None] for each in (labels, log_z, scale))
    x = load(logits, row, column, block=block, fill=jnp.finfo(logits.dtype).min)
    one_hot = column + lax.broadcasted_iota(label.dtype, x.shape, 1) == label
    store(dlogits, row, column, value=s * (jnp.exp(x - z) - one_hot.astype(x.dtype)))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _loss(logits: Array, labels: Array, block: int) -> Array:
    return _loss_forward(logits, labels, block)[0]


def _loss_forward(logits: Array, labels: Array, block: int) -> tuple[Array, tuple[Array, ...]]:
    rows = jax.ShapeDtypeStruct(labels.shape, logits.dtype)
    kernel = partial(_loss_kernel, block=block)
    loss, log_z = launch(kernel, (pl.cdiv(len(labels), block),), (rows, rows), logits, labels)
    count = jnp.maximum((labels >= 0).sum(), 1).astype(logits.dtype)
    return loss.sum() / count, (logits, labels, log_z, count)


def _loss_backward(block: int, saved: tuple[Array, ...], dloss: Array) -> tuple[Array, None]:
    logits, labels, log_z, count = saved
    grid = tuple(pl.cdiv(size, block) for size in logits.shape)
    scale = jnp.where(labels >= 0, dloss / count, 0)
    out = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
    return launch(partial(_gradient_kernel, block=block), grid, out, logits, labels, log_z, scale), None


_loss.defvjp(_loss_forward, _loss_backward)


def softmax_cross_entropy(logits: Array, labels: Array, *, block: int = 32) -> Array:
    """loss = -1/n Σₙ log softmax(logits)[label] for logits (n, v), labels (n,), one program per ``block`` rows.

    Labels below zero are padding and are not counted. No (n, v) intermediate is kept: the backward pass recomputes the
    softmax from log z, one number per row.
    """
    return _loss(logits, labels, block)

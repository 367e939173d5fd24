"""Data parallelism and gradient accumulation: the mean of the parts' gradients is the gradient of the batch.

Micro-batches are computed one after the other (``accumulated``). Devices compute at the same time, each with a shard
of the batch and a copy of the parameters, in one of three ways:

    pmap        the step runs on every device; the batch gets an axis of devices
    shard_map   the same step; a mesh and a partition spec say along which axis each array is split
    jit         the step for one device, unchanged; XLA adds the communication that the placement of the arrays needs

In the first two the step itself names the communication: ``lax.pmean`` over the axis "devices", of the gradients
(``all_reduced``) and of the mean and variance in batch norm. JAX still maintains ``pmap``, but develops the other two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_nn.devices import compiler_options

Carry = dict[str, Any]  # what a step changes: "params", "stats", "opt", "step", and "ema" if an average is kept
Metrics = dict[str, Array]
Step = Callable[[Carry, tuple[Array, Array]], tuple[Carry, Metrics]]
Chunk = Callable[[Carry, Any, Any], tuple[Carry, Metrics]]  # k steps: x (k, n, h, w, c), y (k, n)
Forward = Callable[[Carry, Array], Array]
LossAndGrads = Callable[[Any, Any, Array, Array], Any]  # params, stats, x, y -> (loss, (stats, correct)), gradients

AXIS = "devices"
STRATEGIES = ("pmap", "shard_map", "jit")


def accumulated(loss_and_grads: LossAndGrads, parts: int) -> LossAndGrads:
    """Return the function for a batch, computed as m = ``parts`` equal micro-batches in turn: ∇ = 1/m Σ ∇ᵢ."""
    if parts == 1:
        return loss_and_grads

    def of_batch(params: Any, stats: Any, x: Array, y: Array) -> Any:
        def add_micro_batch(carry: Any, batch: tuple[Array, Array]) -> Any:
            stats, total = carry
            (loss, (stats, right)), grads = loss_and_grads(params, stats, *batch)
            return (stats, jax.tree.map(jnp.add, total, grads)), (loss, right)

        if len(y) % parts:
            raise ValueError(f"a batch of {len(y)} is not {parts} equal micro-batches: accumulate must divide it")
        xs, ys = (array.reshape(parts, -1, *array.shape[1:]) for array in (x, y))
        zeros = jax.tree.map(jnp.zeros_like, params)
        (stats, total), (losses, rights) = lax.scan(add_micro_batch, (stats, zeros), (xs, ys))
        return (losses.mean(), (stats, rights.sum())), jax.tree.map(lambda grad: grad / parts, total)

    return of_batch


def all_reduced(loss_and_grads: LossAndGrads, axis: str | None) -> LossAndGrads:
    """Return the function for a batch whose N equal shards lie along ``axis``: ∇ = 1/N Σ ∇ᵢ, on every device."""
    if axis is None:
        return loss_and_grads

    def of_batch(params: Any, stats: Any, x: Array, y: Array) -> Any:
        (loss, (stats, right)), grads = loss_and_grads(params, stats, x, y)
        return (lax.pmean(loss, axis), (stats, lax.psum(right, axis))), lax.pmean(grads, axis)

    return of_batch


def require_equal_shards(n: int, devices: int, accumulate: int) -> None:
    """Raise ValueError unless every micro-batch of a batch of n images divides into equal shards."""
    if n % (devices * accumulate):
        micro = f" x {accumulate} micro-batches" if accumulate > 1 else ""
        raise ValueError(f"a batch of {n} does not divide by {devices} devices{micro}: choose another batch size")


def shard_batch(array: np.ndarray, devices: int, accumulate: int) -> np.ndarray:
    """Split (k, n, …) into shards (k, devices, n/devices, …), with a part of every micro-batch in each."""
    k, n, *rest = array.shape
    require_equal_shards(n, devices, accumulate)
    return array.reshape(k, accumulate, devices, -1, *rest).swapaxes(1, 2).reshape(k, devices, -1, *rest)


# --- k steps, compiled for one device or for several ------------------------------------------------------------------


def compile_chunk(step: Step, devices: Sequence[jax.Device], parallel: str, *, accumulate: int) -> Chunk:
    """Compile k steps to one program that donates the old state's memory to the new state.

    For pmap and shard_map, the step must reduce over ``reduction_axis(devices, parallel)``.
    """

    def train_chunk(carry: Carry, x: Array, y: Array) -> tuple[Carry, Metrics]:
        return lax.scan(step, carry, (x, y))

    if len(devices) == 1:
        return jax.jit(train_chunk, donate_argnums=0, compiler_options=compiler_options(devices))
    compilers = {"pmap": compile_pmap, "shard_map": compile_shard_map, "jit": compile_jit}
    return compilers[parallel](train_chunk, devices, accumulate)


def compile_pmap(train_chunk: Chunk, devices: Sequence[jax.Device], accumulate: int) -> Chunk:
    """Map over axis 1 of x (k, devices, n/devices, …); the carry is replicated."""
    mapped = jax.pmap(train_chunk, AXIS, in_axes=(None, 1, 1), out_axes=None, devices=list(devices), donate_argnums=0)
    return lambda carry, *batches: mapped(carry, *(shard_batch(each, len(devices), accumulate) for each in batches))


def compile_shard_map(train_chunk: Chunk, devices: Sequence[jax.Device], accumulate: int) -> Chunk:
    """Split axis 1 of x (k, n, …) over the mesh; the carry is replicated."""
    mesh = device_mesh(devices)
    replicated, split = P(), P(None, AXIS)
    # check_vma=False, as in pmap: otherwise JAX sums the gradients of replicated parameters by itself
    sharded = jax.shard_map(
        train_chunk, mesh=mesh, in_specs=(replicated, split, split), out_specs=(replicated, replicated), check_vma=False
    )
    program = jax.jit(sharded, donate_argnums=0, compiler_options=compiler_options(devices))

    def place(batch: np.ndarray) -> Array:  # a device gets consecutive images
        shards = shard_batch(batch, len(devices), accumulate).reshape(batch.shape)
        return place_batch(shards, NamedSharding(mesh, split))

    return lambda carry, *batches: program(carry, *map(place, batches))


def compile_jit(train_chunk: Chunk, devices: Sequence[jax.Device], accumulate: int) -> Chunk:
    """Place the arrays and leave communication to XLA, which turns a mean over a split axis into an all-reduce.

    XLA may also gather: with micro-batches it does, because each of them lies on some of the devices only.
    """
    mesh = device_mesh(devices)
    replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, AXIS))
    options = compiler_options(devices)
    program = jax.jit(train_chunk, out_shardings=(replicated, replicated), donate_argnums=0, compiler_options=options)

    def train(carry: Carry, *batches: np.ndarray) -> tuple[Carry, Metrics]:
        require_equal_shards(batches[0].shape[1], len(devices), accumulate)
        return program(carry, *(place_batch(batch, split) for batch in batches))

    return train


def place_batch(array: np.ndarray, sharding: NamedSharding) -> Array:
    """Place the array on the devices by its sharding; each process contributes the shards of its own devices."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def reduction_axis(devices: Sequence[jax.Device], parallel: str) -> str | None:
    """Return the axis over which a step must reduce, None where it sees the whole batch."""
    if parallel not in STRATEGIES:
        raise ValueError(f"unknown parallel {parallel!r}; known: {', '.join(STRATEGIES)}")
    return AXIS if len(devices) > 1 and parallel != "jit" else None


def device_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Return the devices as a mesh with one axis."""
    return Mesh(np.array(devices), (AXIS,))


def replicate(carry: Carry, devices: Sequence[jax.Device]) -> Carry:
    """Copy the carry to every device."""
    return jax.device_put(carry, devices[0] if len(devices) == 1 else NamedSharding(device_mesh(devices), P()))


def sharded_forward(forward: Forward, devices: Sequence[jax.Device]) -> Forward:
    """Return the forward function with its images (n, …) split over the devices; n need not be divisible."""
    if len(devices) == 1:
        return forward
    mesh = device_mesh(devices)
    of_shard = jax.shard_map(forward, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)

    def of_batch(carry: Carry, x: Array) -> Array:
        padding = -len(x) % len(devices)
        outputs = of_shard(carry, jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)))
        return lax.with_sharding_constraint(outputs, NamedSharding(mesh, P()))[: len(x)]

    return of_batch

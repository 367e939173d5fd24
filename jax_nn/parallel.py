"""A batch in parts, one after the other or each on a device of its own; the mean of their gradients is the batch's.

Micro-batches follow one another (``accumulated``). Devices work side by side, each with its shard of the
batch and its copy of the parameters, in one of three ways:

    pmap        the step runs on every device, over an axis of devices that is cut into the batch
    shard_map   the same step, the same program; a mesh and a spec say along which axis an array is cut
    jit         the step of one device, unchanged; from where the arrays lie XLA sees what must be sent, and sends it

In the first two the step itself says where it meets the others: ``lax.pmean`` over the axis "devices", of
gradients (``averaged``) and of the mean and variance in a batch norm. JAX keeps ``pmap``, and
develops the other two.
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

Carry = dict[str, Any]
Step = Callable[[Carry, tuple[Array, Array]], tuple[Carry, dict[str, Array]]]
Chunk = Callable[[Carry, Any, Any], tuple[Carry, dict[str, Array]]]  # x (k, n, h, w, c), y (k, n): k steps
Forward = Callable[[Carry, Array], Array]
LossAndGrads = Callable[[Any, Any, Array, Array], Any]  # params, stats, x, y -> (loss, (stats, correct)), gradients

AXIS = "devices"
WAYS = ("pmap", "shard_map", "jit")


def accumulated(loss_and_grads: LossAndGrads, parts: int) -> LossAndGrads:
    """The same function of a batch, from equal micro-batches one after the other: ∇ = 1/m Σ ∇ᵢ, m = ``parts``."""
    if parts == 1:
        return loss_and_grads

    def of_batch(params: Any, stats: Any, x: Array, y: Array) -> Any:
        def of_part(carry: Any, part: tuple[Array, Array]) -> Any:
            stats, total = carry
            (value, (stats, right)), grads = loss_and_grads(params, stats, *part)
            return (stats, jax.tree.map(jnp.add, total, grads)), (value, right)

        if len(y) % parts:
            raise ValueError(f"a batch of {len(y)} is not {parts} equal micro-batches: accumulate must divide it")
        xs, ys = (array.reshape(parts, -1, *array.shape[1:]) for array in (x, y))
        zeros = jax.tree.map(jnp.zeros_like, params)
        (stats, total), (values, rights) = lax.scan(of_part, (stats, zeros), (xs, ys))
        return (values.mean(), (stats, rights.sum())), jax.tree.map(lambda grad: grad / parts, total)

    return of_batch


def averaged(loss_and_grads: LossAndGrads, axis: str | None) -> LossAndGrads:
    """The same function of a batch, from the equal shards that lie across ``axis``: ∇ = 1/N Σ ∇ᵢ, on every device."""
    if axis is None:
        return loss_and_grads

    def of_batch(params: Any, stats: Any, x: Array, y: Array) -> Any:
        (value, (stats, right)), grads = loss_and_grads(params, stats, x, y)
        return (lax.pmean(value, axis), (stats, lax.psum(right, axis))), lax.pmean(grads, axis)

    return of_batch


def require_equal_shards(n: int, devices: int, accumulate: int) -> None:
    """Raise ValueError if a batch of n images is not one equal shard of each micro-batch per device."""
    if n % (devices * accumulate):
        micro = f" x {accumulate} micro-batches" if accumulate > 1 else ""
        raise ValueError(f"a batch of {n} does not divide by {devices} devices{micro}: choose another batch size")


def dealt(array: np.ndarray, devices: int, accumulate: int) -> np.ndarray:
    """(k, n, …) -> (k, devices, n/devices, …): to each device its shard of every micro-batch."""
    k, n, *rest = array.shape
    require_equal_shards(n, devices, accumulate)
    return array.reshape(k, accumulate, devices, -1, *rest).swapaxes(1, 2).reshape(k, devices, -1, *rest)


# --- the same k steps, compiled for one device or for several ---------------------------------------------------------


def compiled(step: Step, devices: Sequence[jax.Device], parallel: str, accumulate: int) -> Chunk:
    """k steps as one program, in which the old state's memory is reused for the new.

    A step that is to run by pmap or shard_map must have been made for ``axis_of`` these devices.
    """

    def train_chunk(carry: Carry, x: Array, y: Array) -> tuple[Carry, dict[str, Array]]:
        return lax.scan(step, carry, (x, y))

    if len(devices) == 1:
        return jax.jit(train_chunk, donate_argnums=0, compiler_options=compiler_options(devices))
    return {"pmap": by_pmap, "shard_map": by_shard_map, "jit": by_jit}[parallel](train_chunk, devices, accumulate)


def by_pmap(train_chunk: Chunk, devices: Sequence[jax.Device], accumulate: int) -> Chunk:
    """Map over axis 1 of x (k, devices, n/devices, …); the carry has no such axis, and is everybody's."""
    mapped = jax.pmap(train_chunk, AXIS, in_axes=(None, 1, 1), out_axes=None, devices=list(devices), donate_argnums=0)
    return lambda carry, *batches: mapped(carry, *(dealt(each, len(devices), accumulate) for each in batches))


def by_shard_map(train_chunk: Chunk, devices: Sequence[jax.Device], accumulate: int) -> Chunk:
    """Cut axis 1 of x (k, n, …) over the mesh; the carry is on every device whole, before and after."""
    mesh = mesh_of(devices)
    whole, cut = P(), P(None, AXIS)
    # check_vma: JAX would else sum the gradients of what is everywhere the same by itself, which pmap does not
    sharded = jax.shard_map(
        train_chunk, mesh=mesh, in_specs=(whole, cut, cut), out_specs=(whole, whole), check_vma=False
    )
    program = jax.jit(sharded, donate_argnums=0, compiler_options=compiler_options(devices))

    def in_order(batch: np.ndarray) -> Array:  # neighbours along n are on one device
        return laid(dealt(batch, len(devices), accumulate).reshape(batch.shape), NamedSharding(mesh, cut))

    return lambda carry, *batches: program(carry, *map(in_order, batches))


def by_jit(train_chunk: Chunk, devices: Sequence[jax.Device], accumulate: int) -> Chunk:
    """Say where arrays lie, and nothing else: a mean over a cut axis becomes sums on each device, and one of all.

    XLA may also fetch the whole: micro-batches it gathers, as each of them lies on some of the devices only.
    """
    mesh = mesh_of(devices)
    whole, cut = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, AXIS))
    options = compiler_options(devices)
    program = jax.jit(train_chunk, out_shardings=(whole, whole), donate_argnums=0, compiler_options=options)

    def train(carry: Carry, *batches: np.ndarray) -> tuple[Carry, dict[str, Array]]:
        require_equal_shards(batches[0].shape[1], len(devices), accumulate)
        return program(carry, *(laid(batch, cut) for batch in batches))

    return train


def laid(array: np.ndarray, where: NamedSharding) -> Array:
    """The array cut over the devices; of several processes, each brings the shards of its own."""
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def axis_of(devices: Sequence[jax.Device], parallel: str) -> str | None:
    """The axis that a step must average over; None where it sees the whole batch."""
    if parallel not in WAYS:
        raise ValueError(f"unknown parallel {parallel!r}; known: {', '.join(WAYS)}")
    return AXIS if len(devices) > 1 and parallel != "jit" else None


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """The devices as an axis to lay arrays along."""
    return Mesh(np.array(devices), (AXIS,))


def on_each(carry: Carry, devices: Sequence[jax.Device]) -> Carry:
    """A copy of the carry on every device."""
    return jax.device_put(carry, devices[0] if len(devices) == 1 else NamedSharding(mesh_of(devices), P()))


def spread(forward: Forward, devices: Sequence[jax.Device]) -> Forward:
    """The same outputs (n, v) for images (n, …), computed by all devices; n need not be divisible."""
    if len(devices) == 1:
        return forward
    mesh = mesh_of(devices)
    part = jax.shard_map(forward, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)

    def whole(carry: Carry, x: Array) -> Array:
        missing = -len(x) % len(devices)
        outputs = part(carry, jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)))
        return lax.with_sharding_constraint(outputs, NamedSharding(mesh, P()))[: len(x)]

    return whole

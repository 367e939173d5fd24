"""Training with JAX: one pure step, and transforms of it.

    step(carry, batch) -> (carry, metrics)        pure: the results depend on the arguments alone
    lax.scan(step, carry, (x, y))                 k steps in one program
    jax.jit(..., donate_argnums=0)                compiled once; the new state reuses the memory of the old one
    jax.pmap(..., "devices")                      on several devices at once: see ``parallel``

The eight functions are the same in ``numpy_nn.train`` and ``torch_nn.train``:

    state = init_state(snapshot, model="mlp", ...)
    state, metrics = train_steps(state, x, y)       # x uint8 (k, n, h, w, c), y int32 (k, n)
    metrics = eval_batch(state, x, y)               # sums and counts
    outputs = logits(state, x)                      # (n, classes)
    snapshot = to_snapshot(state)
    synchronize(state)
    dataset = place_dataset(state, x, y)            # the dataset on an accelerator, or None
    facts = device_facts(state)                     # hardware, matmul precision, peak device memory
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from jax_nn import interop, models, optim
from jax_nn.devices import DeviceDataset, choose, compiler_options, facts, full_precision
from jax_nn.losses import LOSSES, correct, rows
from jax_nn.norm import BatchNorm
from jax_nn.parallel import (
    Carry,
    Forward,
    LossAndGrads,
    Metrics,
    Step,
    accumulated,
    all_reduced,
    compile_chunk,
    reduction_axis,
    replicate,
    sharded_forward,
)
from jax_nn.precision import PARAM_DTYPES, use_bfloat16_matmuls
from numpy_nn.batch import ONE, STEPS, Batches
from numpy_nn.tree import Tree, first_average, frozen_norms, rate_factors, require_same

KNOWN: dict[str, Collection[str]] = {
    "loss": LOSSES,
    "optimizer": optim.OPTIMIZERS,
    "schedule": optim.SCHEDULES,
    "precision": PARAM_DTYPES,
}
Loss = Callable[[Array, Array], Array]  # outputs, labels -> mean over the batch
Normalise = Callable[[Array], Array]  # bytes -> numbers


@dataclass(frozen=True)
class State:
    """The training state (``carry``) and the compiled programs that read and update it."""

    carry: Carry
    train_chunk: Callable[[Carry, Array, Array], tuple[Carry, Metrics]]
    evaluate: Callable[[Carry, Array, Array], Metrics]
    forward: Forward
    slots: dict[str, str]  # optimizer slots: {name in a snapshot: field in optax}
    batches: Batches  # what it accepts as images and labels
    devices: list[jax.Device]
    precision: str


def init_state(
    snapshot: Tree,
    *,
    model: str,
    model_args: dict[str, Any] | None = None,
    loss: str = "cross_entropy",
    loss_args: dict[str, Any] | None = None,
    optimizer: str = "sgd",
    optimizer_args: dict[str, Any] | None = None,
    schedule: str = "constant",
    schedule_args: dict[str, Any],
    lr_scale: Mapping[str, float] | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    seed: int = 0,
    device: str = "cpu",
    devices: int = 1,
    parallel: str = "pmap",
    threads: int = 1,
    precision: str = "float32",
) -> State:
    """Build a training state from a snapshot, to start a run or to resume one.

    The snapshot is copied. The arguments are those of ``numpy_nn.train.init_state``, and:

    Args:
        device: "cpu", "gpu", "gpu:N", or "auto": a GPU if there is one, else the CPU.
        parallel: how a step uses several ``devices``: "pmap", "shard_map" or "jit" (see ``parallel``).
        threads: not used. XLA sizes its thread pool when JAX starts, by the CPUs that the process may run on.

    Raises:
        ValueError: an unknown name, a device that is not there, a snapshot that does not fit the model, or float64
            without ``jax_enable_x64``.
    """
    require_known(loss=loss, optimizer=optimizer, schedule=schedule, precision=precision)
    if precision == "float64" and not jax.config.jax_enable_x64:
        raise ValueError("float64 needs jax.config.update('jax_enable_x64', True) before the first array")
    if accumulate < 1:
        raise ValueError(f"accumulate {accumulate}: it must be at least 1")
    jax_devices, dtype = choose(device, devices), PARAM_DTYPES[precision]
    network = abstract_network(model, model_args or {}, snapshot, precision)
    normalise = partial(preprocess, mean=jnp.asarray(mean, dtype), std=jnp.asarray(std, dtype))
    loss_fn = partial(LOSSES[loss], **(loss_args or {}))

    lr = optim.SCHEDULES[schedule](**schedule_args)
    factors = rate_factors(snapshot["params"], lr_scale)
    offset = int(snapshot.get("step", 0)) - int(snapshot.get("opt", {}).get("count", 0))
    tx = optim.make(
        optimizer, optim.shifted(lr, offset), factors=factors if lr_scale else None, **(optimizer_args or {})
    )
    slots = optim.OPTIMIZERS[optimizer][1]

    axis = reduction_axis(jax_devices, parallel)
    frozen = frozen_norms(snapshot.get("stats", {}), factors)
    loss_and_grads = jax.value_and_grad(make_loss(network, loss_fn, normalise, frozen=frozen, axis=axis), has_aux=True)
    step = make_step(all_reduced(accumulated(loss_and_grads, accumulate), axis), tx, lr=lr, ema=ema)
    forward = sharded_forward(full_precision(make_forward(network, normalise)), jax_devices)
    return State(
        carry=replicate(init_carry(snapshot, tx, slots, dtype=dtype, ema=ema), jax_devices),
        train_chunk=compile_chunk(full_precision(step), jax_devices, parallel, accumulate=accumulate),
        evaluate=jax.jit(make_evaluate(forward, loss_fn), compiler_options=compiler_options(jax_devices)),
        forward=jax.jit(forward, compiler_options=compiler_options(jax_devices)),
        slots=slots,
        batches=Batches.of(models.get(model), model_args or {}),
        devices=jax_devices,
        precision=precision,
    )


def require_known(**names: str) -> None:
    """Raise ValueError for a name that is not in the table of its kind; the message lists the known names."""
    for kind, name in names.items():
        if name not in KNOWN[kind]:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(KNOWN[kind])}")


def abstract_network(model: str, model_args: Mapping[str, Any], snapshot: Tree, precision: str) -> nnx.Module:
    """Return the network with shapes but no values; ValueError if the snapshot has other names or shapes."""
    network = nnx.eval_shape(lambda: models.get(model)(**model_args, rngs=nnx.Rngs(0)))
    if precision == "bfloat16":
        use_bfloat16_matmuls(network)
    _, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    require_same(interop.names(nnx.to_pure_dict(params)), snapshot["params"])
    require_same(interop.names(nnx.to_pure_dict(stats)), snapshot.get("stats", {}), what="stats")
    return network


def init_carry(
    snapshot: Tree, tx: optax.GradientTransformation, slots: dict[str, str], *, dtype: str, ema: float | None
) -> Carry:
    """Copy a snapshot to the device; optimizer state, step and average start afresh where the snapshot has none."""
    carry: Carry = {
        "params": interop.to_jax(snapshot["params"], dtype),
        "stats": interop.to_jax(snapshot.get("stats", {}), dtype),
        "step": jnp.int32(int(snapshot.get("step", 0))),  # jnp.int32(array) would share it
    }
    carry["opt"] = jax.jit(tx.init)(carry["params"])  # one program instead of one per shape
    if "opt" in snapshot:
        fresh = interop.to_numpy(optim.read(carry["opt"], slots))
        require_same(fresh, snapshot["opt"], what="optimizer state")
        carry["opt"] = optim.write(carry["opt"], interop.to_jax(snapshot["opt"], dtype), slots)
    if average := first_average(snapshot, ema):
        carry["ema"] = interop.to_jax(average, dtype)
    return carry


def preprocess(x: Array, mean: Array, std: Array) -> Array:
    """Convert bytes (n, h, w, c) to numbers: (x/255 - mean)/std, per channel; tokens (n, t) become int32."""
    if x.ndim == 2:
        return x.astype(jnp.int32)
    return x.astype(mean.dtype) * (1 / (255 * std)) - mean / std


def make_loss(
    network: nnx.Module, loss: Loss, normalise: Normalise, *, frozen: Collection[str] = (), axis: str | None = None
) -> Callable[[Any, Any, Array, Array], tuple[Array, tuple[Any, Array]]]:
    """Return the training loss as a pure function: params, stats, x, y -> loss, (new stats, correct).

    Batch norms at ``frozen`` paths use their running statistics. With an ``axis``, the batch is one of the equal
    shards along it, and the other batch norms use the statistics of all shards.
    """
    network.train()
    for path, module in nnx.iter_modules(network):
        if isinstance(module, BatchNorm):
            module.axis = axis
        if "/".join(map(str, path)) in frozen:
            module.eval()
    graphdef, *_ = nnx.split(network, nnx.Param, nnx.BatchStat)

    def loss_fn(params: Any, stats: Any, x: Array, y: Array) -> tuple[Array, tuple[Any, Array]]:
        model = nnx.merge(graphdef, params, stats, copy=True)
        outputs, y = rows(model(normalise(x)), y)
        return loss(outputs, y), (nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), correct(outputs, y))

    return loss_fn


def make_step(
    loss_and_grads: LossAndGrads, tx: optax.GradientTransformation, *, lr: optax.Schedule, ema: float | None = None
) -> Step:
    """Return the training step as a pure function, ready for scan, jit or pmap; ``ema`` is the decay of an average."""

    def step(carry: Carry, batch: tuple[Array, Array]) -> tuple[Carry, Metrics]:
        params = carry["params"]
        (loss, (stats, right)), grads = loss_and_grads(params, carry["stats"], *batch)
        updates, opt = tx.update(grads, carry["opt"], params)
        new = {
            "params": optax.apply_updates(params, updates),
            "stats": stats,
            "opt": opt,
            "step": carry["step"] + 1,
        }
        if ema is not None:  # ema ← d ema + (1 - d) p
            new["ema"] = optax.incremental_update(new["params"], carry["ema"], 1 - ema)
        return new, {"loss": loss, "correct": right, "lr": jnp.asarray(lr(carry["step"]), loss.dtype)}

    return step


def make_forward(network: nnx.Module, normalise: Normalise) -> Forward:
    """Return the network in evaluation mode as a pure function: carry, x -> outputs; it uses the average if any."""
    network.eval()
    graphdef, *_ = nnx.split(network, nnx.Param, nnx.BatchStat)

    def forward(carry: Carry, x: Array) -> Array:
        params = carry.get("ema", carry["params"])
        return nnx.merge(graphdef, params, carry["stats"], copy=True)(normalise(x))

    return forward


def make_evaluate(forward: Forward, loss: Loss) -> Callable[[Carry, Array, Array], Metrics]:
    """Return the evaluation of a batch as a pure function: carry, x, y -> sums."""

    def evaluate(carry: Carry, x: Array, y: Array) -> Metrics:
        outputs, y = rows(forward(carry, x), y)
        count = (y >= 0).sum()
        return {"loss_sum": loss(outputs, y) * count, "correct": correct(outputs, y), "count": count}

    return evaluate


def train_steps(state: State, x: np.ndarray | Array, y: np.ndarray | Array) -> tuple[State, Metrics]:
    """Take k training steps, one per batch; return the new state and the metrics of each step.

    Images x are uint8 (k, n, h, w, c); labels y are class numbers int32 (k, n), or distributions over the classes
    (k, n, v). Sequences x are tokens uint8 (k, n, t), labelled with the token that follows each of them.
    The metrics ``loss``, ``correct`` and ``lr`` have shape (k,). The old state is donated: use the new one.
    ValueError for any other images and labels: see ``numpy_nn.batch``.
    """
    carry, metrics = state.train_chunk(state.carry, *checked(state, x, y, STEPS))
    return replace(state, carry=carry), metrics


def eval_batch(state: State, x: np.ndarray, y: np.ndarray) -> Metrics:
    """Return sums over a batch: ``loss_sum``, ``correct``, ``count``; labels below zero are padding, not counted."""
    return state.evaluate(state.carry, *checked(state, x, y))


def logits(state: State, x: np.ndarray) -> Array:
    """Return the outputs of the network in evaluation mode: (n, v) for images, (n, t, v) for tokens (n, t)."""
    return state.forward(state.carry, state.batches.images(x))


def checked(state: State, x: Any, y: Any, axes: tuple[str, ...] = ONE) -> tuple[Any, Any]:
    """Return images and labels that every track accepts; those of a DeviceDataset were checked when it was made."""
    placed = all(isinstance(each, Array) and state.devices[0].platform != "cpu" for each in (x, y))
    return (x, y) if placed else state.batches.pairs(x, y, axes)


def to_snapshot(state: State) -> Tree:
    """Copy the training state to the snapshot format, which every track reads."""
    opt = optim.read(state.carry["opt"], state.slots)
    return interop.to_numpy({**state.carry, "opt": opt})


def synchronize(state: State) -> None:
    """Wait until every array of the state has been computed."""
    jax.block_until_ready(state.carry)


def place_dataset(state: State, x: np.ndarray, y: np.ndarray) -> DeviceDataset | None:
    """Copy a dataset to the accelerator that trains; None on a CPU or with several devices."""
    x, y = state.batches.pairs(x, y)
    device, *others = state.devices
    return None if others or device.platform == "cpu" else DeviceDataset(*jax.device_put((x, y), device))


def device_facts(state: State) -> dict[str, Any]:
    """Return ``hardware``, ``matmul_precision``, and ``peak_device_mb`` in units of 2²⁰ bytes (None on a CPU)."""
    return facts(state.devices, state.precision)

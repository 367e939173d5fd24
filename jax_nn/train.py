"""Training with JAX: one pure step, and transforms of it.

    step(carry, batch) -> (carry, metrics)        pure: what goes in decides what comes out
    lax.scan(step, carry, (x, y))                 k steps in one program
    jax.jit(..., donate_argnums=0)                compiled once, the old state's memory reused for the new
    jax.pmap(..., "devices")                      on several devices at once: see ``parallel``

The eight functions are the same in ``numpy_nn.train`` and ``torch_nn.train``:

    state = init_state(snapshot, model="mlp", ...)
    state, metrics = train_steps(state, x, y)       # x uint8 (k, n, h, w, c), y int32 (k, n)
    metrics = eval_batch(state, x, y)               # sums and counts
    outputs = logits(state, x)                      # (n, classes)
    snapshot = to_snapshot(state)
    synchronize(state)
    images = resident(state, x, y)                  # a dataset on an accelerator, else None
    facts = device_facts(state)                     # what computed, how precisely, in how much memory
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

from jax_nn import interop, optim
from jax_nn.devices import Resident, choose, compiler_options, facts, in_full
from jax_nn.losses import LOSSES, correct
from jax_nn.models import MODELS
from jax_nn.norm import BatchNorm
from jax_nn.parallel import accumulated, averaged, axis_of, compiled, on_each, spread
from jax_nn.precision import KEPT, in_bfloat16
from numpy_nn.tree import Tree, first_average, frozen_norms, rate_factors, require_same

Carry = dict[str, Any]  # "params", "stats", "opt", "step", perhaps "ema": all that changes from step to step

KNOWN: dict[str, Collection[str]] = {
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": optim.OPTIMIZERS,
    "schedule": optim.SCHEDULES,
    "precision": KEPT,
}


@dataclass(frozen=True)
class State:
    """What changes (``carry``), and the compiled programs that change it."""

    carry: Carry
    train_chunk: Callable[[Carry, Array, Array], tuple[Carry, dict[str, Array]]]
    evaluate: Callable[[Carry, Array, Array], dict[str, Array]]
    forward: Callable[[Carry, Array], Array]
    memory: dict[str, str]
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
    """Build a state from a snapshot: a fresh start and a resumed run are the same call.

    The arguments are those of ``numpy_nn.train.init_state``, and ``device``, "cpu", "gpu", "gpu:1" or "auto", a GPU
    or else the CPU. ``parallel`` is how a step runs on several ``devices``, by "pmap", "shard_map" or "jit" (see
    ``parallel``). XLA sizes its thread pool when JAX starts, by the CPUs it may run on, so ``threads`` is for whoever
    starts the process to enforce.
    """
    require_known(model=model, loss=loss, optimizer=optimizer, schedule=schedule, precision=precision)
    if precision == "float64" and not jax.config.jax_enable_x64:
        raise ValueError("float64 needs jax.config.update('jax_enable_x64', True) before the first array")
    if accumulate < 1:
        raise ValueError(f"accumulate {accumulate}: a batch is at least 1 micro-batch")
    chosen = choose(device, devices)
    network = shapes_only(model, model_args or {}, snapshot, precision)
    lr = optim.SCHEDULES[schedule](**schedule_args)
    factors = rate_factors(snapshot["params"], lr_scale)
    before = int(snapshot.get("step", 0)) - int(snapshot.get("opt", {}).get("count", 0))
    by_count = partial(optim.later, lr, before)
    tx = optim.make(optimizer, by_count, factors=factors if lr_scale else None, **(optimizer_args or {}))
    memory = optim.OPTIMIZERS[optimizer][1]
    dtype = KEPT[precision]
    pixels = jnp.asarray(mean, dtype), jnp.asarray(std, dtype)
    loss_fn = partial(LOSSES[loss], **(loss_args or {}))
    frozen = frozen_norms(snapshot.get("stats", {}), factors)
    axis = axis_of(chosen, parallel)
    step = make_step(network, loss_fn, tx, lr, *pixels, accumulate=accumulate, decay=ema, frozen=frozen, axis=axis)
    forward = spread(in_full(make_forward(network, *pixels)), chosen)
    options = compiler_options(chosen)
    return State(
        carry=on_each(first_carry(snapshot, tx, memory, dtype, ema), chosen),
        train_chunk=compiled(in_full(step), chosen, parallel, accumulate),
        evaluate=jax.jit(make_evaluate(forward, loss_fn), compiler_options=options),
        forward=jax.jit(forward, compiler_options=options),
        memory=memory,
        devices=chosen,
        precision=precision,
    )


def require_known(**names: str) -> None:
    """Raise ValueError for a name that is not in the table of its kind, with the names that are."""
    for kind, name in names.items():
        if name not in KNOWN[kind]:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(KNOWN[kind])}")


def shapes_only(model: str, model_args: Mapping[str, Any], snapshot: Tree, precision: str) -> nnx.Module:
    """The network without values, which come from the snapshot: ValueError if that has other names or shapes."""
    network = nnx.eval_shape(lambda: MODELS[model](**model_args, rngs=nnx.Rngs(0)))
    if precision == "bfloat16":
        in_bfloat16(network)
    _, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
    require_same(interop.names(nnx.to_pure_dict(params)), snapshot["params"])
    require_same(interop.names(nnx.to_pure_dict(stats)), snapshot.get("stats", {}), what="stats")
    return network


def first_carry(
    snapshot: Tree, tx: optax.GradientTransformation, memory: dict[str, str], dtype: str, ema: float | None
) -> Carry:
    """What the snapshot says, on the device; what it does not say (optimizer state, step, average) as at step 0."""
    carry: Carry = {
        "params": interop.to_jax(snapshot["params"], dtype),
        "stats": interop.to_jax(snapshot.get("stats", {}), dtype),
        "step": jnp.int32(snapshot.get("step", 0)),
    }
    carry["opt"] = jax.jit(tx.init)(carry["params"])  # one program, not one for each shape
    if "opt" in snapshot:
        fresh = interop.to_numpy(optim.read(carry["opt"], memory))
        require_same(fresh, snapshot["opt"], what="optimizer state")
        carry["opt"] = optim.write(carry["opt"], interop.to_jax(snapshot["opt"], dtype), memory)
    if average := first_average(snapshot, ema):
        carry["ema"] = interop.to_jax(average, dtype)
    return carry


def preprocess(x: Array, mean: Array, std: Array) -> Array:
    """Bytes to numbers: (x/255 - mean)/std, per channel."""
    return x.astype(mean.dtype) * (1 / (255 * std)) - mean / std


def make_step(
    network: nnx.Module,
    loss: Callable[[Array, Array], Array],
    tx: optax.GradientTransformation,
    lr: optax.Schedule,
    mean: Array,
    std: Array,
    *,
    accumulate: int = 1,
    decay: float | None = None,
    frozen: Collection[str] = (),
    axis: str | None = None,
) -> Callable[[Carry, tuple[Array, Array]], tuple[Carry, dict[str, Array]]]:
    """The training step as a pure function, ready for jit, scan or pmap; norms at ``frozen`` paths stay as used.

    With an ``axis`` its batch is one of the equal shards along it, and the update that of the whole batch.
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
        outputs = model(preprocess(x, mean, std))
        return loss(outputs, y), (nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), correct(outputs, y))

    loss_and_grads = averaged(accumulated(jax.value_and_grad(loss_fn, has_aux=True), accumulate), axis)

    def step(carry: Carry, batch: tuple[Array, Array]) -> tuple[Carry, dict[str, Array]]:
        params = carry["params"]
        (value, (stats, right)), grads = loss_and_grads(params, carry["stats"], *batch)
        updates, opt = tx.update(grads, carry["opt"], params)
        new = {
            "params": optax.apply_updates(params, updates),
            "stats": stats,
            "opt": opt,
            "step": carry["step"] + 1,
        }
        if decay is not None:  # ema ← d ema + (1 - d) p
            new["ema"] = optax.incremental_update(new["params"], carry["ema"], 1 - decay)
        return new, {"loss": value, "correct": right, "lr": jnp.asarray(lr(carry["step"]), value.dtype)}

    return step


def make_forward(network: nnx.Module, mean: Array, std: Array) -> Callable[[Carry, Array], Array]:
    """The network as it is used, as a pure function of its state and the images."""
    network.eval()
    graphdef, *_ = nnx.split(network, nnx.Param, nnx.BatchStat)

    def forward(carry: Carry, x: Array) -> Array:
        params = carry.get("ema", carry["params"])
        return nnx.merge(graphdef, params, carry["stats"], copy=True)(preprocess(x, mean, std))

    return forward


def make_evaluate(
    forward: Callable[[Carry, Array], Array], loss: Callable[[Array, Array], Array]
) -> Callable[[Carry, Array, Array], dict[str, Array]]:
    """Sums over a batch, as a pure function of the state, the images and the labels."""

    def evaluate(carry: Carry, x: Array, y: Array) -> dict[str, Array]:
        outputs, count = forward(carry, x), (y >= 0).sum()
        return {"loss_sum": loss(outputs, y) * count, "correct": correct(outputs, y), "count": count}

    return evaluate


def train_steps(state: State, x: np.ndarray | Array, y: np.ndarray | Array) -> tuple[State, dict[str, Array]]:
    """Take k steps, one per batch; metrics ``loss``, ``correct`` and ``lr`` have shape (k,).

    Labels y are class numbers (k, n), or distributions over the classes (k, n, v).
    """
    carry, metrics = state.train_chunk(state.carry, x, y)
    return replace(state, carry=carry), metrics


def resident(state: State, x: np.ndarray, y: np.ndarray) -> Resident | None:
    """A dataset where the state computes, to be indexed by numbers (k, n); None on a CPU, and on several devices."""
    device, *others = state.devices
    return None if others or device.platform == "cpu" else Resident(*jax.device_put((x, y), device))


def eval_batch(state: State, x: np.ndarray, y: np.ndarray) -> dict[str, Array]:
    """Sums over a batch: ``loss_sum``, ``correct``, ``count``; labels below zero are padding and do not count."""
    return state.evaluate(state.carry, x, y)


def logits(state: State, x: np.ndarray) -> Array:
    """Outputs of the network as it is used (not as it is trained)."""
    return state.forward(state.carry, x)


def to_snapshot(state: State) -> Tree:
    """Copy of the training state in the form that every track reads."""
    opt = optim.read(state.carry["opt"], state.memory)
    return interop.to_numpy({**state.carry, "opt": opt})


def synchronize(state: State) -> None:
    """Return when every array of the state has been computed."""
    jax.block_until_ready(state.carry)


def device_facts(state: State) -> dict[str, Any]:
    """What computed (``hardware``), how precisely (``products``), and ``peak_device_mb``, None on a CPU."""
    return facts(state.devices, state.precision)

"""Training with NumPy: forward, backward, update; nothing hidden.

The eight functions are the same in ``jax_nn.train`` and ``torch_nn.train``:

    state = init_state(snapshot, model="mlp", ...)
    state, metrics = train_steps(state, x, y)       # x uint8 (k, n, h, w, c), y int32 (k, n)
    metrics = eval_batch(state, x, y)               # sums and counts
    outputs = logits(state, x)                      # (n, classes)
    snapshot = to_snapshot(state)
    synchronize(state)
    dataset = place_dataset(state, x, y)            # the dataset on an accelerator, else None
    facts = device_facts(state)                     # what computed, how precisely, in how much memory
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from numpy_nn import optim, parallel
from numpy_nn.losses import LOSSES, Labels, correct
from numpy_nn.models import MODELS
from numpy_nn.norm import freeze
from numpy_nn.shapes import Array, Float, Int, UInt8
from numpy_nn.tree import Tree, cast, first_average, frozen_norms, rate_factors, require_same, tree_map

KNOWN = {"model": MODELS, "loss": LOSSES, "optimizer": optim.OPTIMIZERS, "schedule": optim.SCHEDULES}
LossAndGrads = tuple[float, int, Tree, Tree]  # loss, number of correct answers, running statistics, gradients


@dataclass(frozen=True)
class State:
    """Everything a step needs; the arrays in ``params``, ``opt`` and ``ema`` are updated in place."""

    model: Any
    params: Tree
    stats: Tree
    opt: Tree
    ema: Tree  # average of the parameters; {} where none is kept
    step: int
    loss: tuple[Callable[..., Any], Callable[..., Any]]  # forward and backward
    optimizer: dict[str, Any]  # keyword arguments of optim.update
    schedule: optim.Schedule
    decay: float  # of the average
    accumulate: int
    mean: Float[Array, " c"]
    std: Float[Array, " c"]
    group: parallel.Group  # the processes that take a step together


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
    devices: int = 1,
    threads: int = 1,
    precision: str = "float32",
) -> State:
    """Build a state from a snapshot: a fresh start and a resumed run are the same call.

    Args:
        snapshot: ``params`` and ``stats``; ``opt`` and ``step`` too when resuming.
        model, model_args: a name in ``MODELS`` and its keyword arguments.
        loss, loss_args: a name in ``LOSSES`` and its keyword arguments (``label_smoothing``, …).
        optimizer, optimizer_args: a name in ``optim.OPTIMIZERS``; ``weight_decay``, ``clip_norm`` and its constants.
        schedule, schedule_args: a name in ``optim.SCHEDULES``; ``lr``, ``steps`` (of the whole run) and its constants.
        lr_scale: learning rates of parts of the network, as factors of the schedule's: ``{"convs": 0.1}``. The longest
            prefix of a parameter's path decides, "" being a prefix of all. 0 freezes: the parameter gets no update,
            no decay, and no say in ``clip_norm``, its moments stay; a batch norm that is frozen whole normalises
            by its running statistics, in training too, and they stay.
        accumulate: micro-batches that a batch is cut into, computed one after the other for one update in less memory.
            Batch norm then has the statistics of each micro-batch, and is another function; all else is the same.
        ema: decay d of an average of the parameters, kept beside them and used for all but training:
            ema ← d ema + (1 - d) p after each update. The running statistics stay those of the parameters.
        mean, std: per channel, of pixels scaled to 0..1.
        seed: of whatever is random inside a step.
        devices: like ``threads``, and instead of it; but a batch that does not divide by it is refused.
        threads: cores to use, a process for each, which takes its shard of a batch (see ``parallel``). More than 1
            expects a single-threaded matrix library: OPENBLAS_NUM_THREADS=1 before NumPy is imported.
        precision: "float32" or "float64"; the other tracks also multiply in "bfloat16".
    """
    require_known(model=model, loss=loss, optimizer=optimizer, schedule=schedule)
    if precision not in ("float32", "float64"):
        raise ValueError(f"NumPy has no {precision} arithmetic: choose float32 or float64, or another track")
    for name, number in {"accumulate": accumulate, "devices": devices, "threads": threads}.items():
        if number < 1:
            raise ValueError(f"{name} {number}: at least 1")
    loss_forward, loss_backward = LOSSES[loss]
    network = MODELS[model](**(model_args or {}))
    template = network.init(np.random.default_rng(0))
    for part in ("params", "stats"):
        require_same(template[part], snapshot.get(part, {}), what=part)
    ordered = {part: tree_map(lambda _, leaf: leaf, template[part], snapshot.get(part, {})) for part in template}
    params = cast(ordered["params"], precision)
    factors = rate_factors(params, lr_scale)
    stats = cast(ordered["stats"], precision)
    opt = optim.init(params, optimizer)
    if "opt" in snapshot:
        require_same(opt, snapshot["opt"], what="optimizer state")
        opt = cast(snapshot["opt"], precision)
    state = State(
        model=network,
        params=params,
        stats=freeze(stats, frozen_norms(stats, factors)),
        opt=opt,
        ema=cast(first_average(snapshot, ema), precision),
        step=int(snapshot.get("step", 0)),
        loss=(partial(loss_forward, **(loss_args or {})), loss_backward),
        optimizer={"optimizer": optimizer, "factors": factors, **(optimizer_args or {})},
        schedule=optim.schedule(schedule, **schedule_args),
        decay=ema or 0.0,
        accumulate=accumulate,
        mean=np.asarray(mean, precision),
        std=np.asarray(std, precision),
        group=parallel.Group(),
    )
    processes = devices if devices > 1 else threads
    return parallel.spread(state, processes, exact=devices > 1) if processes > 1 else state


def require_known(**names: str) -> None:
    """Raise ValueError for a name that is not in the table of its kind, with the names that are."""
    for kind, name in names.items():
        if name not in KNOWN[kind]:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(KNOWN[kind])}")


def preprocess(
    x: UInt8[Array, "n h w c"], mean: Float[Array, " c"], std: Float[Array, " c"]
) -> Float[Array, "n h w c"]:
    """Bytes to numbers: (x/255 - mean)/std, per channel."""
    pixels = x.astype(mean.dtype)
    pixels *= 1 / (255 * std)
    pixels -= mean / std
    return pixels


def loss_and_grads(
    state: State, x: UInt8[Array, "n h w c"], y: Labels, dloss: float = 1.0, **together: Any
) -> LossAndGrads:
    """One forward and one backward pass: loss · dloss, correct answers, running statistics, gradients · dloss.

    ``together`` is what batch norm needs to know of the other shards: see ``parallel.run_together``.
    """
    loss_forward, loss_backward = state.loss
    pixels = preprocess(x, state.mean, state.std)
    outputs, stats, cache = state.model.forward(state.params, state.stats, pixels, train=True, **together)
    loss, loss_cache = loss_forward(outputs, y)
    doutputs = loss_backward(dloss, loss_cache)
    grads = state.model.backward(doutputs, cache)
    return dloss * float(loss), correct(outputs, y), stats, grads


def loss_and_grads_of_shard(state: State, x: UInt8[Array, "n h w c"], y: Labels, dloss: float = 1.0) -> LossAndGrads:
    """``loss_and_grads`` of this process's shard of a batch, times its share of it: ∇ = Σ nᵣ/n ∇ᵣ."""
    group, whole = state.group, bool(state.stats)  # batch norm has statistics, and wants those of the whole batch
    xs, ys = (group.shards(array, equal=whole) for array in (x, y))
    if group.rank >= len(ys):  # the first process takes a batch alone that cannot be split
        return 0.0, 0, state.stats, tree_map(np.zeros_like, state.params)
    together = {"all_mean": group.all_mean, "shards": len(ys)} if whole and len(ys) > 1 else {}
    images, labels = xs[group.rank], ys[group.rank]
    return loss_and_grads(state, images, labels, dloss * len(labels) / len(y), **together)


def over_micro_batches(state: State, x: UInt8[Array, "n h w c"], y: Labels) -> LossAndGrads:
    """The same of m = ``accumulate`` equal parts of a batch, one after the other: ∇ = 1/m Σ ∇ᵢ."""
    m = state.accumulate
    if m == 1:
        return loss_and_grads_of_shard(state, x, y)
    if len(y) % m:
        raise ValueError(f"a batch of {len(y)} is not {m} equal micro-batches: accumulate must divide it")
    loss, right, total = 0.0, 0, tree_map(np.zeros_like, state.params)
    for images, labels in zip(np.split(x, m), np.split(y, m), strict=True):
        part_loss, part_right, stats, grads = loss_and_grads_of_shard(state, images, labels, 1 / m)
        loss, right = loss + part_loss, right + part_right
        tree_map(lambda a, b: np.add(a, b, out=a), total, grads)
        state = replace(state, stats=stats)
    return loss, right, state.stats, total


def take_steps(
    state: State, x: UInt8[Array, "k n h w c"], y: Int[Array, "k n"] | Float[Array, "k n v"]
) -> tuple[State, np.ndarray]:
    """k steps as each process of the group takes them: the new state, and its share of losses and right answers (2, k).

    The gradients of all are summed; each process updates its part of the parameters with its part of the sum.
    """
    group, shares = state.group, []
    params, opt, ema = group.part(state.params), group.part(state.opt), group.part(state.ema)
    for images, labels in zip(x, y, strict=True):
        loss, right, stats, grads = over_micro_batches(state, images, labels)
        own = group.reduce_scatter(grads)
        optim.update(params, own, opt, lr=state.schedule(state.step), all_sum=group.all_sum, **state.optimizer)
        optim.average(ema, params, state.decay)
        group.wait()
        state = replace(state, stats=stats, step=state.step + 1)
        shares.append((loss, right))
    return state, np.array(shares).T


def train_steps(
    state: State, x: UInt8[Array, "k n h w c"], y: Int[Array, "k n"] | Float[Array, "k n v"]
) -> tuple[State, dict[str, np.ndarray]]:
    """Take k steps, one per batch; metrics ``loss``, ``correct`` and ``lr`` have shape (k,).

    Labels y are class numbers (k, n), or distributions over the classes (k, n, v).
    """
    lr = np.array([state.schedule(step) for step in range(state.step, state.step + len(x))])
    with state.group.call("take_steps", state, x, y) as shares:
        state, own = take_steps(state, x, y)
    loss, right = sum(shares, own)
    return state, {"loss": loss, "correct": right.astype(int), "lr": lr}


def place_dataset(state: State, x: np.ndarray, y: np.ndarray) -> None:
    """Nothing to move: NumPy computes where the dataset is."""


def evaluate(state: State, x: UInt8[Array, "n h w c"], y: Int[Array, " n"]) -> np.ndarray:
    """This process's share of: sum of the losses, right answers, images that count."""
    xs, ys = (parallel.shards(array, state.group.size) for array in (x, y))
    if state.group.rank >= len(ys):
        return np.zeros(3)
    labels = ys[state.group.rank]
    outputs = logits(state, xs[state.group.rank])
    loss, _ = state.loss[0](outputs, labels)
    count = int((labels >= 0).sum())
    return np.array([float(loss) * count, correct(outputs, labels), count])


def eval_batch(state: State, x: UInt8[Array, "n h w c"], y: Int[Array, " n"]) -> dict[str, float]:
    """Sums over a batch: ``loss_sum``, ``correct``, ``count``; labels below zero are padding and do not count."""
    with state.group.call("evaluate", state, x, y) as shares:
        own = evaluate(state, x, y)
    loss_sum, right, count = sum(shares, own)
    return {"loss_sum": float(loss_sum), "correct": int(right), "count": int(count)}


def logits(state: State, x: UInt8[Array, "n h w c"]) -> Float[Array, "n v"]:
    """Outputs of the network as it is used (not as it is trained)."""
    params = state.ema or state.params
    outputs, _, _ = state.model.forward(params, state.stats, preprocess(x, state.mean, state.std), train=False)
    return outputs


def to_snapshot(state: State) -> Tree:
    """Copy of the training state in the form that every track reads."""
    arrays = {"params": state.params, "stats": state.stats, "opt": state.opt, "step": np.int32(state.step)}
    return tree_map(np.copy, arrays | ({"ema": state.ema} if state.ema else {}))


def synchronize(state: State) -> None:
    """Nothing to wait for: when a NumPy call returns, it is done."""


def device_facts(state: State) -> dict[str, Any]:
    """What computed (``hardware``), how precisely (``matmul_precision``), and ``peak_device_mb``, None on a CPU."""
    return {"hardware": "cpu", "matmul_precision": str(state.mean.dtype), "peak_device_mb": None}

"""Training with NumPy: loss and gradients, then the update, with every function written out.

``loss_and_grads`` is the forward and the backward pass of a batch. ``accumulated`` wraps it for micro-batches, and
``parallel`` has wrappers for several processes; on one core, all of them return the function that they are given.

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

from numpy_nn import models, optim, parallel
from numpy_nn.batch import STEPS, Batches
from numpy_nn.losses import LOSSES, correct, rows
from numpy_nn.norm import EVAL, TRAIN, Mode, freeze
from numpy_nn.shapes import Array, Float, Int, UInt8
from numpy_nn.tree import Tree, cast, first_average, frozen_norms, rate_factors, require_same, tree_map

KNOWN: dict[str, Mapping[str, Any]] = {"loss": LOSSES, "optimizer": optim.OPTIMIZERS, "schedule": optim.SCHEDULES}
Inputs = UInt8[Array, "n h w c"] | UInt8[Array, "n t"]  # images, or sequences of tokens
ClassNumbers = Int[Array, "n *t"]  # one for an image, one for each token of a sequence
Labels = ClassNumbers | Float[Array, "n v"]  # or distributions over the classes
LossAndGrads = tuple[float, int, Tree, Tree]  # loss, number of correct answers, running statistics, gradients


@dataclass(frozen=True)
class State:
    """Everything a step needs; the arrays in ``params``, ``opt`` and ``ema`` are updated in place."""

    model: Any
    params: Tree
    stats: Tree
    opt: Tree
    ema: Tree  # average of the parameters; {} if none is kept
    step: int
    loss: tuple[Callable[..., Any], Callable[..., Any]]  # forward and backward
    optimizer: dict[str, Any]  # keyword arguments of optim.update
    schedule: optim.Schedule
    decay: float  # of the average
    accumulate: int
    mean: Float[Array, " c"]
    std: Float[Array, " c"]
    batches: Batches  # what it accepts as images and labels
    group: parallel.Group  # the processes that take a step together; usually one


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
        model, model_args: a name in ``MODELS``, or the path of a file with a class ``Numpy``; its keyword arguments.
        loss, loss_args: a name in ``LOSSES`` and its keyword arguments (``label_smoothing``, …).
        optimizer, optimizer_args: a name in ``optim.OPTIMIZERS``; ``weight_decay``, ``clip_norm``, hyperparameters.
        schedule, schedule_args: a name in ``optim.SCHEDULES``; ``lr``, ``steps`` (of the whole run), hyperparameters.
        lr_scale: learning rates of parts of the network, as factors of the schedule's: ``{"convs": 0.1}``. The longest
            prefix of a parameter's path decides; "" is a prefix of all. 0 freezes: the parameter is excluded from
            updates, weight decay and ``clip_norm``, and its optimizer slots stay. A batch norm whose parameters are
            all frozen normalises by its running statistics, in training too, and does not change them.
        accumulate: micro-batches that a batch is split into, computed one after the other for one update, in less
            memory. Batch norm then uses the statistics of each micro-batch, so only networks without it train alike.
        ema: decay d of an average of the parameters, which evaluation uses: ema ← d ema + (1 - d) p after each update.
            The running statistics are those of the parameters.
        mean, std: per channel, of pixels scaled to 0..1.
        seed: for whatever is random inside a step; nothing is, in these models.
        devices: like ``threads``, and instead of it, but a batch that it does not divide is refused.
        threads: cores to use, a process for each, which computes a shard of the batch (see ``parallel``). More than 1
            needs a single-threaded matrix library: set OPENBLAS_NUM_THREADS=1 before NumPy is imported.
        precision: "float32" or "float64"; the other tracks also multiply in "bfloat16".

    Raises ValueError for unknown names, numbers out of range, and a snapshot that does not fit the model.
    """
    require_known(loss=loss, optimizer=optimizer, schedule=schedule)
    if precision not in ("float32", "float64"):
        raise ValueError(f"NumPy has no {precision} arithmetic: choose float32 or float64, or another track")
    for name, number in {"accumulate": accumulate, "devices": devices, "threads": threads}.items():
        if number < 1:
            raise ValueError(f"{name} {number}: it must be at least 1")
    loss_forward, loss_backward = LOSSES[loss]
    network = models.get(model)(**(model_args or {}))
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
        batches=Batches.of(models.get(model), model_args or {}),
        group=parallel.Group(),
    )
    processes = devices if devices > 1 else threads
    return parallel.start(state, processes, exact=devices > 1) if processes > 1 else state


def require_known(**names: str) -> None:
    """Raise ValueError for a name that is not in the table of its kind, with the names that are."""
    for kind, name in names.items():
        if name not in KNOWN[kind]:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(KNOWN[kind])}")


def preprocess(
    x: Inputs, mean: Float[Array, " c"], std: Float[Array, " c"]
) -> Float[Array, "n h w c"] | Int[Array, "n t"]:
    """Bytes to numbers: (x/255 - mean)/std, per channel, in the dtype of ``mean``; tokens become int32."""
    if x.ndim == 2:
        return x.astype(np.int32)
    pixels = x.astype(mean.dtype)
    pixels *= 1 / (255 * std)
    pixels -= mean / std
    return pixels


def loss_and_grads(state: State, x: Inputs, y: Labels, dloss: float = 1.0, mode: Mode = TRAIN) -> LossAndGrads:
    """One forward and one backward pass.

    Returns loss · dloss, the number of correct answers, the new running statistics and the gradients of loss · dloss.
    """
    loss_forward, loss_backward = state.loss
    pixels = preprocess(x, state.mean, state.std)
    outputs, stats, cache = state.model.forward(state.params, state.stats, pixels, mode)
    loss, loss_cache = loss_forward(*rows(outputs, y))
    doutputs = loss_backward(dloss, loss_cache).reshape(outputs.shape)
    grads = state.model.backward(doutputs, cache)
    return dloss * float(loss), correct(*rows(outputs, y)), stats, grads


def accumulated(loss_and_grads: Callable[..., LossAndGrads], m: int) -> Callable[..., LossAndGrads]:
    """``loss_and_grads`` of a batch in m equal micro-batches, one after the other, in less memory: ∇ = 1/m Σ ∇ᵢ."""
    if m == 1:
        return loss_and_grads

    def over_micro_batches(state: State, x: Inputs, y: Labels) -> LossAndGrads:
        if len(y) % m:
            raise ValueError(f"a batch of {len(y)} is not {m} equal micro-batches: accumulate must divide it")
        loss, right, grads = 0.0, 0, tree_map(np.zeros_like, state.params)
        for images, labels in zip(np.split(x, m), np.split(y, m), strict=True):
            micro_loss, micro_right, stats, micro_grads = loss_and_grads(state, images, labels, 1 / m)
            loss, right = loss + micro_loss, right + micro_right
            tree_map(lambda a, b: np.add(a, b, out=a), grads, micro_grads)
            state = replace(state, stats=stats)
        return loss, right, state.stats, grads

    return over_micro_batches


def update(state: State, grads: Tree) -> None:
    """Update the parameters, the optimizer's slots and the average of the parameters, in place."""
    lr = state.schedule(state.step)
    optim.update(state.params, grads, state.opt, lr=lr, **state.optimizer)
    optim.average(state.ema, state.params, state.decay)


def train_steps(state: State, x: np.ndarray, y: np.ndarray) -> tuple[State, dict[str, np.ndarray]]:
    """Take k steps, one per batch; metrics ``loss``, ``correct`` and ``lr`` have shape (k,).

    Images x are uint8 (k, n, h, w, c), with labels y that are class numbers (k, n), or distributions over the classes
    (k, n, v). Sequences x are tokens uint8 (k, n, t), with the token that follows each of them as labels y (k, n, t).
    ValueError for any others: see ``batch``.
    """
    x, y = state.batches.pairs(x, y, STEPS)
    group = state.group  # on one core, the lines that use it change nothing
    compute = parallel.all_reduced(accumulated(parallel.sharded(loss_and_grads, group), state.accumulate), group)
    apply = parallel.sharded_update(update, group)
    metrics = []
    with group.call("train_steps", state, x, y):
        for images, labels in zip(x, y, strict=True):
            loss, right, stats, grads = compute(state, images, labels)
            apply(state, grads)
            metrics.append((loss, right, state.schedule(state.step)))
            state = replace(state, stats=stats, step=state.step + 1)
    loss, right, lr = np.array(metrics).T
    return state, {"loss": loss, "correct": right.astype(int), "lr": lr}


def place_dataset(state: State, x: np.ndarray, y: np.ndarray) -> None:
    """Nothing to move: NumPy computes where the dataset is."""


def evaluate(state: State, x: Inputs, y: ClassNumbers) -> Float[Array, " sums"]:
    """Sum of the losses, number of correct answers, number of labels that count."""
    outputs, y = rows(infer(state, x), y)
    loss, _ = state.loss[0](outputs, y)
    count = int((y >= 0).sum())
    return np.array([float(loss) * count, correct(outputs, y), count])


def eval_batch(state: State, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Sums over a batch: ``loss_sum``, ``correct``, ``count``; labels below zero are padding and do not count."""
    x, y = state.batches.pairs(x, y)
    with state.group.call("eval_batch", state, x, y):
        loss_sum, right, count = parallel.summed(evaluate, state.group)(state, x, y)
    return {"loss_sum": float(loss_sum), "correct": int(right), "count": int(count)}


def logits(state: State, x: np.ndarray) -> Float[Array, "n *t v"]:
    """Outputs of the network outside training, (n, v) for images and (n, t, v) for sequences.

    They use the averaged parameters where an average is kept.
    """
    return infer(state, state.batches.images(x))


def infer(state: State, x: Inputs) -> Float[Array, "n *t v"]:
    """The same for images, or tokens, that are checked."""
    params = state.ema or state.params
    outputs, _, _ = state.model.forward(params, state.stats, preprocess(x, state.mean, state.std), EVAL)
    return outputs


def to_snapshot(state: State) -> Tree:
    """Copy the training state in the form that every track reads."""
    arrays = {"params": state.params, "stats": state.stats, "opt": state.opt, "step": np.int32(state.step)}
    return tree_map(np.copy, arrays | ({"ema": state.ema} if state.ema else {}))


def synchronize(state: State) -> None:
    """Return at once: NumPy has computed its result when a call returns."""


def device_facts(state: State) -> dict[str, Any]:
    """What computed (``hardware``), how precisely (``matmul_precision``), and ``peak_device_mb``, None on a CPU."""
    return {"hardware": "cpu", "matmul_precision": str(state.mean.dtype), "peak_device_mb": None}

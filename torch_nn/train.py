"""Training with PyTorch: the four lines that every PyTorch user knows, k times.

The eight functions are the same in ``numpy_nn.train`` and ``jax_nn.train``:

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

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from numpy_nn.batch import STEPS, Batches
from numpy_nn.tree import Tree, first_average, frozen_norms, rate_factors
from torch_nn import interop, models, optim
from torch_nn.devices import DeviceDataset, facts, set_full_precision
from torch_nn.losses import LOSSES, correct, rows
from torch_nn.parallel import data_parallel, local_device, on_every_device, sharded
from torch_nn.precision import PARAM_DTYPES, with_bfloat16_matmuls

KNOWN: dict[str, Collection[str]] = {
    "loss": LOSSES,
    "optimizer": optim.OPTIMIZERS,
    "schedule": optim.SCHEDULES,
    "precision": PARAM_DTYPES,
}
Metrics = dict[str, Tensor]
Forward = Callable[[Tensor], Tensor]


@dataclass
class State:
    """Everything a step needs; PyTorch updates the model and the optimizer in place."""

    model: nn.Module
    frozen: list[nn.Module]  # batch norms that use their running statistics in training, too
    train_forward: Forward  # the model as training calls it: perhaps compiled, perhaps one of several replicas
    average: AveragedModel | None  # of the parameters
    eval_forward: Forward  # the average, or else the model; perhaps compiled
    optimizer: torch.optim.Optimizer
    slots: dict[str, str]  # optimizer slots: {name in a snapshot: name in torch}
    schedule: optim.Schedule
    loss: Callable[[Tensor, Tensor], Tensor]
    clip_norm: float | None
    accumulate: int
    mean: Tensor
    std: Tensor
    step: int
    first_update: int  # the step at which the optimizer started: its count of updates is step - first_update
    batches: Batches  # what it accepts as images and labels
    precision: str
    device: torch.device
    devices: int
    state_id: int = 0  # of the copies that the workers hold


@on_every_device
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
    threads: int = 1,
    precision: str = "float32",
    compile: bool = False,
) -> State:
    """Build a training state from a snapshot, to start a run or to resume one.

    The snapshot is copied. The arguments are those of ``numpy_nn.train.init_state``, and:

    Args:
        device: "cpu", "gpu", "gpu:N", or "auto": a GPU if there is one, else the CPU.
        devices: number of devices, each with a process of its own (see ``parallel``).
        threads: size of PyTorch's intra-op thread pool, divided among the devices.
        compile: whether to pass the model through torch.compile.

    Raises:
        ValueError: an unknown name, a device that is not there, or a snapshot that does not fit the model.
    """
    require_known(loss=loss, optimizer=optimizer, schedule=schedule, precision=precision)
    if accumulate < 1:
        raise ValueError(f"accumulate {accumulate}: it must be at least 1")
    torch_device, dtype = local_device(device, devices), PARAM_DTYPES[precision]
    set_full_precision(torch_device, precision)
    torch.manual_seed(seed)
    torch.set_num_threads(max(threads // devices, 1))
    network = models.get(model)(**(model_args or {})).to(torch_device, dtype, memory_format=torch.channels_last)
    interop.params_from_tree(network, snapshot["params"])
    interop.stats_from_tree(network, snapshot.get("stats", {}))

    optimizer_args = dict(optimizer_args or {})
    clip_norm = optimizer_args.pop("clip_norm", None)
    factors = rate_factors(snapshot["params"], lr_scale)
    optim.freeze(network, factors)
    torch_optimizer = optim.make(optimizer, network, factors=factors, **optimizer_args)
    slots = optim.OPTIMIZERS[optimizer][1]
    if "opt" in snapshot:
        interop.opt_from_tree(network, torch_optimizer, slots, snapshot["opt"])

    average = make_average(network, first_average(snapshot, ema), ema)
    frozen = frozen_norms(snapshot.get("stats", {}), factors)
    cuda_graphs = devices == accumulate == 1  # a graph overwrites its outputs, so gradients could not accumulate
    prepare = partial(make_forward, compile=compile, cuda_graphs=cuda_graphs, precision=precision)
    forward = prepare(network)
    step = int(snapshot.get("step", 0))
    return State(
        model=network,
        frozen=[network.get_submodule(path.replace("/", ".")) for path in frozen],
        train_forward=forward if devices == 1 else prepare(data_parallel(network)),
        average=average,
        eval_forward=forward if average is None else prepare(average),
        optimizer=torch_optimizer,
        slots=slots,
        schedule=optim.SCHEDULES[schedule](**schedule_args),
        loss=partial(LOSSES[loss], **(loss_args or {})),
        clip_norm=clip_norm,
        accumulate=accumulate,
        mean=torch.tensor(mean, dtype=dtype, device=torch_device)[:, None, None],
        std=torch.tensor(std, dtype=dtype, device=torch_device)[:, None, None],
        step=step,
        first_update=step - int(snapshot.get("opt", {}).get("count", 0)),
        batches=Batches.of(models.get(model), model_args or {}),
        precision=precision,
        device=torch_device,
        devices=devices,
    )


def require_known(**names: str) -> None:
    """Raise ValueError for a name that is not in the table of its kind; the message lists the known names."""
    for kind, name in names.items():
        if name not in KNOWN[kind]:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(KNOWN[kind])}")


def make_average(network: nn.Module, start: Tree, decay: float | None) -> AveragedModel | None:
    """Return the average of the parameters: ema ← d ema + (1 - d) p at each ``update_parameters``; None without decay.

    Its running statistics are those of the network.
    """
    if decay is None:
        return None
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    interop.params_from_tree(average.module, start)
    average.n_averaged += 1  # otherwise the first update would replace the start
    return average.eval()


def make_forward(network: nn.Module, *, compile: bool, cuda_graphs: bool, precision: str) -> Forward:
    """Return the network as a function of its input, compiled or not, with bfloat16 matmuls or not.

    With ``cuda_graphs`` a compiled network launches all kernels of a pass in one call on a GPU.
    """
    forward = torch.compile(network, mode="reduce-overhead" if cuda_graphs else "default") if compile else network
    return with_bfloat16_matmuls(forward) if precision == "bfloat16" else forward


def preprocess(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Convert bytes (n, h, w, c) to numbers (n, c, h, w): (x/255 - mean)/std; the permuted view is channels_last.

    Tokens (n, t) become int32.
    """
    if x.ndim == 2:
        return x.int()
    return x.permute(0, 3, 1, 2).to(mean.dtype).mul_(1 / (255 * std)).sub_(mean / std)


def checked(train_steps: Callable[..., Any]) -> Callable[..., Any]:
    """Extend train_steps by a check of the batches; those of a DeviceDataset were checked when it was made."""

    @wraps(train_steps)
    def train_on_checked(state: State, x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> tuple[State, Metrics]:
        placed = isinstance(x, Tensor) and isinstance(y, Tensor) and x.device.type == y.device.type != "cpu"
        return train_steps(state, *((x, y) if placed else state.batches.pairs(x, y, STEPS)))

    return train_on_checked


def to_device(state: State, x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """Move images and labels to the device; class numbers become int64, distributions the dtype of the logits."""
    labels = torch.as_tensor(y)
    dtype = state.mean.dtype if labels.is_floating_point() else torch.int64
    return torch.as_tensor(x).to(state.device), labels.to(state.device, dtype)


def micro_batches(x: Tensor, y: Tensor, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Split a batch into ``parts`` equal micro-batches; ValueError if its size is not divisible."""
    if len(y) % parts:
        raise ValueError(f"a batch of {len(y)} is not {parts} equal micro-batches: accumulate must divide it")
    return zip(x.chunk(parts), y.chunk(parts), strict=True)


@checked
@sharded
def train_steps(state: State, x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> tuple[State, Metrics]:
    """Take k training steps, one per batch; return the state, updated in place, and the metrics of each step.

    Images x are uint8 (k, n, h, w, c); labels y are class numbers int32 (k, n), or distributions over the classes
    (k, n, v). Sequences x are tokens uint8 (k, n, t), labelled with the token that follows each of them.
    The metrics ``loss``, ``correct`` and ``lr`` have shape (k,).
    ValueError for any other images and labels: see ``numpy_nn.batch``.
    """
    state.model.train()
    for norm in state.frozen:
        norm.eval()
    losses, corrects, lrs = [], [], []
    for batch in zip(*to_device(state, x, y), strict=True):
        lr = state.schedule(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]

        state.optimizer.zero_grad()
        for images, labels in micro_batches(*batch, state.accumulate):  # one by default: the whole batch
            outputs = state.train_forward(preprocess(images, state.mean, state.std))
            outputs, labels = rows(outputs, labels)
            loss = state.loss(outputs, labels) / state.accumulate
            loss.backward()
            losses.append(loss.detach())
            corrects.append(correct(outputs, labels))
        if state.clip_norm is not None:
            optim.clip_by_global_norm(state.model, state.clip_norm)
        state.optimizer.step()
        if state.average is not None:
            state.average.update_parameters(state.model)

        state.step += 1
        lrs.append(lr)
    per_step = (len(lrs), state.accumulate)
    loss_sums, correct_sums = (torch.stack(values).view(per_step).sum(dim=1) for values in (losses, corrects))
    return state, {"loss": loss_sums.cpu(), "correct": correct_sums.cpu(), "lr": torch.tensor(lrs, dtype=torch.float64)}


@torch.inference_mode()
def eval_batch(state: State, x: np.ndarray, y: np.ndarray) -> Metrics:
    """Return sums over a batch: ``loss_sum``, ``correct``, ``count``; labels below zero are padding, not counted."""
    images, labels = to_device(state, *state.batches.pairs(x, y))
    outputs, labels = rows(infer(state, images), labels)
    count = (labels >= 0).sum()
    return {"loss_sum": state.loss(outputs, labels) * count, "correct": correct(outputs, labels), "count": count}


@torch.inference_mode()
def logits(state: State, x: np.ndarray) -> Tensor:
    """Return the outputs of the network in evaluation mode: (n, v) for images, (n, t, v) for tokens (n, t)."""
    return infer(state, torch.from_numpy(state.batches.images(x)).to(state.device)).cpu()


def infer(state: State, x: Tensor) -> Tensor:
    """Return the outputs of the network in evaluation mode for images on the device; they stay there."""
    state.model.eval()
    return state.eval_forward(preprocess(x, state.mean, state.std))


def to_snapshot(state: State) -> Tree:
    """Copy the training state to the snapshot format, which every track reads."""
    snapshot = {
        "params": interop.params_to_tree(state.model),
        "stats": interop.stats_to_tree(state.model),
        "opt": interop.opt_to_tree(state.model, state.optimizer, state.slots, state.step - state.first_update),
        "step": np.int32(state.step),
    }
    return snapshot if state.average is None else snapshot | {"ema": interop.params_to_tree(state.average.module)}


def synchronize(state: State) -> None:
    """Wait until the device is idle; a CPU is idle whenever a call returns."""
    if state.device.type != "cpu":
        torch.accelerator.synchronize(state.device)


def place_dataset(state: State, x: np.ndarray, y: np.ndarray) -> DeviceDataset | None:
    """Copy a dataset to the accelerator that trains; None on a CPU or with several devices."""
    if state.devices > 1 or state.device.type == "cpu":
        return None
    x, y = state.batches.pairs(x, y)
    return DeviceDataset(torch.from_numpy(x).to(state.device), torch.from_numpy(y).to(state.device))


def device_facts(state: State) -> dict[str, Any]:
    """Return ``hardware``, ``matmul_precision``, and ``peak_device_mb`` in units of 2²⁰ bytes (None without CUDA)."""
    return facts(state.device, state.devices, state.precision)

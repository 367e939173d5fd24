"""Training with PyTorch: the four lines that every PyTorch user knows, k times.

The eight functions are the same in ``numpy_nn.train`` and ``jax_nn.train``:

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

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from numpy_nn.tree import Tree, first_average, frozen_norms, rate_factors
from torch_nn import devices as places
from torch_nn import interop, optim, parallel
from torch_nn.losses import LOSSES, correct
from torch_nn.models import MODELS
from torch_nn.precision import KEPT, in_bfloat16

KNOWN: dict[str, Collection[str]] = {
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": optim.OPTIMIZERS,
    "schedule": optim.SCHEDULES,
    "precision": KEPT,
}


@dataclass
class State:
    """Everything a step needs; PyTorch updates the model and the optimizer in place."""

    model: nn.Module
    frozen: list[nn.Module]  # norms that training leaves as they are used
    forward: Callable[[Tensor], Tensor]  # the model, or its compiled form
    average: AveragedModel | None  # of the parameters
    infer: Callable[[Tensor], Tensor]  # the network as it is used: the average, or else the model
    optimizer: torch.optim.Optimizer
    memory: dict[str, str]
    schedule: optim.Schedule
    loss: Callable[[Tensor, Tensor], Tensor]
    clip_norm: float | None
    accumulate: int
    mean: Tensor
    std: Tensor
    step: int
    start: int  # the step at which the optimizer's memory began, and its count of updates
    precision: str
    device: torch.device
    devices: int
    number: int = 0  # by which the processes of the other devices know this state


@parallel.on_every_device
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
    """Build a state from a snapshot: a fresh start and a resumed run are the same call.

    The arguments are those of ``numpy_nn.train.init_state``, and ``device``, "cpu", "gpu", "gpu:1" or "auto", a GPU
    or else the CPU. Each of several ``devices`` has a process of its own (see ``parallel``). ``threads`` sizes
    PyTorch's intra-op pool, shared between the devices; ``compile`` passes the model through torch.compile.
    """
    require_known(model=model, loss=loss, optimizer=optimizer, schedule=schedule, precision=precision)
    if accumulate < 1:
        raise ValueError(f"accumulate {accumulate}: a batch is at least 1 micro-batch")
    place, kept = parallel.place(device, devices), KEPT[precision]
    places.in_full(place, precision)
    torch.manual_seed(seed)
    torch.set_num_threads(max(threads // devices, 1))
    network = MODELS[model](**(model_args or {})).to(place, kept, memory_format=torch.channels_last)
    interop.params_from_tree(network, snapshot["params"])
    interop.stats_from_tree(network, snapshot.get("stats", {}))
    optimizer_args = dict(optimizer_args or {})
    clip_norm = optimizer_args.pop("clip_norm", None)
    factors = rate_factors(snapshot["params"], lr_scale)
    optim.freeze(network, factors)
    torch_optimizer = optim.make(optimizer, network, factors=factors, **optimizer_args)
    memory = optim.OPTIMIZERS[optimizer][1]
    if "opt" in snapshot:
        interop.opt_from_tree(network, torch_optimizer, memory, snapshot["opt"])
    step = int(snapshot.get("step", 0))
    average = averaged(network, first_average(snapshot, ema), ema)
    frozen = frozen_norms(snapshot.get("stats", {}), factors)
    graphs = devices == accumulate == 1  # a graph writes where it wrote before: gradients that are still to be added to
    prepare = partial(prepared, compile=compile, graphs=graphs, precision=precision)
    alone = prepare(network)
    return State(
        model=network,
        frozen=[network.get_submodule(path.replace("/", ".")) for path in frozen],
        forward=alone if devices == 1 else prepare(parallel.share(network)),
        average=average,
        infer=alone if average is None else prepare(average),
        optimizer=torch_optimizer,
        memory=memory,
        schedule=optim.SCHEDULES[schedule](**schedule_args),
        loss=partial(LOSSES[loss], **(loss_args or {})),
        clip_norm=clip_norm,
        accumulate=accumulate,
        mean=torch.tensor(mean, dtype=kept, device=place)[:, None, None],
        std=torch.tensor(std, dtype=kept, device=place)[:, None, None],
        step=step,
        start=step - int(snapshot.get("opt", {}).get("count", 0)),
        precision=precision,
        device=place,
        devices=devices,
    )


def require_known(**names: str) -> None:
    """Raise ValueError for a name that is not in the table of its kind, with the names that are."""
    for kind, name in names.items():
        if name not in KNOWN[kind]:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(KNOWN[kind])}")


def averaged(network: nn.Module, start: Tree, decay: float | None) -> AveragedModel | None:
    """ema ← d ema + (1 - d) p at each ``update_parameters``; running statistics are copied from the network."""
    if decay is None:
        return None
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    interop.params_from_tree(average.module, start)
    average.n_averaged += 1  # the very first update would replace the start
    return average.eval()


def prepared(network: nn.Module, *, compile: bool, graphs: bool, precision: str) -> Callable[[Tensor], Tensor]:
    """The network as the steps call it: compiled or not, with products of bfloat16 numbers or not.

    ``graphs``: a GPU may replay all kernels of a pass at one call (CUDA graphs), instead of being asked for each.
    """
    forward = torch.compile(network, mode="reduce-overhead" if graphs else "default") if compile else network
    return in_bfloat16(forward) if precision == "bfloat16" else forward


def to_device(state: State, x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """Images as bytes, and labels as PyTorch's losses want them: int64, or distributions of the logits' dtype."""
    labels = torch.as_tensor(y)
    dtype = state.mean.dtype if labels.is_floating_point() else torch.int64
    return torch.as_tensor(x).to(state.device), labels.to(state.device, dtype)


def preprocess(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bytes (n, h, w, c) to numbers (n, c, h, w): (x/255 - mean)/std; the permuted view is channels_last."""
    return x.permute(0, 3, 1, 2).to(mean.dtype).mul_(1 / (255 * std)).sub_(mean / std)


def micro_batches(x: Tensor, y: Tensor, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a batch into ``parts`` equal ones."""
    if len(y) % parts:
        raise ValueError(f"a batch of {len(y)} is not {parts} equal micro-batches: accumulate must divide it")
    return zip(x.chunk(parts), y.chunk(parts), strict=True)


@parallel.each_its_shard
def train_steps(state: State, x: np.ndarray | Tensor, y: np.ndarray | Tensor) -> tuple[State, dict[str, Tensor]]:
    """Take k steps, one per batch; metrics ``loss``, ``correct`` and ``lr`` have shape (k,).

    Labels y are class numbers (k, n), or distributions over the classes (k, n, v).
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
        for images, labels in micro_batches(*batch, state.accumulate):  # one, if not told otherwise
            outputs = state.forward(preprocess(images, state.mean, state.std))
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
    loss_sums, correct_sums = (torch.stack(parts).view(per_step).sum(dim=1) for parts in (losses, corrects))
    return state, {"loss": loss_sums.cpu(), "correct": correct_sums.cpu(), "lr": torch.tensor(lrs)}


def resident(state: State, x: np.ndarray, y: np.ndarray) -> places.Resident | None:
    """A dataset where the state computes, to be indexed by numbers (k, n); None on a CPU, and on several devices."""
    if state.devices > 1 or state.device.type == "cpu":
        return None
    return places.Resident(torch.from_numpy(x).to(state.device), torch.from_numpy(y).to(state.device))


@torch.inference_mode()
def eval_batch(state: State, x: np.ndarray, y: np.ndarray) -> dict[str, Tensor]:
    """Sums over a batch: ``loss_sum``, ``correct``, ``count``; labels below zero are padding and do not count."""
    images, labels = to_device(state, x, y)
    outputs = infer(state, images)
    count = (labels >= 0).sum()
    return {"loss_sum": state.loss(outputs, labels) * count, "correct": correct(outputs, labels), "count": count}


@torch.inference_mode()
def logits(state: State, x: np.ndarray) -> Tensor:
    """Outputs of the network as it is used (not as it is trained)."""
    return infer(state, torch.from_numpy(x).to(state.device)).cpu()


def infer(state: State, x: Tensor) -> Tensor:
    """The same of images that are on the device, and there its outputs stay."""
    state.model.eval()
    return state.infer(preprocess(x, state.mean, state.std))


def to_snapshot(state: State) -> Tree:
    """Copy of the training state in the form that every track reads."""
    snapshot = {
        "params": interop.params_to_tree(state.model),
        "stats": interop.stats_to_tree(state.model),
        "opt": interop.opt_to_tree(state.model, state.optimizer, state.memory, state.step - state.start),
        "step": np.int32(state.step),
    }
    return snapshot if state.average is None else snapshot | {"ema": interop.params_to_tree(state.average.module)}


def synchronize(state: State) -> None:
    """Return when the device is idle; the CPU always is when a call returns."""
    if state.device.type != "cpu":
        torch.accelerator.synchronize(state.device)


def device_facts(state: State) -> dict[str, Any]:
    """What computed (``hardware``), how precisely (``products``), and ``peak_device_mb``, None but with CUDA."""
    return places.facts(state.device, state.devices, state.precision)

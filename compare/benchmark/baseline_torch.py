"""The baseline: the same training as a plain PyTorch script, eager, over tensors in memory.

It is what most people write first: ``nn.Sequential``, the training images normalised once and kept as one float tensor,
batches by indexing it, ``zero_grad``, ``backward``, ``step``, a scheduler, and the losses collected. Of ``torch_nn`` it
uses only the names of devices. It is called like a track, so the benchmark times it with the same clocks; and it starts
from the same weights and sees the same batches, so its losses must equal those of the tracks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compare.data.stream import InMemory
from compare.training.loop import Training
from numpy_nn.optim import schedule as formula
from numpy_nn.tree import Tree, leaves
from torch_nn import devices as torch_devices


@dataclasses.dataclass
class State:
    """The variables of the script."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    criterion: nn.Module
    clip_norm: float | None
    mean: Tensor
    std: Tensor
    images: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))  # normalised, (n, c, h, w)
    labels: Tensor = dataclasses.field(default_factory=lambda: torch.empty(0))


def mlp(
    *, input_shape: tuple[int, ...] = (28, 28, 1), hidden: tuple[int, ...] = (512, 512), classes: int = 10
) -> nn.Sequential:
    """A multi-layer perceptron."""
    sizes = (math.prod(input_shape), *hidden)
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], classes))


def cnn(
    *,
    input_shape: tuple[int, ...] = (28, 28, 1),
    channels: tuple[int, ...] = (16, 32),
    kernel: int = 5,
    padding: int = 0,
    pools: tuple[int, ...] = (),
    batch_norm: bool = False,
    hidden: int = 128,
    classes: int = 10,
) -> nn.Sequential:
    """A convolutional network."""
    layers: list[nn.Module] = []
    for (i, o), pool in zip(pairwise((input_shape[-1], *channels)), pools or (2,) * len(channels), strict=True):
        smaller = [nn.MaxPool2d(pool)] if pool > 1 else []
        layers += [nn.Conv2d(i, o, kernel, padding=padding, bias=not batch_norm)]
        layers += [*smaller, nn.BatchNorm2d(o), nn.ReLU()] if batch_norm else [nn.ReLU(), *smaller]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, classes))


NETWORKS: dict[str, Callable[..., nn.Sequential]] = {"mlp": mlp, "cnn": cnn}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda groups, **args: torch.optim.SGD(groups, momentum=0.9, **args),
    "nesterov": lambda groups, **args: torch.optim.SGD(groups, momentum=0.9, nesterov=True, **args),
    "adamw": torch.optim.AdamW,
}


def init_state(
    snapshot: Tree,
    *,
    model: str,
    model_args: dict[str, Any],
    optimizer: str,
    optimizer_args: dict[str, Any],
    schedule: str,
    schedule_args: dict[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    threads: int,
    loss_args: dict[str, Any],
    device: str = "cpu",
    **_: Any,
) -> State:
    """The script's variables, with the weights of the snapshot; the same arguments as a track's ``init_state``."""
    torch.set_num_threads(threads)
    there = torch_devices.choose(device)[0]
    torch_devices.set_full_precision(there, "float32")
    network = NETWORKS[model](**model_args)
    height, width, channels = model_args.get("input_shape", (28, 28, 1))
    network(torch.zeros(1, channels, height, width))  # lazy layers find their sizes
    copy_weights(network, snapshot["params"], channels)
    network.to(there)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    decay, clip_norm = optimizer_args.get("weight_decay", 0.0), optimizer_args.get("clip_norm")
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    made = OPTIMIZERS[optimizer](groups, lr=1.0)  # the scheduler's factors are the learning rates
    return State(
        network=network,
        optimizer=made,
        scheduler=torch.optim.lr_scheduler.LambdaLR(made, formula(schedule, **schedule_args)),
        criterion=nn.CrossEntropyLoss(label_smoothing=loss_args.get("label_smoothing", 0.0)),
        clip_norm=clip_norm,
        mean=torch.tensor(mean, device=there).view(-1, 1, 1),
        std=torch.tensor(std, device=there).view(-1, 1, 1),
    )


@torch.no_grad()
def copy_weights(network: nn.Module, params: Tree, channels: int) -> None:
    """Layer by layer in the order of the network: (kh, kw, i, o) -> (o, i, kh, kw), (i, o) -> (o, i).

    ``nn.Flatten`` puts channels first, NumPy last: the first linear layer's rows are put in that order.
    """
    arrays = {path: torch.tensor(leaf) for path, leaf in leaves(params).items()}
    for name, kind in (("kernel", nn.Conv2d | nn.Linear), ("scale", nn.BatchNorm2d)):
        layers = [layer for layer in network.modules() if isinstance(layer, kind)]
        paths = [path for path in arrays if path.endswith(name)]
        for layer, path in zip(layers, paths, strict=True):
            weights = arrays[path]
            if weights.ndim == 4:
                weights, channels = weights.permute(3, 2, 0, 1), weights.shape[3]
            elif weights.ndim == 2:
                weights = weights.view(-1, channels, weights.shape[1]).transpose(0, 1).reshape(weights.shape).T
                channels = 1
            layer.weight.copy_(weights)
            if layer.bias is not None:
                layer.bias.copy_(arrays[path.replace(name, "bias")])


def hold(training: Training) -> None:
    """Turn the training images into the tensor that the script keeps in memory."""
    data, state = training.data, training.state
    state.images = normalised(state, data.train_x)
    state.labels = torch.from_numpy(data.train_y).long().to(state.mean.device)
    training.data = InMemory(**{field.name: getattr(data, field.name) for field in dataclasses.fields(data)})


def normalised(state: State, x: np.ndarray) -> Tensor:
    """Bytes (n, h, w, c) to floats (n, c, h, w)."""
    pixels = torch.from_numpy(x).to(state.mean.device)
    return (pixels.permute(0, 3, 1, 2).contiguous().float() / 255 - state.mean) / state.std


def train_steps(state: State, index: np.ndarray, _: np.ndarray) -> tuple[State, dict[str, Tensor]]:
    """The script's loop over the batches with the image numbers ``index`` (k, n)."""
    losses, corrects, lrs = [], [], []
    state.network.train()
    for batch in torch.from_numpy(index).to(state.mean.device):
        images, labels = state.images[batch], state.labels[batch]
        state.optimizer.zero_grad()
        outputs = state.network(images)
        loss = state.criterion(outputs, labels)
        loss.backward()
        if state.clip_norm is not None:
            nn.utils.clip_grad_norm_(state.network.parameters(), state.clip_norm)
        lrs.append(state.optimizer.param_groups[0]["lr"])
        state.optimizer.step()
        state.scheduler.step()
        losses.append(loss.detach())
        corrects.append((outputs.argmax(dim=1) == labels).sum())
    return state, {"loss": torch.stack(losses), "correct": torch.stack(corrects), "lr": torch.tensor(lrs)}


@torch.no_grad()
def eval_batch(state: State, x: np.ndarray, y: np.ndarray) -> dict[str, Tensor]:
    """Sums over a batch of images as bytes; labels below zero are padding."""
    state.network.eval()
    labels = torch.from_numpy(y).long().to(state.mean.device)
    real = labels >= 0
    outputs, labels = state.network(normalised(state, x))[real], labels[real]
    return {
        "loss_sum": nn.functional.cross_entropy(outputs, labels, reduction="sum"),
        "correct": (outputs.argmax(dim=1) == labels).sum(),
        "count": real.sum(),
    }


def synchronize(state: State) -> None:
    """Wait for the device; the CPU is idle when a call returns."""
    if state.mean.device.type != "cpu":
        torch.accelerator.synchronize(state.mean.device)


def device_facts(state: State) -> dict[str, Any]:
    """The hardware, the precision of its matmuls and its peak memory."""
    return torch_devices.facts(state.mean.device, 1, "float32")


def place_dataset(*_: Any) -> None:
    """None: the script already holds its images on the device."""

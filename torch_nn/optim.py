"""Optimizers of torch.optim, and learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torch_nn.interop import bindings

Schedule = Callable[[int], float]

# name: (class, fixed arguments, torch's name of an argument, {memory in a snapshot: memory in torch})
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], dict[str, str], dict[str, str]]] = {
    "sgd": (torch.optim.SGD, {}, {}, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, {"decay": "momentum"}, {"mu": "momentum_buffer"}),
    "nesterov": (
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True},
        {"decay": "momentum"},
        {"mu": "momentum_buffer"},
    ),
    "adam": (torch.optim.Adam, {}, {}, {"mu": "exp_avg", "nu": "exp_avg_sq"}),
    "adamw": (torch.optim.AdamW, {}, {}, {"mu": "exp_avg", "nu": "exp_avg_sq"}),
}


def decays(path: str) -> bool:
    """Weight decay pulls on matrices and filters only, never on biases, scales, shifts or places."""
    return path.rpartition("/")[2] in ("kernel", "embedding")


def make(
    name: str, model: nn.Module, *, weight_decay: float = 0.0, beta1: float = 0.9, beta2: float = 0.999, **arguments: Any
) -> torch.optim.Optimizer:
    """Build an optimizer: two parameter groups, with and without weight decay, updated by PyTorch's foreach kernels.

    ``weight_decay`` is L2 (added to the gradient) except in adamw, where it
    shrinks the parameter beside the gradient step.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    cls, fixed, rename, _ = OPTIMIZERS[name]
    trained = {path: p for path, _, p in bindings(model) if p.requires_grad}
    groups = [
        {"params": [p for path, p in trained.items() if decays(path)], "weight_decay": weight_decay},
        {"params": [p for path, p in trained.items() if not decays(path)], "weight_decay": 0.0},
    ]
    if issubclass(cls, torch.optim.Adam):
        fixed = {"betas": (beta1, beta2)}
    constants = {rename.get(key, key): value for key, value in arguments.items()}
    return cls([group for group in groups if group["params"]], lr=0.0, foreach=True, **fixed | constants)


@torch.no_grad()
def clip_by_global_norm(model: nn.Module, max_norm: float) -> None:
    """g ← g · min(1, max_norm/‖g‖) in place, without reading the norm back to the host.

    torch.nn.utils.clip_grad_norm_ divides by ‖g‖ + 1e-6 instead, which is another function in the seventh digit.
    """
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    scale = (max_norm / nn.utils.get_total_norm(grads)).clamp(max=1)
    for grad in grads:
        grad.mul_(scale)


# --- schedules --------------------------------------------------------------------------------------------------------


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))


def constant(*, lr: float, steps: int) -> Schedule:
    """η(s) = lr."""
    return lambda step: lr


def step_decay(*, lr: float, steps: int, factor: float = 0.1, at: tuple[float, ...] = (0.5, 0.75)) -> Schedule:
    """η(s) = lr · factorᵐ, with m the number of milestones ``at`` (fractions of all steps) already passed."""
    milestones = [int(fraction * steps) for fraction in at]
    return lambda step: lr * factor ** sum(step >= milestone for milestone in milestones)


def cosine(*, lr: float, steps: int, warmup: float = 0.05, end: float = 0.0) -> Schedule:
    """Linear from 0 to lr over the fraction ``warmup`` of all steps, then half a cosine to end · lr."""
    warm = int(warmup * steps)
    return lambda step: lr * step / warm if step < warm else _cosine(lr, end * lr, (step - warm) / (steps - warm))


def one_cycle(*, lr: float, steps: int, warmup: float = 0.3, div: float = 25.0, final_div: float = 1e4) -> Schedule:
    """Half a cosine from lr/div up to lr over the fraction ``warmup``, then down to lr/(div · final_div)."""
    warm = int(warmup * steps)
    low, last = lr / div, lr / (div * final_div)
    return lambda step: (
        _cosine(low, lr, step / warm) if step < warm else _cosine(lr, last, (step - warm) / (steps - warm))
    )


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step_decay,
    "cosine": cosine,
    "one_cycle": one_cycle,
}

"""Optimizers from torch.optim, and learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from torch_nn.interop import bindings

Schedule = Callable[[int], float]

# --- optimizers -------------------------------------------------------------------------------------------------------


class Lion(torch.optim.Optimizer):
    """p ← p (1 - η λ) - η sign(β₁ μ + (1-β₁) g),  μ ← β₂ μ + (1-β₂) g  (Chen et al. 2023, arXiv:2302.06675)."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                mu = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * torch.sign(beta1 * mu + (1 - beta1) * p.grad))
                mu.mul_(beta2).add_(p.grad, alpha=1 - beta2)


def _sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0, fused=True)


def _momentum(groups: Any, decay: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0, momentum=decay, fused=True)


def _nesterov(groups: Any, decay: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.0, momentum=decay, nesterov=True, fused=True)


def _rmsprop(groups: Any, decay: float = 0.9, eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, lr=0.0, alpha=decay, eps=eps, foreach=True)


def _adam(groups: Any, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=0.0, betas=(beta1, beta2), eps=eps, fused=True)


def _adamw(groups: Any, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, betas=(beta1, beta2), eps=eps, fused=True)


def _lion(groups: Any, beta1: float = 0.9, beta2: float = 0.99) -> torch.optim.Optimizer:
    return Lion(groups, lr=0.0, betas=(beta1, beta2))


# name: (builder, {optimizer slot in a snapshot: its name in torch})
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, str]]] = {
    "sgd": (_sgd, {}),
    "momentum": (_momentum, {"mu": "momentum_buffer"}),
    "nesterov": (_nesterov, {"mu": "momentum_buffer"}),
    "rmsprop": (_rmsprop, {"nu": "square_avg"}),
    "adam": (_adam, {"mu": "exp_avg", "nu": "exp_avg_sq"}),
    "adamw": (_adamw, {"mu": "exp_avg", "nu": "exp_avg_sq"}),
    "lion": (_lion, {"mu": "exp_avg"}),
}


def decays(path: str) -> bool:
    """Return whether weight decay applies: to kernels and embeddings, not to biases, scales or positions."""
    return path.rpartition("/")[2] in ("kernel", "embedding")


def make(
    name: str,
    model: nn.Module,
    *,
    factors: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    **hyperparameters: float,
) -> torch.optim.Optimizer:
    """Build an optimizer with PyTorch's fused kernels; its parameter groups differ in weight decay and learning rate.

    Each group stores its factor of the learning rate as ``lr_scale``; frozen parameters (``requires_grad`` is False)
    are in no group. ``weight_decay`` is L2 (added to the gradient), except in adamw and lion, where it is decoupled
    (shrinks the parameter). ``hyperparameters`` are those of the rule (``decay``, ``beta1``, …). ValueError for an
    unknown name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, _, p in bindings(model):
        if p.requires_grad:
            kind = (weight_decay if decays(path) else 0.0, 1.0 if factors is None else factors[path])
            groups.setdefault(kind, []).append(p)
    return OPTIMIZERS[name][0](
        [{"params": params, "weight_decay": decay, "lr_scale": scale} for (decay, scale), params in groups.items()],
        **hyperparameters,
    )


def freeze(model: nn.Module, factors: Mapping[str, float]) -> None:
    """Exclude parameters of factor 0 from autograd, which then stops at the first trained layer."""
    for path, _, p in bindings(model):
        p.requires_grad_(factors[path] > 0)


@torch.no_grad()
def clip_by_global_norm(model: nn.Module, max_norm: float) -> None:
    """g ← g · min(1, max_norm/‖g‖) in place, without copying the norm to the host.

    torch.nn.utils.clip_grad_norm_ divides by ‖g‖ + 1e-6 instead, which differs in the seventh digit.
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

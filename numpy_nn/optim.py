"""Optimizers and learning-rate schedules.

An optimizer is a formula for one parameter: it changes ``p`` and its slots ``mu``, ``nu`` in place, elementwise,
given the gradient ``g``. A schedule is a pure function of the step: it has no state to save.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from numpy_nn.shapes import Array
from numpy_nn.tree import Tree, leaves, tree_map

# --- optimizers -------------------------------------------------------------------------------------------------------
# p: parameter, g: gradient, mu, nu: first and second moment, lr: learning rate η, t: this is update number t = 1, 2, …


def sgd(p: Array, g: Array, *, lr: float, t: int) -> None:
    """p ← p - η g."""
    p -= lr * g


def momentum(p: Array, g: Array, mu: Array, *, lr: float, t: int, decay: float = 0.9) -> None:
    """μ ← ρ μ + g,  p ← p - η μ  (Polyak 1964; μ does not contain the learning rate)."""
    mu *= decay
    mu += g
    p -= lr * mu


def nesterov(p: Array, g: Array, mu: Array, *, lr: float, t: int, decay: float = 0.9) -> None:
    """μ ← ρ μ + g,  p ← p - η (g + ρ μ)  (Nesterov 1983, in the form of Sutskever et al. 2013)."""
    mu *= decay
    mu += g
    p -= lr * (g + decay * mu)


def adam(
    p: Array,
    g: Array,
    mu: Array,
    nu: Array,
    *,
    lr: float,
    t: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> None:
    """μ ← β₁ μ + (1-β₁) g,  ν ← β₂ ν + (1-β₂) g²,  p ← p - η μ̂ / (√ν̂ + ε).

    μ̂ = μ/(1-β₁ᵗ) and ν̂ = ν/(1-β₂ᵗ) correct the bias of slots that start at zero; ε is added
    outside the root (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1).
    """
    mu *= beta1
    mu += (1 - beta1) * g
    nu *= beta2
    nu += (1 - beta2) * (g * g)
    p -= (lr / (1 - beta1**t)) * mu / (np.sqrt(nu * (1 / (1 - beta2**t))) + eps)


def rmsprop(p: Array, g: Array, nu: Array, *, lr: float, t: int, decay: float = 0.9, eps: float = 1e-8) -> None:
    """ν ← ρ ν + (1-ρ) g²,  p ← p - η g / (√ν + ε)  (Tieleman & Hinton 2012, lecture 6e; ε outside the root)."""
    nu *= decay
    nu += (1 - decay) * (g * g)
    p -= lr * g / (np.sqrt(nu) + eps)


def lion(p: Array, g: Array, mu: Array, *, lr: float, t: int, beta1: float = 0.9, beta2: float = 0.99) -> None:
    """p ← p - η sign(β₁ μ + (1-β₁) g),  μ ← β₂ μ + (1-β₂) g  (Chen et al. 2023, arXiv:2302.06675)."""
    p -= lr * np.sign(beta1 * mu + (1 - beta1) * g)
    mu *= beta2
    mu += (1 - beta2) * g


# name: (formula, its slots, kind of weight decay)
OPTIMIZERS: dict[str, tuple[Callable[..., None], tuple[str, ...], str]] = {
    "sgd": (sgd, (), "l2"),
    "momentum": (momentum, ("mu",), "l2"),
    "nesterov": (nesterov, ("mu",), "l2"),
    "rmsprop": (rmsprop, ("nu",), "l2"),
    "adam": (adam, ("mu", "nu"), "l2"),
    "adamw": (adam, ("mu", "nu"), "decoupled"),
    "lion": (lion, ("mu",), "decoupled"),
}


TILE = 2**15  # numbers of a leaf that are updated at a time, so that they stay in the cache


def decays(path: str) -> bool:
    """Whether weight decay applies to a leaf: to kernels and embeddings, not to biases, scales and positions."""
    return path.rpartition("/")[2] in ("kernel", "embedding")


def init(params: Tree, optimizer: str) -> Tree:
    """Fresh optimizer state ``{"count": 0, "mu": zeros, "nu": zeros}`` with the slots that the optimizer has."""
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
    slots = OPTIMIZERS[optimizer][1]
    return {"count": np.array(0, np.int32)} | {slot: tree_map(np.zeros_like, params) for slot in slots}


def global_norm(grads: Tree, all_sum: Callable[[float], float] = float) -> float:
    """√ Σ g² over all leaves; ``all_sum`` adds the sums of processes that hold a part of each leaf."""
    return math.sqrt(all_sum(sum(float(np.vdot(g, g)) for g in leaves(grads).values())))


def clip_by_global_norm(grads: Tree, max_norm: float, all_sum: Callable[[float], float] = float) -> Tree:
    """g ← g · min(1, max_norm/‖g‖) in place, one norm over all leaves (Pascanu et al. 2013)."""
    norm = global_norm(grads, all_sum)
    if norm > max_norm:
        for g in leaves(grads).values():
            g *= max_norm / norm
    return grads


def tiles(p: Array, g: Array, *slots: Array) -> Iterator[list[Array]]:
    """The same ``TILE`` numbers of each array, as flat views, one tile after the other."""
    flat = [p.reshape(-1, copy=False), g.reshape(-1), *(slot.reshape(-1, copy=False) for slot in slots)]
    for start in range(0, g.size, TILE):
        yield [array[start : start + TILE] for array in flat]


def update(
    params: Tree,
    grads: Tree,
    opt: Tree,
    *,
    optimizer: str,
    lr: float,
    factors: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    all_sum: Callable[[float], float] = float,
    **hyperparameters: float,
) -> None:
    """Update all parameters in place; the gradients are overwritten.

    Args:
        params, grads, opt: trees with the same leaves; ``opt`` as ``init`` makes it.
        optimizer: a name in ``OPTIMIZERS``.
        lr: learning rate η.
        factors: of the learning rate, by path; with 0, the leaf and its slots stay, and ``clip_norm`` ignores it.
        weight_decay: λ, which adds λ p to the gradient ("l2") or subtracts η λ p from the parameter ("decoupled",
            Loshchilov & Hutter 2019, arXiv:1711.05101).
        clip_norm: largest global norm of the gradients.
        all_sum: sum over processes that each hold a part of every leaf; only ``clip_norm`` needs it.
        hyperparameters: those of the formula (``decay``, ``beta1``, …).
    """
    formula, slots, kind = OPTIMIZERS[optimizer]
    parameters, slot_leaves = leaves(params), [leaves(opt[slot]) for slot in slots]
    gradients = {path: g for path, g in leaves(grads).items() if factors is None or factors[path]}
    if clip_norm is not None:
        clip_by_global_norm(gradients, clip_norm, all_sum)
    opt["count"] += 1
    t = int(opt["count"])

    for path in gradients:
        rate = lr * (1.0 if factors is None else factors[path])
        for p, g, *values in tiles(parameters[path], gradients[path], *(slot[path] for slot in slot_leaves)):
            if weight_decay and decays(path):
                if kind == "l2":
                    g += weight_decay * p
                else:
                    p *= 1 - rate * weight_decay
            formula(p, g, *values, lr=rate, t=t, **hyperparameters)


def average(ema: Tree, params: Tree, decay: float) -> None:
    """ema ← d ema + (1 - d) p, in place: weights averaged over about 1/(1 - d) steps (Polyak & Juditsky 1992)."""
    new = leaves(params)
    for path, e in leaves(ema).items():
        e *= decay
        e += (1 - decay) * new[path]


# --- schedules --------------------------------------------------------------------------------------------------------

Schedule = Callable[[int], float]


def _cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from ``start`` (fraction 0) to ``end`` (fraction 1)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))


def constant(step: int, *, lr: float, steps: int) -> float:
    """η(s) = lr."""
    return lr


def step_decay(step: int, *, lr: float, steps: int, factor: float = 0.1, at: tuple[float, ...] = (0.5, 0.75)) -> float:
    """η(s) = lr · factorᵐ, where m milestones ``at`` (fractions of all steps) have passed."""
    return lr * factor ** sum(step >= int(fraction * steps) for fraction in at)


def cosine(step: int, *, lr: float, steps: int, warmup: float = 0.05, end: float = 0.0) -> float:
    """Linear from 0 to lr over the fraction ``warmup`` of all steps, then half a cosine to end · lr.

    Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts; warm-up after Goyal et al. 2017.
    """
    warm = int(warmup * steps)
    return lr * step / warm if step < warm else _cosine(lr, end * lr, (step - warm) / (steps - warm))


def one_cycle(
    step: int, *, lr: float, steps: int, warmup: float = 0.3, div: float = 25.0, final_div: float = 1e4
) -> float:
    """Half a cosine from lr/div up to lr over the fraction ``warmup``, then down to lr/(div · final_div).

    Smith & Topin 2018, arXiv:1708.07120, in the two-phase form used by optax.
    """
    warm = int(warmup * steps)
    low, last = lr / div, lr / (div * final_div)
    return _cosine(low, lr, step / warm) if step < warm else _cosine(lr, last, (step - warm) / (steps - warm))


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "step": step_decay,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


def schedule(name: str, *, lr: float, steps: int, **hyperparameters: Any) -> Schedule:
    """Look up a schedule by name and fix all arguments but the step s (the first is 0): η(s)."""
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULES)}")
    return partial(SCHEDULES[name], lr=lr, steps=steps, **hyperparameters)

"""Optimizers from optax, and learning-rate schedules as pure functions of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from numpy_nn.tree import Tree

# --- optimizers -------------------------------------------------------------------------------------------------------


def decay_mask(params: Any) -> Any:
    """Return a tree of bools: weight decay applies to kernels and embeddings, not to biases, scales or positions."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)


def _with_l2(rule: optax.GradientTransformation, weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay, decay_mask), rule)


def _sgd(lr: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    return _with_l2(optax.sgd(lr), weight_decay)


def _momentum(lr: optax.Schedule, weight_decay: float, decay: float = 0.9) -> optax.GradientTransformation:
    return _with_l2(optax.sgd(lr, decay), weight_decay)


def _nesterov(lr: optax.Schedule, weight_decay: float, decay: float = 0.9) -> optax.GradientTransformation:
    return _with_l2(optax.sgd(lr, decay, nesterov=True), weight_decay)


def _rmsprop(
    lr: optax.Schedule, weight_decay: float, decay: float = 0.9, eps: float = 1e-8
) -> optax.GradientTransformation:
    return _with_l2(optax.rmsprop(lr, decay, eps, eps_in_sqrt=False), weight_decay)


def _adam(
    lr: optax.Schedule, weight_decay: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    return _with_l2(optax.adam(lr, beta1, beta2, eps), weight_decay)


def _adamw(
    lr: optax.Schedule, weight_decay: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    return optax.adamw(lr, beta1, beta2, eps, weight_decay=weight_decay, mask=decay_mask)


def _lion(
    lr: optax.Schedule, weight_decay: float, beta1: float = 0.9, beta2: float = 0.99
) -> optax.GradientTransformation:
    return optax.lion(lr, beta1, beta2, weight_decay=weight_decay, mask=decay_mask)


# name: (builder, {optimizer slot in a snapshot: field in optax})
OPTIMIZERS: dict[str, tuple[Callable[..., optax.GradientTransformation], dict[str, str]]] = {
    "sgd": (_sgd, {}),
    "momentum": (_momentum, {"mu": "trace"}),
    "nesterov": (_nesterov, {"mu": "trace"}),
    "rmsprop": (_rmsprop, {"nu": "nu"}),
    "adam": (_adam, {"mu": "mu", "nu": "nu"}),
    "adamw": (_adamw, {"mu": "mu", "nu": "nu"}),
    "lion": (_lion, {"mu": "mu"}),
}


def per_leaf(
    rule: optax.GradientTransformation, factors: Mapping[str, float], slots: dict[str, str]
) -> optax.GradientTransformation:
    """Return the rule with a learning rate per leaf: each update times the factor of the leaf's path.

    Leaves of factor 0 are frozen: gradient and update are 0, and the optimizer slots stay as they are, so that
    checkpoints stay complete (``optax.masked`` would drop them).
    """

    def leaf_factors(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: factors["/".join(str(part.key) for part in path)], params
        )

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scale, zeros = leaf_factors(grads), jax.tree.map(jnp.zeros_like, grads)

        def unless_frozen(trained: Any, frozen: Any) -> Any:
            return jax.tree.map(lambda factor, a, b: a if factor else b, scale, trained, frozen)

        updates, new = rule.update(unless_frozen(grads, zeros), state, params)
        updates = jax.tree.map(lambda factor, step: factor * step, scale, unless_frozen(updates, zeros))
        get = optax.tree_utils.tree_get
        moments = {field: unless_frozen(get(new, field), get(state, field)) for field in slots.values()}
        return updates, optax.tree_utils.tree_set(new, **moments)

    return optax.GradientTransformation(rule.init, update)


def make(
    name: str,
    lr: optax.Schedule,
    *,
    factors: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    **hyperparameters: float,
) -> optax.GradientTransformation:
    """Build an optimizer: clip by global norm, then weight decay and update rule, then factors of the learning rate.

    ``weight_decay`` is L2 (added to the gradient), except in adamw and lion, where it is decoupled (shrinks the
    parameter). ``hyperparameters`` are those of the rule (``decay``, ``beta1``, …). ValueError for an unknown name.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    build, slots = OPTIMIZERS[name]
    rule = build(lr, weight_decay, **hyperparameters)
    if clip_norm is not None:
        rule = optax.chain(optax.clip_by_global_norm(clip_norm), rule)
    return rule if factors is None else per_leaf(rule, factors, slots)


def read(opt_state: Any, slots: dict[str, str]) -> Tree:
    """Return ``{"count", "mu", "nu"}`` of an optax state, found by field name."""
    count = optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1]
    return {"count": count} | {slot: optax.tree_utils.tree_get(opt_state, field) for slot, field in slots.items()}


def write(opt_state: Any, opt: Tree, slots: dict[str, str]) -> Any:
    """Undo :func:`read`: return the optax state with these values in every count and slot."""
    fields = {field: opt[slot] for slot, field in slots.items()}
    filled = optax.tree_utils.tree_set(opt_state, count=opt["count"], **fields)
    # all counts are one array now: a step that donates its input needs a buffer for each
    return jax.tree.map(jnp.copy, filled)


# --- schedules --------------------------------------------------------------------------------------------------------
# Not optax's schedules: they divide the int32 step by an int, which is float32 in JAX even with float64 enabled, and
# would differ from the other tracks in the eighth digit. int32 * float has JAX's default precision.


def _cosine(start: float, end: float, fraction: Array) -> Array:
    """Half a cosine from ``start`` (fraction 0) to ``end`` (fraction 1)."""
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(fraction, 1.0)))


def constant(*, lr: float, steps: int) -> optax.Schedule:
    """η(s) = lr."""
    return lambda step: lr


def step_decay(*, lr: float, steps: int, factor: float = 0.1, at: tuple[float, ...] = (0.5, 0.75)) -> optax.Schedule:
    """η(s) = lr · factorᵐ, with m the number of milestones ``at`` (fractions of all steps) already passed."""
    return lambda step: lr * factor ** sum(step >= int(fraction * steps) for fraction in at)


def cosine(*, lr: float, steps: int, warmup: float = 0.05, end: float = 0.0) -> optax.Schedule:
    """Linear from 0 to lr over the fraction ``warmup`` of all steps, then half a cosine to end · lr."""
    warm = int(warmup * steps)
    return lambda step: jnp.where(
        step < warm, step * (lr / max(warm, 1)), _cosine(lr, end * lr, (step - warm) * (1 / (steps - warm)))
    )


def one_cycle(
    *, lr: float, steps: int, warmup: float = 0.3, div: float = 25.0, final_div: float = 1e4
) -> optax.Schedule:
    """Half a cosine from lr/div up to lr over the fraction ``warmup``, then down to lr/(div · final_div)."""
    warm = int(warmup * steps)
    low, last = lr / div, lr / (div * final_div)
    return lambda step: jnp.where(
        step < warm,
        _cosine(low, lr, step * (1 / max(warm, 1))),
        _cosine(lr, last, (step - warm) * (1 / (steps - warm))),
    )


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": constant,
    "step": step_decay,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


def shifted(schedule: optax.Schedule, offset: int) -> optax.Schedule:
    """Return η(offset + count): optax counts updates, and a run may have taken steps before the optimizer's first."""
    return lambda count: schedule(offset + count)

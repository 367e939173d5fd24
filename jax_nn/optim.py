"""Optimizers of optax by the names that all tracks use, and schedules as pure functions of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from numpy_nn.tree import Tree

# --- schedules --------------------------------------------------------------------------------------------------------
# Formulas of our own for those of optax: int32 / int is float32 in JAX, even where it runs in float64, and by optax's
# divisions the tracks would part in the eighth digit. int32 * float has JAX's default precision.


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


def later(schedule: optax.Schedule, before: int, count: Array) -> Array | float:
    """η(before + count): optax counts its own updates, and a state may have taken steps before the first of them."""
    return schedule(before + count)


# --- optimizers -------------------------------------------------------------------------------------------------------


def decay_mask(params: Any) -> Any:
    """Weight decay pulls on matrices and filters only, never on biases, scales, shifts or places."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)


def _sgd(lr: optax.Schedule, weight_decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay, decay_mask), optax.sgd(lr))


def _momentum(lr: optax.Schedule, weight_decay: float, decay: float = 0.9) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay, decay_mask), optax.sgd(lr, decay))


def _nesterov(lr: optax.Schedule, weight_decay: float, decay: float = 0.9) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay, decay_mask), optax.sgd(lr, decay, nesterov=True))


def _adam(
    lr: optax.Schedule, weight_decay: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay, decay_mask), optax.adam(lr, beta1, beta2, eps))


def _adamw(
    lr: optax.Schedule, weight_decay: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    return optax.adamw(lr, beta1, beta2, eps, weight_decay=weight_decay, mask=decay_mask)


def _rmsprop(
    lr: optax.Schedule, weight_decay: float, decay: float = 0.9, eps: float = 1e-8
) -> optax.GradientTransformation:
    l2 = optax.add_decayed_weights(weight_decay, decay_mask)
    return optax.chain(l2, optax.rmsprop(lr, decay, eps, eps_in_sqrt=False))


def _lion(
    lr: optax.Schedule, weight_decay: float, beta1: float = 0.9, beta2: float = 0.99
) -> optax.GradientTransformation:
    return optax.lion(lr, beta1, beta2, weight_decay=weight_decay, mask=decay_mask)


# name: (builder, {memory in a snapshot: field in optax})
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
    rule: optax.GradientTransformation, factors: Mapping[str, float], memory: dict[str, str]
) -> optax.GradientTransformation:
    """The same rule with a learning rate for each leaf: the update times the factor of the leaf's path.

    A leaf of factor 0 is as good as absent: its gradient is 0 before anything is made of it, and its update is 0.
    ``optax.masked`` would drop its moments, too; here they stay, so that whoever resumes finds a whole tree.
    """

    def of_each(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: factors["/".join(str(part.key) for part in path)], params
        )

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        scale, zeros = of_each(grads), jax.tree.map(jnp.zeros_like, grads)

        def unless_frozen(moving: Any, still: Any) -> Any:
            return jax.tree.map(lambda factor, a, b: a if factor else b, scale, moving, still)

        updates, new = rule.update(unless_frozen(grads, zeros), state, params)
        updates = jax.tree.map(lambda factor, step: factor * step, scale, unless_frozen(updates, zeros))
        get = optax.tree_utils.tree_get
        moments = {field: unless_frozen(get(new, field), get(state, field)) for field in memory.values()}
        return updates, optax.tree_utils.tree_set(new, **moments)

    return optax.GradientTransformation(rule.init, update)


def make(
    name: str,
    lr: optax.Schedule,
    *,
    factors: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    **constants: float,
) -> optax.GradientTransformation:
    """Build an optimizer: clip by global norm, then weight decay and update rule, then factors of the learning rate.

    ``weight_decay`` is L2 (added to the gradient) except in adamw and lion,
    where it shrinks the parameter beside the gradient step.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    build, memory = OPTIMIZERS[name]
    rule = build(lr, weight_decay, **constants)
    if clip_norm is not None:
        rule = optax.chain(optax.clip_by_global_norm(clip_norm), rule)
    return rule if factors is None else per_leaf(rule, factors, memory)


def read(opt_state: Any, memory: dict[str, str]) -> Tree:
    """``{"count", "mu", "nu"}`` of an optax state, found by field name."""
    count = optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1]
    return {"count": count} | {slot: optax.tree_utils.tree_get(opt_state, field) for slot, field in memory.items()}


def write(opt_state: Any, opt: Tree, memory: dict[str, str]) -> Any:
    """Undo :func:`read`: an optax state with these values, every count included."""
    fields = {field: opt[slot] for slot, field in memory.items()}
    filled = optax.tree_utils.tree_set(opt_state, count=opt["count"], **fields)
    # several counts, one array: a step that donates its input needs a buffer for each
    return jax.tree.map(jnp.copy, filled)

"""Recurrent networks: one map, applied at every time step to the input and to its own last state.

``lax.scan`` compiles the step once and runs it t times. What JAX by itself would add up step after step, the
weights' gradients, is one product for all steps here: dWₕ = Σₜ hₜ₋₁ᵀ dgₜ and dWᵢ = Σₜ xₜᵀ dgₜ with g = x Wᵢ + h Wₕ + b.
The product x Wᵢ stands inside the step, although it need not wait for h: computed for all steps beforehand, its
slices would be cut out inside the loops over the gates, and XLA does not vectorise those on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.nn import sigmoid

from jax_nn.layers import Linear

State = tuple[Array, ...]  # h (n, d) first, and what else the cell remembers
Cell = Callable[[Array, State], State]  # g, the state before -> the state


def running(lengths: Array | None, t: int) -> Array | None:
    """(t, n, 1): is step t before the end of sequence n?  None: all sequences have all t steps."""
    return None if lengths is None else (jnp.arange(t)[:, None] < lengths)[:, :, None]


def one_step(cell: Cell, alive: Array | None, g: Array, state: State) -> tuple[State, Array]:
    """The state after a step, and the output: h, or 0 after the end, where the state stays."""
    new = cell(g, state)
    if alive is None:
        return new, new[0]
    after = (jnp.where(alive, new, old) for new, old in zip(new, state, strict=True))
    return tuple(after), jnp.where(alive, new[0], 0)


def product(linear: Any, params: Any, x: Array, h: Array) -> Array:
    """g = x Wᵢ + h Wₕ + b, by the two Linear that ``nnx.split`` made ``linear`` and ``params`` of."""
    dense_i, dense_h = nnx.merge(linear, params)
    return dense_i(x) + dense_h(h)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(cell: Cell, linear: Any, params: Any, xs: Array, alive: Array | None, state: State) -> tuple[State, Array]:
    """xs (t, n, i) -> the last state and all outputs (t, n, d)."""
    return _forward(cell, linear, params, xs, alive, state)[0]


def _forward(cell: Cell, linear: Any, params: Any, xs: Array, alive: Array | None, state: State) -> tuple[Any, Any]:
    def step(state: State, each: tuple[Array, Array | None]) -> tuple[State, Any]:
        x, alive = each
        g = product(linear, params, x, state[0])
        after, y = one_step(cell, alive, g, state)
        return after, (y, g, state)

    last, (ys, gs, states) = lax.scan(step, state, (xs, alive))
    return (last, ys), (params, xs, alive, gs, states)


def _backward(cell: Cell, linear: Any, cache: Any, dout: tuple[State, Array]) -> tuple[Any, Array, None, State]:
    params, xs, alive, gs, states = cache

    def step(dstate: State, each: Any) -> tuple[State, Array]:
        dy, alive, x, g, state = each
        dg, (dh, *rest) = jax.vjp(partial(one_step, cell, alive), g, state)[1]((dstate, dy))
        (through,) = jax.vjp(partial(product, linear, params, x), state[0])[1](dg)
        return (dh + through, *rest), dg

    last, dys = dout
    dstate, dgs = lax.scan(step, last, (dys, alive, xs, gs, states), reverse=True)

    def all_steps(params: Any, xs: Array) -> Array:
        # (t·n, _), by way of a transposed copy: a transposed view would be multiplied more slowly
        x, h = (lax.optimization_barrier(each.reshape(-1, each.shape[-1]).T).T for each in (xs, states[0]))
        return product(linear, params, x, h).reshape(gs.shape)

    dparams, dxs = jax.vjp(all_steps, params, xs)[1](dgs)
    return dparams, dxs, None, dstate


recur.defvjp(_forward, _backward)


class RNN(nnx.Module):
    """h ← tanh(x Wᵢ + h Wₕ + b) at every step  (Elman 1990, "Finding structure in time")."""

    def __init__(self, i: int, d: int, *, rngs: nnx.Rngs):
        self.dense_i = Linear(i, d, use_bias=False, rngs=rngs)
        self.dense_h = Linear(d, d, rngs=rngs)

    def __call__(self, x: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        """x (n, t, i) -> h after every step (n, t, d), 0 after a sequence's end, and each one's last h (n, d)."""

        def cell(g: Array, state: State) -> State:
            return (jnp.tanh(g),)

        (h,), ys = _run(cell, self.dense_i, self.dense_h, x, lengths, states=1)
        return ys, h


class LSTM(nnx.Module):
    """[i f g o] = [σ σ tanh σ](x Wᵢ + h Wₕ + b),  c ← f c + i g,  h ← o tanh(c) at every step.

    Hochreiter & Schmidhuber 1997, with the forget gate f of Gers et al. 2000, without peepholes.
    """

    def __init__(self, i: int, d: int, *, rngs: nnx.Rngs):
        self.dense_i = Linear(i, 4 * d, use_bias=False, rngs=rngs)
        self.dense_h = Linear(d, 4 * d, rngs=rngs)

    def __call__(self, x: Array, lengths: Array | None = None) -> tuple[Array, Array, Array]:
        """x (n, t, i) -> h after every step (n, t, d), 0 after a sequence's end, and each one's last h and c (n, d)."""

        def cell(gates: Array, state: State) -> State:
            i, f, g, o = jnp.split(gates, 4, axis=1)
            c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)
            return sigmoid(o) * jnp.tanh(c), c

        (h, c), ys = _run(cell, self.dense_i, self.dense_h, x, lengths, states=2)
        return ys, h, c


def _run(
    cell: Cell, dense_i: Linear, dense_h: Linear, x: Array, lengths: Array | None, *, states: int
) -> tuple[State, Array]:
    n, t, _ = x.shape
    zeros = (jnp.zeros((n, dense_h.in_features), x.dtype),) * states
    state, ys = recur(cell, *nnx.split((dense_i, dense_h)), x.swapaxes(0, 1), running(lengths, t), zeros)
    return state, ys.swapaxes(0, 1)

"""Recurrent layers: one cell, applied at every time step to the input and to its own previous state.

``lax.scan`` compiles the cell once and runs it t times. JAX would add up the gradients of the weights step by step;
here they are one matmul over all steps: with g = x Wᵢ + h Wₕ + b, dWₕ = Σₜ hₜ₋₁ᵀ dgₜ and dWᵢ = Σₜ xₜᵀ dgₜ.
The matmul x Wᵢ stays inside the step, although it does not depend on h. If it were computed beforehand for all steps,
XLA would slice it inside the loops over the gates, and would not vectorise those on a CPU.
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

CellState = tuple[Array, ...]  # h (n, d) first, then c (n, d) in an LSTM
Cell = Callable[[Array, CellState], CellState]  # g and the previous state -> the new state


def valid_steps(lengths: Array | None, t: int) -> Array | None:
    """Return a mask (t, n, 1), True where step t is before the end of sequence n; None if ``lengths`` is None."""
    return None if lengths is None else (jnp.arange(t)[:, None] < lengths)[:, :, None]


def masked_step(cell: Cell, valid: Array | None, g: Array, state: CellState) -> tuple[CellState, Array]:
    """Return the new state and the output h; after the end of a sequence, its old state and 0."""
    new = cell(g, state)
    if valid is None:
        return new, new[0]
    kept = (jnp.where(valid, new, old) for new, old in zip(new, state, strict=True))
    return tuple(kept), jnp.where(valid, new[0], 0)


def pre_activation(linear: Any, params: Any, x: Array, h: Array) -> Array:
    """Return g = x Wᵢ + h Wₕ + b; ``linear`` and ``params`` are the two Linear modules after ``nnx.split``."""
    dense_i, dense_h = nnx.merge(linear, params)
    return dense_i(x) + dense_h(h)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def scan_cell(
    cell: Cell, linear: Any, params: Any, xs: Array, valid: Array | None, state: CellState
) -> tuple[CellState, Array]:
    """Apply the cell to each step of xs (t, n, i); return the last state and all outputs (t, n, d)."""
    return _forward(cell, linear, params, xs, valid, state)[0]


def _forward(cell: Cell, linear: Any, params: Any, xs: Array, valid: Array | None, state: CellState) -> tuple[Any, Any]:
    def step(state: CellState, inputs: tuple[Array, Array | None]) -> tuple[CellState, Any]:
        x, valid = inputs
        g = pre_activation(linear, params, x, state[0])
        new, y = masked_step(cell, valid, g, state)
        return new, (y, g, state)

    last, (ys, gs, states) = lax.scan(step, state, (xs, valid))
    return (last, ys), (params, xs, valid, gs, states)


def _backward(cell: Cell, linear: Any, cache: Any, dout: tuple[CellState, Array]) -> tuple[Any, Array, None, CellState]:
    params, xs, valid, gs, states = cache

    def step(dstate: CellState, inputs: Any) -> tuple[CellState, Array]:
        dy, valid, x, g, state = inputs
        dg, (dh, *rest) = jax.vjp(partial(masked_step, cell, valid), g, state)[1]((dstate, dy))
        (dh_matmul,) = jax.vjp(partial(pre_activation, linear, params, x), state[0])[1](dg)
        return (dh + dh_matmul, *rest), dg

    last, dys = dout
    dstate, dgs = lax.scan(step, last, (dys, valid, xs, gs, states), reverse=True)

    def all_steps(params: Any, xs: Array) -> Array:
        # (t·n, _) through a transposed copy, because the matmul of a transposed view is slower
        x, h = (lax.optimization_barrier(each.reshape(-1, each.shape[-1]).T).T for each in (xs, states[0]))
        return pre_activation(linear, params, x, h).reshape(gs.shape)

    dparams, dxs = jax.vjp(all_steps, params, xs)[1](dgs)
    return dparams, dxs, None, dstate


scan_cell.defvjp(_forward, _backward)


class RNNLayer(nnx.Module):
    """h ← tanh(x Wᵢ + h Wₕ + b) at every step  (Elman 1990, "Finding structure in time")."""

    def __init__(self, i: int, d: int, *, rngs: nnx.Rngs):
        self.dense_i = Linear(i, d, use_bias=False, rngs=rngs)
        self.dense_h = Linear(d, d, rngs=rngs)

    def __call__(self, x: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        """x (n, t, i), lengths (n,) -> h at every step (n, t, d), 0 after a sequence's end; its last h (n, d)."""

        def cell(g: Array, state: CellState) -> CellState:
            return (jnp.tanh(g),)

        (h,), ys = _run(cell, self.dense_i, self.dense_h, x, lengths, states=1)
        return ys, h


class LSTMLayer(nnx.Module):
    """[i f g o] = [σ σ tanh σ](x Wᵢ + h Wₕ + b),  c ← f c + i g,  h ← o tanh(c) at every step.

    Hochreiter & Schmidhuber 1997, with the forget gate f of Gers et al. 2000, without peepholes.
    """

    def __init__(self, i: int, d: int, *, rngs: nnx.Rngs):
        self.dense_i = Linear(i, 4 * d, use_bias=False, rngs=rngs)
        self.dense_h = Linear(d, 4 * d, rngs=rngs)

    def __call__(self, x: Array, lengths: Array | None = None) -> tuple[Array, Array, Array]:
        """x (n, t, i), lengths (n,) -> h at every step (n, t, d), 0 after a sequence's end; its last h and c (n, d)."""

        def cell(gates: Array, state: CellState) -> CellState:
            i, f, g, o = jnp.split(gates, 4, axis=1)
            c = sigmoid(f) * state[1] + sigmoid(i) * jnp.tanh(g)
            return sigmoid(o) * jnp.tanh(c), c

        (h, c), ys = _run(cell, self.dense_i, self.dense_h, x, lengths, states=2)
        return ys, h, c


def _run(
    cell: Cell, dense_i: Linear, dense_h: Linear, x: Array, lengths: Array | None, *, states: int
) -> tuple[CellState, Array]:
    n, t, _ = x.shape
    zeros = (jnp.zeros((n, dense_h.in_features), x.dtype),) * states
    state, ys = scan_cell(cell, *nnx.split((dense_i, dense_h)), x.swapaxes(0, 1), valid_steps(lengths, t), zeros)
    return state, ys.swapaxes(0, 1)

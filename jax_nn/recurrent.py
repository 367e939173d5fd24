"""Recurrent networks: one map, applied at every time step to the input and to its own last state.

``lax.scan`` compiles the step once and runs it t times. The product with x stands inside the
step, although it need not wait for h: computed for all steps beforehand, its slices would be cut
out inside the loops over the gates, and XLA does not vectorise those on a CPU (measured at
(n, t, i, d) = (128, 28, 28, 128): twice the time of a training step).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.nn import sigmoid

from jax_nn.layers import Linear


def running(lengths: Array | None, t: int) -> Array:
    """(t, n, 1): is step t before the end of sequence n?  ``lengths`` None: all sequences have all t steps."""
    return jnp.ones((t, 1, 1), bool) if lengths is None else (jnp.arange(t)[:, None] < lengths)[:, :, None]


class RNN(nnx.Module):
    """h ← tanh(x Wᵢ + h Wₕ + b) at every step  (Elman 1990, "Finding structure in time")."""

    def __init__(self, i: int, d: int, *, rngs: nnx.Rngs):
        self.dense_i = Linear(i, d, use_bias=False, rngs=rngs)
        self.dense_h = Linear(d, d, rngs=rngs)

    def __call__(self, x: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        """x (n, t, i) -> h after every step (n, t, d), 0 after a sequence's end, and each one's last h (n, d)."""
        n, t, _ = x.shape

        def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            x, alive = inputs
            new = jnp.tanh(self.dense_i(x) + self.dense_h(h))
            return jnp.where(alive, new, h), jnp.where(alive, new, 0)

        h = jnp.zeros((n, self.dense_h.in_features), x.dtype)
        h, ys = lax.scan(step, h, (x.swapaxes(0, 1), running(lengths, t)))
        return ys.swapaxes(0, 1), h


class LSTM(nnx.Module):
    """[i f g o] = [σ σ tanh σ](x Wᵢ + h Wₕ + b),  c ← f c + i g,  h ← o tanh(c) at every step.

    Hochreiter & Schmidhuber 1997, with the forget gate f of Gers et al. 2000, without peepholes.
    """

    def __init__(self, i: int, d: int, *, rngs: nnx.Rngs):
        self.dense_i = Linear(i, 4 * d, use_bias=False, rngs=rngs)
        self.dense_h = Linear(d, 4 * d, rngs=rngs)

    def __call__(self, x: Array, lengths: Array | None = None) -> tuple[Array, Array, Array]:
        """x (n, t, i) -> h after every step (n, t, d), 0 after a sequence's end, and each one's last h and c (n, d)."""
        n, t, _ = x.shape

        def step(state: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            (h, c), (x, alive) = state, inputs
            i, f, g, o = jnp.split(self.dense_i(x) + self.dense_h(h), 4, axis=1)
            new_c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
            new_h = sigmoid(o) * jnp.tanh(new_c)
            return (jnp.where(alive, new_h, h), jnp.where(alive, new_c, c)), jnp.where(alive, new_h, 0)

        zero = jnp.zeros((n, self.dense_h.in_features), x.dtype)
        (h, c), ys = lax.scan(step, (zero, zero), (x.swapaxes(0, 1), running(lengths, t)))
        return ys.swapaxes(0, 1), h, c

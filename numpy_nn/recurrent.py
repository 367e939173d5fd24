"""Recurrent networks: the same function at every time step, of the input and of the state of the last step.

Backward goes through time from the end (backpropagation through time, Werbos 1990): the gradient of the state after
step t is the gradient from the output at t plus the gradient from step t + 1. Only the matmuls with h depend on each
other; those with x, and all gradients of kernels, are single matmuls over all steps.

Sequences in a batch may end at different steps, given by ``lengths``. After its end the state of a sequence stays as
it is, and its output is 0, as in PyTorch's packed sequences.

Inside, time comes first: (t, n, ...), so that a step is contiguous in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_nn.initializers import lecun_normal, orthogonal
from numpy_nn.layers import channel_sums, sigmoid
from numpy_nn.shapes import Array, Bool, Float, Int
from numpy_nn.tree import Tree

Cache = Any


def _init(rng: np.random.Generator, i: int, d: int, gates: int) -> Tree:
    inputs = [lecun_normal(rng, (i, d), i, d) for _ in range(gates)]
    states = [orthogonal(rng, (d, d), d, d) for _ in range(gates)]
    return {
        "dense_i": {"kernel": np.concatenate(inputs, axis=1)},
        "dense_h": {"kernel": np.concatenate(states, axis=1), "bias": np.zeros(gates * d)},
    }


def initial_state(h: Float[Array, "n d"] | None, n: int, params: Tree, dtype: Any) -> Float[Array, "n d"]:
    """Return the state before the first step: ``h``, or zeros (n, d)."""
    return np.zeros((n, len(params["dense_h"]["kernel"])), dtype) if h is None else h


def running(lengths: Int[Array, " n"] | None, n: int, t: int) -> Bool[Array, "t n 1"]:
    """Whether step t is before the end of sequence n; without ``lengths``, all sequences have t steps."""
    if lengths is None:
        return np.ones((t, n, 1), bool)
    if lengths.shape != (n,):
        raise ValueError(f"lengths of shape {lengths.shape}: one number is needed for each of the {n} sequences")
    for at, length in enumerate(lengths.tolist()):
        if not 1 <= length <= t:
            raise ValueError(f"sequence {at} has length {length}: it must lie between 1 and {t}, the number of steps")
    return (np.arange(t)[:, None] < lengths)[:, :, None]


def project(x: Float[Array, "n t i"], params: Tree) -> tuple[Float[Array, "t n i"], Float[Array, "t n g"]]:
    """Return x with time first, and x Wᵢ + b of all steps, in one matmul."""
    x = np.ascontiguousarray(x.swapaxes(0, 1))
    t, n, i = x.shape
    z = x.reshape(t * n, i) @ params["dense_i"]["kernel"]
    z += params["dense_h"]["bias"]
    return x, z.reshape(t, n, -1)


def project_backward(
    dz: Float[Array, "t n g"], x: Float[Array, "t n i"], hs: Float[Array, "t1 n d"], params: Tree
) -> tuple[Float[Array, "n t i"], Tree]:
    """z = x Wᵢ + h Wₕ + b:  dx = dz Wᵢᵀ,  dWᵢ = Σₜ xᵀ dz,  dWₕ = Σₜ hᵀ dz with h before the step,  db = Σₜ dz."""
    t, n, g = dz.shape
    rows = dz.reshape(t * n, g)
    dx = (rows @ params["dense_i"]["kernel"].T).reshape(x.shape).swapaxes(0, 1)
    dkernel_i = x.reshape(t * n, -1).T @ rows
    dkernel_h = hs[:-1].reshape(t * n, -1).T @ rows
    return dx, {"dense_i": {"kernel": dkernel_i}, "dense_h": {"kernel": dkernel_h, "bias": channel_sums(rows)}}


# --- simple recurrent network -----------------------------------------------------------------------------------------


def rnn_init(rng: np.random.Generator, i: int, d: int) -> Tree:
    """Parameters: ``dense_i/kernel (i, d)``, ``dense_h/kernel (d, d)`` orthogonal, ``dense_h/bias (d,)`` zero."""
    return _init(rng, i, d, gates=1)


def rnn_forward(
    x: Float[Array, "n t i"],
    params: Tree,
    h: Float[Array, "n d"] | None = None,
    *,
    lengths: Int[Array, " n"] | None = None,
) -> tuple[Float[Array, "n t d"], Float[Array, "n d"], Cache]:
    """h ← tanh(x Wᵢ + h Wₕ + b) at every step  (Elman 1990, "Finding structure in time").

    Returns h after every step, and the last h of each sequence.
    """
    n, t, _ = x.shape
    alive = running(lengths, n, t)
    x, z = project(x, params)
    kernel = params["dense_h"]["kernel"]
    h = initial_state(h, n, params, x.dtype)
    hs = np.empty_like(z, shape=(t + 1, *h.shape))  # hs[step] is h before the step, hs[step + 1] after it
    hs[0] = h
    for step in range(t):
        z[step] += hs[step] @ kernel
        hs[step + 1] = np.where(alive[step], np.tanh(z[step]), hs[step])
    ys = (hs[1:] * alive).swapaxes(0, 1)
    return ys, hs[t], (x, hs, alive, params)


def rnn_backward(
    dys: Float[Array, "n t d"] | None, dh: Float[Array, "n d"] | None, cache: Cache
) -> tuple[Float[Array, "n t i"], Tree, Float[Array, "n d"]]:
    """dz = dh (1 - h²),  dh ← dz Wₕᵀ plus the output's gradient, from the last step to the first.

    None stands for zeros: pass ``dys=None`` if only the last state is used.
    """
    x, hs, alive, params = cache
    kernel = params["dense_h"]["kernel"]
    dys, dh = outer_gradients(dys, dh, hs, alive)
    dz = np.empty_like(hs[1:])
    for step in reversed(range(len(dz))):
        h = hs[step + 1]
        dh = dh + dys[step]
        # h = tanh(z)
        dz[step] = dh * (1 - h * h) * alive[step]
        # z = x Wᵢ + h Wₕ + b; after the end of a sequence h stays as it is, and so does dh
        dh = np.where(alive[step], dz[step] @ kernel.T, dh)
    dx, dparams = project_backward(dz, x, hs, params)
    return dx, dparams, dh


def outer_gradients(
    dys: Float[Array, "n t d"] | None, dh: Float[Array, "n d"] | None, hs: Array, alive: Array
) -> tuple[Float[Array, "t n d"], Float[Array, "n d"]]:
    """The gradients of outputs as (t, n, d), 0 after the end of a sequence, and of the last state; None is zeros."""
    by_step = np.zeros_like(hs[1:]) if dys is None else dys.swapaxes(0, 1) * alive
    return by_step, np.zeros_like(hs[0]) if dh is None else dh


# --- long short-term memory -------------------------------------------------------------------------------------------


def lstm_init(rng: np.random.Generator, i: int, d: int) -> Tree:
    """Parameters: ``dense_i/kernel (i, 4d)``, ``dense_h/kernel (d, 4d)`` orthogonal per gate, ``dense_h/bias (4d,)``.

    The bias is 1 for the forget gate, which therefore starts open (Gers et al. 2000; Jozefowicz et al. 2015),
    and 0 for the others.
    """
    params = _init(rng, i, d, gates=4)
    params["dense_h"]["bias"][d : 2 * d] = 1
    return params


def lstm_forward(
    x: Float[Array, "n t i"],
    params: Tree,
    h: Float[Array, "n d"] | None = None,
    c: Float[Array, "n d"] | None = None,
    *,
    lengths: Int[Array, " n"] | None = None,
) -> tuple[Float[Array, "n t d"], Float[Array, "n d"], Float[Array, "n d"], Cache]:
    """[i f g o] = [σ σ tanh σ](x Wᵢ + h Wₕ + b),  c ← f c + i g,  h ← o tanh(c) at every step.

    Hochreiter & Schmidhuber 1997, with the forget gate f of Gers et al. 2000, without peepholes.
    Returns h after every step, and the last h and c of each sequence.
    """
    n, t, _ = x.shape
    alive = running(lengths, n, t)
    x, z = project(x, params)
    kernel = params["dense_h"]["kernel"]
    h, c = initial_state(h, n, params, x.dtype), initial_state(c, n, params, x.dtype)
    hs, cs = np.empty((2, t + 1, *h.shape), x.dtype)  # before and after each step
    hs[0], cs[0] = h, c
    tanh_c = np.empty_like(cs[1:])
    for step in range(t):
        z[step] += hs[step] @ kernel
        i, f, g, o = np.split(z[step], 4, axis=1)  # views: the gates overwrite z
        i[:], f[:], g[:], o[:] = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        new = f * cs[step] + i * g
        tanh_c[step] = np.tanh(new)
        cs[step + 1] = np.where(alive[step], new, cs[step])
        hs[step + 1] = np.where(alive[step], o * tanh_c[step], hs[step])
    ys = (hs[1:] * alive).swapaxes(0, 1)
    return ys, hs[t], cs[t], (x, z, hs, cs, tanh_c, alive, params)


def lstm_backward(
    dys: Float[Array, "n t d"] | None, dh: Float[Array, "n d"] | None, dc: Float[Array, "n d"] | None, cache: Cache
) -> tuple[Float[Array, "n t i"], Tree, Float[Array, "n d"], Float[Array, "n d"]]:
    """do = dh tanh(c),  dc ← dc + dh o (1 - tanh²c),  [di df dg] = dc [g c₋₁ i],  dc ← dc f,  dh ← dz Wₕᵀ.

    c₋₁ is c before the step. Along c the gradient is multiplied by f alone: while the gate is open, f ≈ 1, it neither
    vanishes nor explodes. None stands for zeros.
    """
    x, gates, hs, cs, tanh_c, alive, params = cache
    kernel = params["dense_h"]["kernel"]
    dys, dh = outer_gradients(dys, dh, hs, alive)
    dc = np.zeros_like(cs[0]) if dc is None else dc
    dz = np.empty_like(gates)
    for step in reversed(range(len(dz))):
        i, f, g, o = np.split(gates[step], 4, axis=1)
        di, df, dg, do = np.split(dz[step], 4, axis=1)
        dh = dh + dys[step]
        # h = o tanh(c)
        do[:] = dh * tanh_c[step]
        dnew = dc + dh * o * (1 - tanh_c[step] ** 2)
        # c = f c₋₁ + i g
        di[:], df[:], dg[:] = dnew * g, dnew * cs[step], dnew * i
        dc = np.where(alive[step], dnew * f, dc)
        # σ' = σ (1 - σ), tanh' = 1 - tanh²
        di *= i * (1 - i)
        df *= f * (1 - f)
        dg *= 1 - g * g
        do *= o * (1 - o)
        # z = x Wᵢ + h Wₕ + b; after the end of a sequence h and c stay as they are, and so do dh and dc
        dz[step] *= alive[step]
        dh = np.where(alive[step], dz[step] @ kernel.T, dh)
    dx, dparams = project_backward(dz, x, hs, params)
    return dx, dparams, dh, dc

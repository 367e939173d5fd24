"""The table of operations, second part: normalisation, recurrence, attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from support.gradcheck import Case
from torch.func import functional_call
from torch.nn.utils import rnn

from numpy_nn import attention, norm, recurrent
from numpy_nn.tree import cast

RNG = np.random.default_rng(8)
CASES: list[Case] = []

# --- normalisation ----------------------------------------------------------------------------------------------------

STATS = {"mean": RNG.normal(size=3), "var": RNG.uniform(0.5, 2, 3)}
SCALE, BIAS = RNG.normal(size=3) + 1, RNG.normal(size=3)


def batch_norm(train: bool) -> Any:
    return lambda x, scale, bias: norm.batch_norm_forward(x, scale, bias, cast(STATS, x.dtype), norm.Mode(train))


def jax_norm(axes: tuple[int, ...], stats: Any = None) -> Any:
    def apply(x: Any, scale: Any, bias: Any) -> Any:
        mean, var = (
            (stats["mean"], stats["var"]) if stats else (x.mean(axes, keepdims=True), x.var(axes, keepdims=True))
        )
        return scale * (x - mean) / jnp.sqrt(var + 1e-5) + bias

    return apply


def torch_batch_norm(train: bool) -> Any:
    def apply(x: Any, scale: Any, bias: Any) -> Any:
        mean, var = torch.tensor(STATS["mean"]), torch.tensor(STATS["var"])
        return F.batch_norm(x.movedim(-1, 1), mean, var, scale, bias, training=train).movedim(1, -1)

    return apply


for name, shape in (("", (3, 4, 2, 3)), (" of rows", (4, 3))):
    axes = tuple(range(len(shape) - 1))
    CASES += [
        Case(f"batch_norm{name} training", batch_norm(True), norm.batch_norm_backward,
             [shape, SCALE, BIAS], jax_norm(axes), torch_batch_norm(True), outputs=1),
        Case(f"batch_norm{name} in use", batch_norm(False), norm.batch_norm_backward,
             [shape, SCALE, BIAS], jax_norm(axes, STATS), torch_batch_norm(False), outputs=1),
        Case(f"layer_norm{name}", norm.layer_norm_forward, norm.layer_norm_backward,
             [shape, SCALE, BIAS], jax_norm((-1,)), lambda x, s, b: F.layer_norm(x, (3,), s, b)),
    ]  # fmt: skip

# --- recurrence -------------------------------------------------------------------------------------------------------

LENGTHS = np.array([3, 1, 4], np.int32)


def recurrent_params(i: int, d: int, gates: int) -> Any:
    return {"dense_i": {"kernel": (i, gates * d)}, "dense_h": {"kernel": (d, gates * d), "bias": (gates * d,)}}


def rnn_step(z: Any, h: Any) -> tuple[Any, ...]:
    return (jnp.tanh(z),)


def lstm_step(z: Any, h: Any, c: Any) -> tuple[Any, ...]:
    i, f, g, o = jnp.split(z, 4, axis=1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def jax_recurrent(step: Any, lengths: Any) -> Any:
    def apply(x: Any, params: Any, *state: Any) -> Any:
        ys = []
        for t in range(x.shape[1]):
            alive = (t < lengths)[:, None]
            z = x[:, t] @ params["dense_i"]["kernel"] + state[0] @ params["dense_h"]["kernel"]
            new = step(z + params["dense_h"]["bias"], *state)
            state = tuple(jnp.where(alive, after, before) for after, before in zip(new, state, strict=True))
            ys.append(jnp.where(alive, state[0], 0.0))
        return jnp.stack(ys, axis=1), *state

    return apply


def torch_recurrent(module: Any, lengths: Any) -> Any:
    """PyTorch's own module, given our weights; packed, if sequences differ in length."""

    def apply(x: Any, params: Any, *state: Any) -> Any:
        weights = {
            "weight_ih_l0": params["dense_i"]["kernel"].T,
            "weight_hh_l0": params["dense_h"]["kernel"].T,
            "bias_ih_l0": torch.zeros_like(params["dense_h"]["bias"]),
            "bias_hh_l0": params["dense_h"]["bias"],
        }
        own = module(x.shape[2], state[0].shape[1], batch_first=True, dtype=x.dtype)
        packed = rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        first = tuple(s[None] for s in state)
        ys, last = functional_call(own, weights, (packed, first if len(first) > 1 else first[0]))
        ys, _ = rnn.pad_packed_sequence(ys, batch_first=True, total_length=x.shape[1])
        return ys, *(s[0] for s in (last if len(first) > 1 else (last,)))

    return apply


for name, lengths, given in [("", np.full(3, 4), None), (" of different lengths", LENGTHS, LENGTHS)]:
    CASES += [
        Case(f"rnn{name}", recurrent.rnn_forward, recurrent.rnn_backward,
             [(3, 4, 2), recurrent_params(2, 5, 1), (3, 5)],
             jax_recurrent(rnn_step, lengths), torch_recurrent(torch.nn.RNN, lengths), {"lengths": given}),
        Case(f"lstm{name}", recurrent.lstm_forward, recurrent.lstm_backward,
             [(3, 4, 2), recurrent_params(2, 5, 4), (3, 5), (3, 5)],
             jax_recurrent(lstm_step, lengths), torch_recurrent(torch.nn.LSTM, lengths), {"lengths": given}),
    ]  # fmt: skip

# --- attention --------------------------------------------------------------------------------------------------------

CAUSAL = attention.causal_mask(4)
KEYS = np.array([[[[1, 0, 1]]], [[[0, 0, 0]]]], bool)  # the second sample allows no key at all
SQUARE = {"kernel": (6, 6), "bias": (6,)}
PROJECTIONS = {"query": SQUARE, "key": {"kernel": (6, 6)}, "value": SQUARE, "out": SQUARE}


def jax_attention(mask: Any) -> Any:
    # not jax.nn.dot_product_attention: its softmax is in float32 even for float64
    def apply(q: Any, k: Any, v: Any) -> Any:
        scores = jnp.einsum("nhtd,nhsd->nhts", q, k) / np.sqrt(q.shape[-1])
        p = jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, -1e30))
        return jnp.einsum("nhts,nhsd->nhtd", p if mask is None else jnp.where(mask, p, 0.0), v)

    return apply


def torch_attention(mask: Any) -> Any:
    mask = None if mask is None else torch.tensor(mask)
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def jax_multi_head(heads: int, mask: Any) -> Any:
    def apply(x: Any, params: Any) -> Any:
        def project(name: str) -> Any:
            y = x @ params[name]["kernel"] + params[name].get("bias", 0.0)
            return y.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

        y = jax_attention(mask)(project("query"), project("key"), project("value"))
        return y.swapaxes(1, 2).reshape(x.shape) @ params["out"]["kernel"] + params["out"]["bias"]

    return apply


def torch_multi_head(heads: int, mask: Any) -> Any:
    """PyTorch's own module, given our weights; its masks are True where one may not look."""

    def apply(x: Any, params: Any) -> Any:
        inputs = [params[name] for name in ("query", "key", "value")]
        key_bias = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)  # whatever it is makes no difference
        weights = {
            "in_proj_weight": torch.cat([p["kernel"].T for p in inputs]),
            "in_proj_bias": torch.cat([p.get("bias", key_bias) for p in inputs]),
            "out_proj.weight": params["out"]["kernel"].T,
            "out_proj.bias": params["out"]["bias"],
        }
        own = torch.nn.MultiheadAttention(x.shape[2], heads, batch_first=True, dtype=x.dtype)
        forbidden = None if mask is None else ~torch.tensor(mask)
        y, _ = functional_call(own, weights, (x, x, x), {"attn_mask": forbidden, "need_weights": False})
        return y

    return apply


for name, t, s, mask in [("", 4, 3, None), (" causal", 4, 4, CAUSAL), (" without any key", 4, 3, KEYS)]:
    CASES.append(
        Case(f"attention{name}",
             attention.scaled_dot_product_attention_forward, attention.scaled_dot_product_attention_backward,
             [(2, 2, t, 5), (2, 2, s, 5), (2, 2, s, 5)], jax_attention(mask), torch_attention(mask), {"mask": mask}),
    )  # fmt: skip
for name, mask in [("", None), (" causal", CAUSAL)]:
    CASES.append(
        Case(f"multi_head_attention{name}",
             attention.multi_head_attention_forward, attention.multi_head_attention_backward,
             [(2, 4, 6), PROJECTIONS], jax_multi_head(2, mask),
             torch_multi_head(2, mask), {"heads": 2, "mask": mask}),
    )  # fmt: skip
CASES.append(
    Case("tokens", lambda x, first, places: (attention.tokens_forward(x, first, places), None),
         lambda dy, _: attention.tokens_backward(dy), [(2, 4, 6), (1, 1, 6), (1, 5, 6)],
         lambda x, first, places: jnp.concatenate([jnp.broadcast_to(first, (2, 1, 6)), x], axis=1) + places,
         lambda x, first, places: torch.cat([first.expand(2, 1, 6), x], dim=1) + places),
)  # fmt: skip
CASES.append(
    Case("positions", attention.positions_forward, attention.positions_backward,
         [(2, 4, 6), (5, 6)], *[lambda x, positions: x + positions[:4]] * 2),
)  # fmt: skip

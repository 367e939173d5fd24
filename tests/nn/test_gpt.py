"""GPT against the published GPT-2 of transformers, and what only a network of sequences can get wrong."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from support.gradcheck import assert_close

import jax_nn.models
import numpy_nn.models
import torch_nn.models
from compare import tracks
from compare.config import Config
from compare.parity import check
from jax_nn import interop as jax_interop
from numpy_nn.losses import rows
from numpy_nn.tree import Tree, from_leaves, leaves
from torch_nn import interop as torch_interop

TOLERANCE = 2e-14  # of logits and gradients in float64
SMALL: dict[str, Any] = {"input_shape": (9,), "dim": 12, "depth": 2, "heads": 3, "mlp_dim": 20, "classes": 11}


# --- logits and gradients of each track -------------------------------------------------------------------------------


def numpy_answer(args: dict, params: Tree, x: np.ndarray, dlogits: np.ndarray) -> tuple[Any, Tree]:
    network = numpy_nn.models.MODELS["gpt"](**args)
    logits, _, cache = network.forward(params, {}, x)
    return logits, network.backward(dlogits, cache)


def jax_answer(args: dict, params: Tree, x: np.ndarray, dlogits: np.ndarray) -> tuple[Any, Tree]:
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: jax_nn.models.MODELS["gpt"](**args, rngs=nnx.Rngs(0))))
        logits, vjp = jax.vjp(
            lambda params: nnx.merge(graphdef, params)(jax.numpy.asarray(x)), jax_interop.to_jax(params, "float64")
        )
        return np.asarray(logits), jax_interop.to_numpy(vjp(jax.numpy.asarray(dlogits))[0])


def torch_answer(args: dict, params: Tree, x: np.ndarray, dlogits: np.ndarray) -> tuple[Any, Tree]:
    network = torch_nn.models.MODELS["gpt"](**args).double()
    torch_interop.params_from_tree(network, params)
    logits = network(torch.tensor(x))
    logits.backward(torch.tensor(dlogits))
    return logits.detach().numpy(), torch_interop.params_to_tree(network, lambda p: p.grad)


ANSWERS = {"numpy": numpy_answer, "jax": jax_answer, "torch": torch_answer}


# --- the published network --------------------------------------------------------------------------------------------


def published(*, tied: bool) -> torch.nn.Module:
    """A small GPT-2 of transformers with random weights, in float64 and without dropout."""
    gpt2 = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[dev]'")
    config = gpt2.GPT2Config(
        n_positions=9,
        n_embd=12,
        n_layer=2,
        n_head=3,
        n_inner=20,
        vocab_size=11,
        activation_function="gelu",  # the exact form
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    network = gpt2.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return network


def canonical(named: dict[str, Any], *, tied: bool) -> Tree:
    """The weights or gradients of GPT-2 as our tree. Its layers have kernels (i, o), as ours do.

    Query, key and value are one matrix there. The bias of the keys has no place in ours: it changes nothing.
    """

    def block(prefix: str) -> Tree:
        kernels = named[f"{prefix}.attn.c_attn.weight"].chunk(3, dim=1)
        query_bias, _, value_bias = named[f"{prefix}.attn.c_attn.bias"].chunk(3)
        return {
            "norm1": pair("scale", f"{prefix}.ln_1"),
            "attention": {
                "query": {"kernel": kernels[0], "bias": query_bias},
                "key": {"kernel": kernels[1]},
                "value": {"kernel": kernels[2], "bias": value_bias},
                "out": pair("kernel", f"{prefix}.attn.c_proj"),
            },
            "norm2": pair("scale", f"{prefix}.ln_2"),
            "expand": pair("kernel", f"{prefix}.mlp.c_fc"),
            "contract": pair("kernel", f"{prefix}.mlp.c_proj"),
        }

    def pair(name: str, prefix: str) -> Tree:
        return {name: named[f"{prefix}.weight"], "bias": named[f"{prefix}.bias"]}

    tree = {
        "embedding": {"embedding": named["transformer.wte.weight"]},
        "positions": {"pos_embedding": named["transformer.wpe.weight"]},
        "blocks": {str(k): block(f"transformer.h.{k}") for k in range(2)},
        "norm": pair("scale", "transformer.ln_f"),
    }
    if not tied:
        tree["output"] = {"kernel": named["lm_head.weight"].T}
    return from_leaves({path: leaf.detach().numpy().copy() for path, leaf in leaves(tree).items()})


@pytest.mark.parametrize("track", ANSWERS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_logits_and_gradients_match_the_published_gpt2(tied, track, rng):
    torch.manual_seed(0)
    reference = published(tied=tied)
    x = rng.integers(0, 11, (3, 7)).astype(np.int32)  # fewer tokens than there are positions
    dlogits = rng.normal(size=(3, 7, 11))
    want = reference(torch.tensor(x, dtype=torch.int64)).logits
    want.backward(torch.tensor(dlogits))
    grads = {name: parameter.grad for name, parameter in reference.named_parameters()}

    params = canonical(reference.state_dict(), tied=tied)
    logits, got = ANSWERS[track]({**SMALL, "tied": tied}, params, x, dlogits)
    assert_close(logits, want.detach().numpy(), TOLERANCE, "logits")
    assert_close(got, canonical(grads, tied=tied), TOLERANCE, "gradient ")


# --- sequences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("track", ANSWERS)
def test_a_token_changes_no_logit_before_it(track, rng):
    params = numpy_nn.models.MODELS["gpt"](**SMALL).init(rng)["params"]
    x, dlogits = rng.integers(0, 11, (1, 9)).astype(np.int32), np.zeros((1, 9, 11))
    changed = x.copy()
    changed[0, 5] = (x[0, 5] + 1) % 11
    a, b = (ANSWERS[track](SMALL, params, tokens, dlogits)[0] for tokens in (x, changed))
    assert np.array_equal(a[:, :5], b[:, :5])
    assert (np.abs(a[:, 5:] - b[:, 5:]).max(axis=2) > 1e-6).all()


def test_tracks_agree_with_an_output_layer_of_its_own():
    config = Config(preset="untied", model="gpt", dataset="random", model_args={**SMALL, "tied": False}, lr=0.05)
    config = dataclasses.replace(config, precision="float64", optimizer="adamw", optimizer_args={"weight_decay": 0.1})
    for row, _ in check.check_parity(config, list(tracks.TRACKS), steps=2):
        assert row["passed"], row["checks"]


@pytest.mark.parametrize("track", tracks.TRACKS)
def test_padded_tokens_do_not_count(track, rng):
    module = tracks.load(track)
    snapshot = numpy_nn.models.MODELS["gpt"](**SMALL).init(rng)
    state = module.init_state(snapshot, model="gpt", model_args=SMALL, schedule_args={"lr": 0.1, "steps": 1})
    x, y = (rng.integers(0, 11, (2, 9)) for _ in range(2))
    x, y = x.astype(np.uint8), y.astype(np.int32)
    y[1, 4:] = -1
    sums = {name: float(value) for name, value in module.eval_batch(state, x, y).items()}
    logits = np.asarray(module.logits(state, x), np.float64)
    assert logits.shape == (2, 9, 11)
    log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    valid = y >= 0
    assert sums["count"] == 13
    assert sums["loss_sum"] == pytest.approx(-np.take_along_axis(log_p, y[..., None], 2)[..., 0][valid].sum(), rel=1e-5)
    assert sums["correct"] == (logits.argmax(axis=2) == y)[valid].sum()


def test_rows_leave_images_as_they_are():
    outputs, labels = np.zeros((3, 5)), np.zeros((3, 5))  # labels as mixup makes them
    assert all(a is b for a, b in zip(rows(outputs, labels), (outputs, labels), strict=True))


@pytest.mark.long
@pytest.mark.parametrize(
    ("track", "several"), [("numpy", {"threads": 2}), ("jax", {"devices": 2}), ("torch", {"devices": 2})]
)
def test_sequences_are_split_among_processes_and_devices(track, several, rng):
    module = tracks.load(track)
    snapshot = numpy_nn.models.MODELS["gpt"](**SMALL).init(rng)
    tokens = rng.integers(0, 11, (2, 4, 10))
    x, y = tokens[..., :-1].astype(np.uint8), tokens[..., 1:].astype(np.int32)
    losses, params = [], []
    with jax.enable_x64(True):
        for how in ({}, several):
            how = {"schedule_args": {"lr": 0.1, "steps": 2}, "precision": "float64", "accumulate": 2, **how}
            state = module.init_state(snapshot, model="gpt", model_args=SMALL, **how)
            state, metrics = module.train_steps(state, x, y)
            losses.append(np.asarray(metrics["loss"]))
            params.append(module.to_snapshot(state)["params"])
            assert float(module.eval_batch(state, x[0], y[0])["count"]) == 36
    assert_close(losses[1], losses[0], TOLERANCE, "loss")
    assert_close(params[1], params[0], TOLERANCE, "parameter ")


# --- decoding with a key-value cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize("track", tracks.TRACKS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_decoding_with_a_cache_equals_recomputation(tied, track, rng):
    args = {**SMALL, "tied": tied}
    network = numpy_nn.models.MODELS["gpt"](**args)
    params = network.init(rng)["params"]
    with jax.enable_x64(True):
        decoder = decoder_of(track)(params, model_args=args, precision="float64")
        for lengths in ((4, 1, 1, 3), (2, 1)):  # the second sequence finds the cache of the first
            x = rng.integers(0, 11, (1, sum(lengths))).astype(np.int32)
            want, _, _ = network.forward(params, {}, x)
            start = 0
            for t in lengths:
                logits = decoder(x[0, start : start + t], start)
                start += t
                assert_close(logits, want[0, start - 1], TOLERANCE, f"logits at {start - 1}")


def decoder_of(track: str) -> Any:
    return importlib.import_module(f"{track}_nn.generate").Decoder

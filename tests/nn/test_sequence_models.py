"""RNN, LSTM and ViT against PyTorch's and torchvision's own modules, with the same random weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.gradcheck import assert_close
from torch import nn
from torchvision.models import VisionTransformer

import jax_nn.attention
import jax_nn.models
import jax_nn.recurrent
import numpy_nn.attention
import numpy_nn.models
import torch_nn.attention
import torch_nn.models
import torch_nn.recurrent
from compare.parity import check
from jax_nn import interop as jax_interop
from jax_nn import optim as jax_optim
from numpy_nn import optim as numpy_optim
from numpy_nn import recurrent
from numpy_nn.layers import embedding_forward
from numpy_nn.norm import TRAIN
from numpy_nn.tree import Tree, from_leaves, leaves
from torch_nn import interop as torch_interop
from torch_nn import optim as torch_optim

# Largest gap (see gradcheck) of logits or gradients that may be; in brackets the largest seen.
TOLERANCES = {"float64": 2e-14, "float32": 5e-6}  # (2.2e-15, 5.3e-7)
PRECISIONS = list(TOLERANCES)
DTYPES = {"float64": torch.float64, "float32": torch.float32}

Named = dict[str, torch.Tensor]  # by the names of a state_dict


# --- networks that others wrote ---------------------------------------------------------------------------------------


class Rows(nn.Module):
    """PyTorch's recurrent module over the rows of an image, and a linear map of its last state."""

    def __init__(self, module: type[nn.RNNBase], hidden: int):
        super().__init__()
        self.recurrent = module(8 * 3, hidden, batch_first=True)
        self.output = nn.Linear(hidden, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, last = self.recurrent(x.permute(0, 2, 3, 1).flatten(2))
        h = last[0] if isinstance(last, tuple) else last
        return self.output(h[0])


def rows_tree(name: str, named: Named) -> Tree:
    """PyTorch's two biases are added; ours is the sum of both."""
    return from_leaves(
        {
            f"{name}/dense_i/kernel": named["recurrent.weight_ih_l0"].T,
            f"{name}/dense_h/kernel": named["recurrent.weight_hh_l0"].T,
            f"{name}/dense_h/bias": named["recurrent.bias_ih_l0"] + named["recurrent.bias_hh_l0"],
            "output/kernel": named["output.weight"].T,
            "output/bias": named["output.bias"],
        }
    )


def attention_tree(named: Named, prefix: str = "") -> Tree:
    """PyTorch's three matrices in one, and a bias of the keys, which changes nothing and has no place in ours."""
    kernels = named[f"{prefix}in_proj_weight"].chunk(3)
    query_bias, _, value_bias = named[f"{prefix}in_proj_bias"].chunk(3)
    return {
        "query": {"kernel": kernels[0].T, "bias": query_bias},
        "key": {"kernel": kernels[1].T},
        "value": {"kernel": kernels[2].T, "bias": value_bias},
        "out": {"kernel": named[f"{prefix}out_proj.weight"].T, "bias": named[f"{prefix}out_proj.bias"]},
    }


def vit_tree(named: Named) -> Tree:
    """torchvision's names and layouts in ours."""

    def linear(name: str) -> Tree:
        return {"kernel": named[f"{name}.weight"].T, "bias": named[f"{name}.bias"]}

    def norm(name: str) -> Tree:
        return {"scale": named[f"{name}.weight"], "bias": named[f"{name}.bias"]}

    def block(prefix: str) -> Tree:
        return {
            "norm1": norm(f"{prefix}.ln_1"),
            "attention": attention_tree(named, f"{prefix}.self_attention."),
            "norm2": norm(f"{prefix}.ln_2"),
            "expand": linear(f"{prefix}.mlp.0"),
            "contract": linear(f"{prefix}.mlp.3"),
        }

    return {
        "patches": {"kernel": named["conv_proj.weight"].permute(2, 3, 1, 0), "bias": named["conv_proj.bias"]},
        "tokens": {"class_token": named["class_token"], "pos_embedding": named["encoder.pos_embedding"]},
        "blocks": {str(k): block(f"encoder.layers.encoder_layer_{k}") for k in range(2)},
        "norm": norm("encoder.ln"),
        "output": linear("heads.head"),
    }


def foreign(model: str) -> tuple[nn.Module, dict[str, Any]]:
    """A network that nobody here wrote, and the arguments that make ours the same."""
    if model == "vit":
        sizes = {"image_size": 12, "patch_size": 4, "hidden_dim": 12, "num_layers": 2, "num_heads": 3, "mlp_dim": 20}
        args = {"input_shape": (12, 12, 3), "patch": 4, "dim": 12, "depth": 2, "heads": 3, "mlp_dim": 20, "eps": 1e-6}
        return VisionTransformer(**sizes, num_classes=7), {**args, "classes": 7}
    module = {"rnn": nn.RNN, "lstm": nn.LSTM}[model]
    return Rows(module, hidden=9), {"input_shape": (12, 8, 3), "hidden": 9, "classes": 7}


def canonical(model: str, named: Named) -> Tree:
    """Weights or gradients of the foreign network as our tree."""
    tree = vit_tree(named) if model == "vit" else rows_tree(model, named)
    return from_leaves({path: leaf.detach().numpy().copy() for path, leaf in leaves(tree).items()})


# --- the answer of each track -----------------------------------------------------------------------------------------


def numpy_answer(model: str, args: dict, params: Tree, x: np.ndarray, dlogits: np.ndarray) -> tuple[Any, Tree]:
    network = numpy_nn.models.MODELS[model](**args)
    logits, _, cache = network.forward(params, {}, x, TRAIN)
    return logits, network.backward(dlogits, cache)


def jax_answer(model: str, args: dict, params: Tree, x: np.ndarray, dlogits: np.ndarray) -> tuple[Any, Tree]:
    (logits, (grads, _)) = run_jax(lambda: jax_nn.models.MODELS[model](**args, rngs=nnx.Rngs(0)), params, x, dlogits)
    return logits, grads


def run_jax(build: Any, params: Tree, x: np.ndarray, dy: Any, *rest: Any) -> tuple[Any, tuple[Tree, np.ndarray]]:
    """Outputs of an nnx module for x, and the gradients of its parameters and of x."""
    with jax.enable_x64(x.dtype == np.float64), jax.default_matmul_precision("highest"):
        graphdef = nnx.graphdef(nnx.eval_shape(build))

        def outputs_and_gradients(params: Any, x: Any, dy: Any, rest: Any) -> Any:
            outputs, vjp = jax.vjp(lambda params, x: nnx.merge(graphdef, params)(x, *rest), params, x)
            return outputs, vjp(dy)

        # run once: compiling without optimization is faster
        compiled = jax.jit(outputs_and_gradients, compiler_options={"xla_backend_optimization_level": 0})
        outputs, (dparams, dx) = compiled(jax_interop.to_jax(params, x.dtype), x, dy, rest)
        return jax.tree.map(np.asarray, outputs), (jax_interop.to_numpy(dparams), np.asarray(dx))


def torch_answer(model: str, args: dict, params: Tree, x: np.ndarray, dlogits: np.ndarray) -> tuple[Any, Tree]:
    network = torch_nn.models.MODELS[model](**args).to(DTYPES[str(x.dtype)])
    torch_interop.params_from_tree(network, params)
    logits = network(torch.tensor(x).permute(0, 3, 1, 2))
    logits.backward(torch.tensor(dlogits))
    return logits.detach().numpy(), torch_interop.params_to_tree(network, lambda p: p.grad)


ANSWERS = {"numpy": numpy_answer, "jax": jax_answer, "torch": torch_answer}


@pytest.mark.parametrize("track", ANSWERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["rnn", "lstm", "vit"])
def test_logits_and_gradients_match_other_implementations(model, precision, track):
    torch.manual_seed(0)
    reference, args = foreign(model)
    reference.to(DTYPES[precision])
    with torch.no_grad():
        for p in reference.parameters():  # torchvision starts its head and its class token at 0
            p.copy_(0.3 * torch.randn(p.shape))
    x = torch.randn(5, *args["input_shape"], dtype=DTYPES[precision])
    dlogits = torch.randn(5, 7, dtype=DTYPES[precision])

    want = reference(x.permute(0, 3, 1, 2))
    want.backward(dlogits)
    grads = {name: p.grad for name, p in reference.named_parameters()}
    if "recurrent.bias_ih_l0" in grads:  # the gradient of one of the two is that of their sum
        grads["recurrent.bias_ih_l0"] = torch.zeros_like(grads["recurrent.bias_ih_l0"])

    params = canonical(model, reference.state_dict())
    logits, got = ANSWERS[track](model, args, params, x.numpy(), dlogits.numpy())
    assert str(logits.dtype) == precision
    assert_close(logits, want.detach().numpy(), TOLERANCES[precision], "logits")
    assert_close(got, canonical(model, grads), TOLERANCES[precision], "gradient ")


@pytest.mark.parametrize("track", ["jax", "torch"])
def test_vit_patches_of_a_rectangular_image(track, rng):
    args = {"input_shape": (6, 4, 3), "patch": 2, "dim": 6, "depth": 1, "heads": 2, "mlp_dim": 5, "classes": 7}
    params = numpy_nn.models.MODELS["vit"](**args).init(rng)["params"]
    params["tokens"]["class_token"] += rng.normal(size=(1, 1, 6))
    x, dlogits = rng.normal(size=(5, 6, 4, 3)), rng.normal(size=(5, 7))
    assert_close(
        ANSWERS[track]("vit", args, params, x, dlogits),
        ANSWERS["numpy"]("vit", args, params, x, dlogits),
        TOLERANCES["float64"],
        track,
    )


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, np.array([3, 1, 5], np.int32)], ids=["equal", "different"])
@pytest.mark.parametrize("name", ["RNN", "LSTM"])
def test_recurrent_layers_agree_on_every_step_and_length(name, lengths, rng):
    forward, backward, init = (getattr(recurrent, f"{name.lower()}_{part}") for part in ("forward", "backward", "init"))
    params = init(rng, 4, 6)
    x = rng.normal(size=(3, 5, 4))
    *outputs, cache = forward(x, params, lengths=lengths)
    douts = [rng.normal(size=y.shape) for y in outputs]
    dx, dparams, *_ = backward(*douts, cache)

    build = getattr(jax_nn.recurrent, f"{name}Layer")
    got, grads = run_jax(lambda: build(4, 6, rngs=nnx.Rngs(0)), params, x, tuple(douts), lengths)
    assert_close(list(got), outputs, TOLERANCES["float64"], "jax output")
    assert_close(grads, (dparams, dx), TOLERANCES["float64"], "jax d")

    layer = getattr(torch_nn.recurrent, f"{name}Layer")(4, 6).double()
    torch_interop.params_from_tree(layer, params)
    x = torch.tensor(x, requires_grad=True)
    got = torch_steps(layer, x, lengths)
    torch.autograd.backward(got, [torch.tensor(dy) for dy in douts])
    assert_close([y.detach().numpy() for y in got], outputs, TOLERANCES["float64"], "torch output")
    assert_close(x.grad.numpy(), dx, TOLERANCES["float64"], "torch dx")
    assert_close(torch_interop.params_to_tree(layer, lambda p: p.grad), dparams, TOLERANCES["float64"], "torch d")


def torch_steps(layer: nn.RNNBase, x: torch.Tensor, lengths: np.ndarray | None) -> list[torch.Tensor]:
    """Outputs of PyTorch's module in the order of ours: all h, the last h, the last c."""
    if lengths is None:
        ys, last = layer(x)
    else:
        ys, last = layer(torch_nn.recurrent.pack(x, torch.tensor(lengths)))
        ys = torch_nn.recurrent.unpack(ys, x.shape[1])
    return [ys, *(state[0] for state in (last if isinstance(last, tuple) else (last,)))]


def test_torch_recurrent_input_bias_stays_zero():
    layer = torch_nn.recurrent.LSTMLayer(4, 6)
    assert [name for name, _ in layer.named_parameters()] == ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"]
    assert not layer.bias_ih_l0.any()
    x = torch.randn(3, 5, 4)
    before = layer(x)[0]
    with torch.no_grad():
        layer.bias_ih_l0 += 1
    assert not torch.equal(layer(x)[0], before)  # it is the buffer that the kernel reads


@pytest.mark.parametrize("precision", PRECISIONS)
def test_attention_matches_other_implementations_under_every_mask(precision, rng):
    keys = np.array(
        [[True, True, False, True, True], [True, False, True, True, False]]
    )  # no one may look at the others
    causal = numpy_nn.attention.causal_mask(5)
    mask = causal & keys[:, None, None, :]
    x = torch.randn(2, 5, 6, dtype=DTYPES[precision])
    reference = nn.MultiheadAttention(6, 3, batch_first=True, dtype=x.dtype)
    with torch.no_grad():
        reference.in_proj_bias.normal_()
    want, _ = reference(
        x, x, x, attn_mask=~torch.tensor(causal), key_padding_mask=~torch.tensor(keys), need_weights=False
    )
    tree = attention_tree(dict(reference.named_parameters()))
    params = from_leaves({path: leaf.detach().numpy() for path, leaf in leaves(tree).items()})

    got, _ = numpy_nn.attention.multi_head_attention_forward(x.numpy(), params, heads=3, mask=mask)
    assert_close(got, want.detach().numpy(), TOLERANCES[precision], "numpy attention")

    layer = torch_nn.attention.MultiHeadAttention(6, heads=3).to(x.dtype)
    torch_interop.params_from_tree(layer, params)
    assert_close(layer(x, torch.tensor(mask)).detach().numpy(), want.detach().numpy(), TOLERANCES[precision], "torch")

    def build() -> nnx.Module:
        return jax_nn.attention.MultiHeadAttention(6, heads=3, rngs=nnx.Rngs(0))

    got, _ = run_jax(build, params, x.numpy(), x.numpy(), mask)
    assert_close(got, want.detach().numpy(), TOLERANCES[precision], "jax attention")


def test_fully_masked_query_returns_zeros(rng):
    q, k, v = rng.normal(size=(3, 2, 3, 4, 5)).astype(np.float32)
    mask = np.ones((4, 4), bool)
    mask[2] = False
    want, _ = numpy_nn.attention.scaled_dot_product_attention_forward(q, k, v, mask=mask)
    got = jax_nn.attention.scaled_dot_product_attention(*map(jnp.asarray, (q, k, v)), mask=jnp.asarray(mask))
    other = nn.functional.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), torch.tensor(mask))
    assert not want[:, :, 2].any()
    assert_close([np.asarray(got), other.numpy()], [want, want], TOLERANCES["float32"], "y")
    assert np.array_equal(jax_nn.attention.causal_mask(4), np.tri(4))
    assert np.array_equal(torch_nn.attention.causal_mask(4), np.tri(4))


def test_embeddings_are_equal_in_all_tracks(rng):
    ours = nn.ModuleDict({"words": nn.Embedding(5, 3)})
    tree = {"words": {"embedding": rng.normal(size=(5, 3)).astype(np.float32)}}
    torch_interop.params_from_tree(ours, tree)
    theirs = nnx.merge(nnx.graphdef(nnx.Embed(5, 3, rngs=nnx.Rngs(0))), jax_interop.to_jax(tree["words"], np.float32))
    tokens = np.array([[4, 0], [2, 2]], np.int32)
    want, _ = embedding_forward(tokens, **tree["words"])
    assert np.array_equal(ours["words"](torch.tensor(tokens)).detach(), want)
    assert np.array_equal(theirs(tokens), want)


# --- weight decay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", numpy_nn.models.MODELS)
def test_weight_decay_applies_to_the_same_leaves_in_every_track(model):
    args = check.EXAMPLES.get(model, {})
    params = numpy_nn.models.MODELS[model](**args).init(np.random.default_rng(0))["params"]
    want = {path for path in leaves(params) if numpy_optim.decays(path)}
    assert want == {path for path in leaves(params) if path.rpartition("/")[2] in ("kernel", "embedding")}

    assert {path for path, decayed in leaves(jax_optim.decay_mask(params)).items() if decayed} == want

    network = torch_nn.models.MODELS[model](**args)
    optimizer = torch_optim.make("adamw", network, weight_decay=0.1)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert {path for path, _, p in torch_interop.bindings(network) if id(p) in decayed} == want


def test_positions_and_class_token_have_no_weight_decay():
    params = numpy_nn.models.MODELS["vit"](dim=8).init(np.random.default_rng(0))["params"]
    free = {path for path in leaves(params) if not numpy_optim.decays(path)}
    assert {"tokens/class_token", "tokens/pos_embedding"} <= free
    assert numpy_optim.decays("words/embedding")
    assert torch_optim.decays("words/embedding")


# --- what cannot work says so -----------------------------------------------------------------------------------------

REFUSED = [
    ("rnn", {"hidden": 0}, "hidden is 0: the state needs at least 1 number"),
    ("lstm", {"hidden": -3}, "hidden is -3: the state needs at least 1 number"),
    ("vit", {"patch": 5}, "patch is 5: it must divide the image's height 28 and width 28"),
    ("vit", {"patch": 0}, "patch is 0: it must divide the image's height 28 and width 28"),
    ("vit", {"heads": 3}, "heads is 3: it must divide the number of features, 64"),
    ("vit", {"heads": 0}, "heads is 0: it must divide the number of features, 64"),
    ("gpt", {"heads": 3}, "heads is 3: it must divide the number of features, 64"),
    ("gpt", {"input_shape": (28, 28, 1)}, r"input_shape is \(28, 28, 1\): a text has one number, its length"),
]


@pytest.mark.parametrize(("model", "args", "message"), REFUSED)
def test_invalid_model_arguments_are_refused_by_name(model, args, message):
    for build in (
        lambda: numpy_nn.models.MODELS[model](**args),
        lambda: jax_nn.models.MODELS[model](**args, rngs=nnx.Rngs(0)),
        lambda: torch_nn.models.MODELS[model](**args),
    ):
        with pytest.raises(ValueError, match=message):
            build()

"""Implementations that are the same: no false alarm between our tracks, torchvision's networks and PyTorch's layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from flax import nnx
from torch import nn

import jax_nn.models
import numpy_nn.models
import torch_nn.models
from compare.parity.check import EXAMPLES
from compare.ports import assert_same, check
from jax_nn.attention import MultiHeadAttention
from jax_nn.recurrent import LSTMLayer
from numpy_nn.norm import Mode

SMALL = EXAMPLES | {"mlp": {"input_shape": (4, 4, 1), "hidden": (8,)}}
QUICK = ("mlp",)
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in numpy_nn.models.MODELS]


def tracks(name: str):
    """The three tracks of a network, each with its own random weights."""
    args = SMALL.get(name, {})
    torch.manual_seed(0)
    by_torch = torch_nn.models.MODELS[name](**args)
    by_jax = jax_nn.models.MODELS[name](**args, rngs=nnx.Rngs(1))
    by_numpy = numpy_function(name, args)
    rng, shape = np.random.default_rng(2), (3, *args.get("input_shape", (28, 28, 1)))
    x = rng.standard_normal(shape) if len(shape) == 4 else rng.integers(0, args["classes"], shape)
    return shaken(by_torch), by_jax, by_numpy, x


def numpy_function(name: str, args: dict):
    """A network of numpy_nn as (forward, backward, params)."""
    network = numpy_nn.models.MODELS[name](**args)

    def forward(params, x, train):
        logits, _, cache = network.forward(params["params"], params.get("stats", {}), x, Mode(train=train))
        return logits, cache

    def backward(dlogits, cache):
        return {"params": network.backward(dlogits, cache)}

    return forward, backward, network.init(np.random.default_rng(3))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_tracks_are_the_same(name, train):
    by_torch, by_jax, by_numpy, x = tracks(name)
    for a, b in ((by_torch, by_jax), (by_numpy, by_torch), (by_jax, by_numpy)):
        report = assert_same(a, b, x, train=train)
        assert max(row.rel for row in report.rows) < 1e-9
        assert sum(row.what == "gradient" for row in report.rows) >= 4


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self, i: int):
        super().__init__()
        self.lstm = nn.LSTM(i, 6, batch_first=True)

    def forward(self, x):
        y, (h, c) = self.lstm(x)
        return y, h[0], c[0]


def test_multi_head_attention_of_pytorch_is_ours(rng):
    theirs, ours = SelfAttention(), MultiHeadAttention(8, heads=2, rngs=nnx.Rngs(0))
    assert_same(theirs, ours, rng.standard_normal((2, 5, 8)))
    assert_same(ours, theirs, rng.standard_normal((2, 5, 8)))


def test_a_key_bias_acts_on_nothing_and_is_told_of(rng):
    theirs, ours = SelfAttention(), MultiHeadAttention(8, heads=2, rngs=nnx.Rngs(0))
    nn.init.normal_(theirs.attention.in_proj_bias)
    report = check(theirs, ours, rng.standard_normal((2, 5, 8)))
    assert report.verdict == "same", report
    assert any("in_proj_bias[8:16]" in note for note in report.notes)


@pytest.mark.parametrize("i", [4, 6])
def test_lstm_of_pytorch_with_its_two_biases_is_ours(rng, i):
    theirs, ours = Recurrent(i), LSTMLayer(i, 6, rngs=nnx.Rngs(0))
    assert_same(theirs, ours, rng.standard_normal((2, 5, i)))
    assert_same(ours, theirs, rng.standard_normal((2, 5, i)))


def small_vgg():
    """torchvision's vgg11_bn without its 4096 features, which would be a gigabyte."""
    network = torchvision.models.vgg11_bn(num_classes=10)
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    relu, dropout = nn.ReLU(), nn.Identity()
    network.classifier = nn.Sequential(
        nn.Linear(512, 16), relu, dropout, nn.Linear(16, 16), relu, dropout, nn.Linear(16, 10)
    )
    return network


def small_vit():
    """torchvision's ViT with two small blocks."""
    return torchvision.models.VisionTransformer(32, 16, 2, 2, 24, 32, num_classes=10)


def shaken(network: nn.Module) -> nn.Module:
    """The network with random numbers for every parameter and statistic: ones and zeros hide what is mixed up."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer += torch.rand_like(buffer)
    return network


def torchvision_networks():
    """torchvision's constructor, our name and our arguments."""
    resnet = {"stages": (2, 2, 2, 2), "channels": (64, 128, 256, 512), "stem": "large", "shortcut": "project"}
    vgg = {"stages": (1, 1, 2, 2, 2), "channels": (64, 128, 256, 512, 512), "pool": 1, "hidden": (16, 16)}
    densenet = {"blocks": (2, 2, 2), "growth": 8, "stem": "large"}
    vit = {"patch": 16, "dim": 24, "depth": 2, "heads": 2, "mlp_dim": 32, "eps": 1e-6}
    return {
        "vgg11_bn": (small_vgg, "vgg", 32, vgg),
        "densenet121": (
            lambda: torchvision.models.DenseNet(8, (2, 2, 2), 16, num_classes=10), "densenet", 32, densenet,
        ),
        "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), "resnet", 64, resnet),
        "vit": (small_vit, "vit", 32, vit),
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "vgg11_bn" else ()) for name in torchvision_networks()],
)
def test_torchvision_is_ours(name, rng):
    make, ours, pixels, args = torchvision_networks()[name]
    args = args | {"input_shape": (pixels, pixels, 3), "classes": 10}
    x = rng.standard_normal((2, pixels, pixels, 3))
    theirs = shaken(make())
    train = name == "vgg11_bn"  # whose convolutions have a bias, which batch norm takes out again in training only
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d) and train:
            nn.init.zeros_(module.bias)
    assert_same(theirs, jax_nn.models.MODELS[ours](**args, rngs=nnx.Rngs(0)), x, train=train)
    assert_same(theirs, numpy_function(ours, args), x, train=train)

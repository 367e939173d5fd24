"""Published networks: which of ours they are, and what their parts are called where others trained them.

``resnet20`` to ``resnet56`` are those of akamaster's pytorch_resnet_cifar10, ``vit_base_patch16_224`` and its like are
timm's, the others torchvision's.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compare.tracks import model_argument
from compare.weights.vit_names import fit_vit, timm_name, unfit_vit, vit_names
from numpy_nn.models import MODELS

State = dict[str, Tensor]
IMAGENET_NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # of torchvision.transforms


# --- what the same thing is called elsewhere --------------------------------------------------------------------------


def resnet_names(args: Mapping[str, Any], output: str) -> dict[str, str]:
    """Our module -> theirs: blocks are counted anew in each stage."""
    names = {"conv": "conv1", "norm": "bn1", "output": output}
    parts = {"conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2"}
    parts |= {"project": "downsample.0", "project_norm": "downsample.1"}
    places = [f"layer{stage}.{b}" for stage, many in enumerate(args["stages"], 1) for b in range(many)]
    return names | {
        f"blocks.{k}.{ours}": f"{place}.{theirs}" for k, place in enumerate(places) for ours, theirs in parts.items()
    }


def vgg_names(args: Mapping[str, Any]) -> dict[str, str]:
    """Our module -> theirs: conv, norm, relu and pool are counted through."""
    names, at = {"hidden.0": "classifier.0", "hidden.1": "classifier.3", "output": "classifier.6"}, 0
    for many in args["stages"]:
        for _ in range(many):
            k = len(names) // 2 - 1
            names |= {f"convs.{k}": f"features.{at}", f"norms.{k}": f"features.{at + 1}"}
            at += 3
        at += 1
    return names


def densenet_names(args: Mapping[str, Any]) -> dict[str, str]:
    """Our module -> theirs: a layer is counted within its block, a transition by itself."""
    names = {"conv": "features.conv0", "norm": "features.norm0", "final_norm": "features.norm5", "output": "classifier"}
    k = 0
    for block, many in enumerate(args["blocks"], 1):
        if block > 1:
            names |= {f"layers.{k}.{part}": f"features.transition{block - 1}.{part}" for part in ("norm", "conv")}
            k += 1
        for layer in range(1, many + 1):
            place = f"features.denseblock{block}.denselayer{layer}"
            names |= {f"layers.{k}.{part}": f"{place}.{part}" for part in ("norm1", "conv1", "norm2", "conv2")}
            k += 1
    return names


# --- the same numbers in another place --------------------------------------------------------------------------------


def fit_vgg(state: State, names: Mapping[str, str], args: Mapping[str, Any]) -> State:
    """Torchvision gives the convolutions a bias that the norm takes out again, and flattens channels first.

    norm(conv(x) + b) with running mean μ is norm(conv(x)) with μ - b: the bias moves there.
    """
    state = dict(state)
    for name, value in state.items():
        if name.startswith("classifier.") and value.ndim == 4:  # a convolution of the whole image, as timm has it
            state[name] = value.flatten(1)
    for ours, theirs in names.items():
        bias = f"{theirs}.bias"
        mean = f"{names[ours.replace('convs', 'norms')]}.running_mean"
        if ours.startswith("convs") and bias in state and mean in state and state[bias].shape == state[mean].shape:
            state[mean] = state[mean] - state.pop(bias)
    first, pool, c = state.get("classifier.0.weight"), args["pool"], args["channels"][-1]
    if first is not None and first.ndim == 2 and first.shape[1] == c * pool * pool:
        state["classifier.0.weight"] = first.unflatten(1, (c, pool, pool)).permute(0, 2, 3, 1).flatten(1)
    return state


def unfit_vgg(state: State, names: Mapping[str, str], args: Mapping[str, Any]) -> State:
    """Undo :func:`fit_vgg`, with biases of zero."""
    state = dict(state)
    for ours, theirs in names.items():
        if ours.startswith("convs"):
            state[f"{theirs}.bias"] = torch.zeros_like(state[f"{names[ours.replace('convs', 'norms')]}.running_mean"])
    pool, c = args["pool"], args["channels"][-1]
    first = state["classifier.0.weight"]
    state["classifier.0.weight"] = first.unflatten(1, (pool, pool, c)).permute(0, 3, 1, 2).flatten(1)
    return state


def densenet_name(name: str) -> str:
    """Torchvision's published files still say ``norm.1`` for ``norm1``."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)", r"\1\2", name)


@dataclass(frozen=True)
class Architecture:
    """A published network: which of ours it is, and how its names and numbers become ours."""

    model: str
    args: dict[str, Any]
    names: Callable[[Mapping[str, Any]], dict[str, str]] = lambda args: {}
    fit: Callable[[State, Mapping[str, str], Mapping[str, Any]], State] = lambda state, names, args: state
    unfit: Callable[[State, Mapping[str, str], Mapping[str, Any]], State] = lambda state, names, args: state
    renamed: Callable[[str], str] = lambda name: name  # an older or other spelling of a name in a file
    scaling: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: IMAGENET_NORMALISATION)  # of its images


IMAGENET = {"input_shape": (224, 224, 3), "classes": 1000}
CIFAR = {"input_shape": (32, 32, 3), "classes": 10}
WIDE = {"channels": (64, 128, 256, 512), "stem": "large", "shortcut": "project"}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}  # as the ViTs of timm and of the paper see images
VITS = {  # name: width, depth, heads, scaling
    "vit_tiny_patch16_224": (192, 12, 3, HALF),
    "vit_small_patch16_224": (384, 12, 6, HALF),
    "vit_base_patch16_224": (768, 12, 12, HALF),
    "deit_tiny_patch16_224": (192, 12, 3, IMAGENET_NORMALISATION),
    "deit_small_patch16_224": (384, 12, 6, IMAGENET_NORMALISATION),
    "deit_base_patch16_224": (768, 12, 12, IMAGENET_NORMALISATION),
    "vit_b_16": (768, 12, 12, IMAGENET_NORMALISATION),  # torchvision's
}
VGG = {"channels": (64, 128, 256, 512, 512), "pool": 7, "hidden": (4096, 4096)}

ARCHITECTURES = {
    **{model: Architecture(model, {}) for model in MODELS},  # with their own defaults and our own names
    **{
        f"resnet{2 * sum(stages) + 2}": Architecture(
            "resnet", {**CIFAR, "stages": stages}, lambda args: resnet_names(args, "linear")
        )
        for stages in ((3, 3, 3), (5, 5, 5), (7, 7, 7), (9, 9, 9))
    },
    **{
        f"resnet{2 * sum(stages) + 2}": Architecture(
            "resnet", {**IMAGENET, **WIDE, "stages": stages}, lambda args: resnet_names(args, "fc")
        )
        for stages in ((2, 2, 2, 2), (3, 4, 6, 3))
    },
    **{
        f"vgg{sum(stages) + 3}_bn": Architecture(
            "vgg", {**IMAGENET, **VGG, "stages": stages}, vgg_names, fit_vgg, unfit_vgg
        )
        for stages in ((1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4))
    },
    **{
        f"densenet{2 * sum(blocks) + 5}": Architecture(
            "densenet",
            {**IMAGENET, "growth": 32, "stem": "large", "blocks": blocks},
            densenet_names,
            renamed=densenet_name,
        )
        for blocks in ((6, 12, 24, 16), (6, 12, 32, 32), (6, 12, 48, 32))
    },
    **{
        name: Architecture(
            "vit",
            {**IMAGENET, "patch": 16, "dim": d, "depth": depth, "heads": heads, "mlp_dim": 4 * d, "eps": 1e-6},
            vit_names,
            fit_vit,
            unfit_vit,
            timm_name,
            scaling,
        )
        for name, (d, depth, heads, scaling) in VITS.items()
    },
}


def published_name(model: str, args: Mapping[str, Any]) -> str | None:
    """Which published network this is, its images and classes aside; None if it is none of them."""
    if model not in MODELS:
        return None
    fixed = inspect.signature(MODELS[model]).parameters.keys() - {"input_shape", "classes"}
    for name, known in ARCHITECTURES.items():
        same = known.model == model and all(
            model_argument(model, args, k) == model_argument(model, known.args, k) for k in fixed
        )
        if same and known.args:
            return name
    return None


def to_published(state: Mapping[str, Tensor], name: str, args: Mapping[str, Any]) -> State:
    """Our state dict by the names, and with the numbers in the places, that ``name`` was published with."""
    known = ARCHITECTURES[name]
    arguments = known.args | dict(args)
    names = known.names(arguments)
    renamed = {}
    for ours, value in state.items():
        module, _, leaf = ours.rpartition(".")
        renamed[f"{names[module]}.{leaf}"] = value
    return known.unfit(renamed, names, arguments)

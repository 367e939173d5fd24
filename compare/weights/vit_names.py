"""Vision transformers as timm and torchvision save them: other names, and query, key and value in one matrix.

Theirs have a bias for the keys and ours does not. It adds the same number to all scores of a query, which softmax
ignores, so that leaving it out changes no output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
PARTS = ("q", "k", "v")
TOKENS = {"cls_token": "tokens.class_token", "pos_embed": "tokens.pos_embedding"}  # timm's -> ours
TORCHVISION = {  # its names -> timm's
    r"^class_token$": "cls_token",
    r"^encoder\.pos_embedding$": "pos_embed",
    r"^conv_proj\.": "patch_embed.proj.",
    r"^encoder\.ln\.": "norm.",
    r"^heads\.head\.": "head.",
    r"^encoder\.layers\.encoder_layer_(\d+)\.": r"blocks.\1.",
    r"^(blocks\.\d+)\.ln_(\d)\.": r"\1.norm\2.",
    r"^(blocks\.\d+)\.self_attention\.in_proj_": r"\1.attn.qkv.",
    r"^(blocks\.\d+)\.self_attention\.out_proj\.": r"\1.attn.proj.",
    r"^(blocks\.\d+)\.mlp\.(?:0|linear_1)\.": r"\1.mlp.fc1.",
    r"^(blocks\.\d+)\.mlp\.(?:3|linear_2)\.": r"\1.mlp.fc2.",
}


def vit_names(args: Mapping[str, Any]) -> dict[str, str]:
    """Our module -> timm's; ``attn.q`` and so on are the thirds of its ``attn.qkv``."""
    names = {"patches": "patch_embed.proj", "tokens": "tokens", "norm": "norm", "output": "head"}
    parts = {"norm1": "norm1", "norm2": "norm2", "expand": "mlp.fc1", "contract": "mlp.fc2"}
    parts |= {"attention.out": "attn.proj", "attention.query": "attn.q"}
    parts |= {"attention.key": "attn.k", "attention.value": "attn.v"}
    blocks = range(args["depth"])
    return names | {f"blocks.{k}.{ours}": f"blocks.{k}.{theirs}" for k in blocks for ours, theirs in parts.items()}


def timm_name(name: str) -> str:
    """A name of torchvision as timm has it; of the tokens' ours."""
    for pattern, replacement in TORCHVISION.items():
        name = re.sub(pattern, replacement, name)
    return TOKENS.get(name, name)


def fit_vit(state: State, names: Mapping[str, str], args: Mapping[str, Any]) -> State:
    """Query, key and value apart; the keys' bias is left out."""
    fitted: State = {}
    for name, value in state.items():
        if ".attn.qkv." in name and len(value) % 3 == 0:
            thirds = {name.replace("qkv", part): third for part, third in zip(PARTS, value.chunk(3), strict=True)}
            fitted |= {each: third for each, third in thirds.items() if not each.endswith(".attn.k.bias")}
        else:
            fitted[name] = value
    return fitted


def unfit_vit(state: State, names: Mapping[str, str], args: Mapping[str, Any]) -> State:
    """Undo :func:`fit_vit` to timm's names, with a bias of zero for the keys."""
    ours = {theirs: name for name, theirs in TOKENS.items()}
    state = {ours.get(name, name): value for name, value in state.items()}
    for k in range(args["depth"]):
        place = f"blocks.{k}.attn"
        state[f"{place}.k.bias"] = torch.zeros_like(state[f"{place}.q.bias"])
        for leaf in ("weight", "bias"):
            state[f"{place}.qkv.{leaf}"] = torch.cat([state.pop(f"{place}.{part}.{leaf}") for part in PARTS])
    return state

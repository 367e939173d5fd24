"""State dicts as other projects save them: inside checkpoints, under prefixes, with other spellings of layers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from compare.weights.npz import WeightsError

State = dict[str, Tensor]

DEPTH = 3  # dicts in dicts that are looked into
# The entry that is taken where several are dicts of tensors, as with an average of the weights beside them.
PREFERRED = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module")
AVERAGED = "n_averaged"  # the counter that torch.optim.swa_utils.AveragedModel puts beside the tensors
LISTED = 5  # names in a message

# How CIFAR ResNets, timm and torchvision call the same module. A rule counts only if its result is a wanted module.
SPELLINGS = [
    (re.compile(pattern), replacements)
    for pattern, replacements in [
        (r"^(fc|linear|classifier|head|head\.fc|classifier\.6)$", ("fc", "linear", "classifier", "classifier.6")),
        (r"^(.*)\.shortcut\.(\d)$", (r"\1.downsample.\2",)),
        (r"^conv1\.0$", ("conv1",)),
        (r"^conv1\.1$", ("bn1",)),
        (r"^(conv\d_x\.\d+)\.shortcut\.(\d)$", (r"\1.downsample.\2",)),
        (r"^(conv\d_x\.\d+)\.residual_function\.0$", (r"\1.conv1",)),
        (r"^(conv\d_x\.\d+)\.residual_function\.1$", (r"\1.bn1",)),
        (r"^(conv\d_x\.\d+)\.residual_function\.3$", (r"\1.conv2",)),
        (r"^(conv\d_x\.\d+)\.residual_function\.4$", (r"\1.bn2",)),
        (r"^pre_logits\.fc1$", ("classifier.0",)),
        (r"^pre_logits\.fc2$", ("classifier.3",)),
        (r"^(?:stages|stage_|block|stage)(\d)\.(.*)$", (r"layer\1.\2",)),
    ]
]


def unwrapped(found: Any) -> tuple[State, str]:
    """The tensors by name in what a file holds, and a word on what was taken off; WeightsError if there are none."""
    state, entry = found, ""
    if not is_state(found):
        if not isinstance(found, Mapping) or not found:
            raise WeightsError(f"holds {type(found).__name__}, not a state dict of names and tensors")
        inside = dict(states_in(found))
        if not inside:
            raise WeightsError(f"these entries are not plain tensors of numbers: {not_tensors(found)}")
        entry = next((name for name in PREFERRED if name in inside), "") or next(iter(inside))
        if len(inside) > 1 and entry not in PREFERRED:
            raise WeightsError(f"holds several state dicts: {', '.join(inside)}. Save one of them by itself.")
        state = inside[entry]
    state = {name: value for name, value in state.items() if name != AVERAGED} or state
    names, prefix = without_prefix(list(state))
    words = [f"took the entry {entry!r}" if entry else "", f"took off the prefix {prefix!r}" if prefix else ""]
    return dict(zip(names, state.values(), strict=True)), " and ".join(filter(None, words))


def is_state(value: Any) -> bool:
    """A dict of names and plain tensors, and not empty."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and is_plain(each) for name, each in value.items())
    )


def is_plain(value: Any) -> bool:
    """A tensor with one real number after the other."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_complex() or value.is_meta or value.is_quantized)


def states_in(found: Mapping[Any, Any], depth: int = DEPTH) -> list[tuple[str, Mapping[str, Tensor]]]:
    """Name and content of every dict of tensors in a checkpoint, the optimizer's aside."""
    states: list[tuple[str, Mapping[str, Tensor]]] = []
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Mapping) or name.startswith("optim"):
            continue
        states += [(name, value)] if is_state(value) else states_in(value, depth - 1) if depth else []
    return states


def not_tensors(found: Mapping[Any, Any]) -> str:
    """The entries in the way."""
    nearest = next((found[name] for name in PREFERRED if isinstance(found.get(name), Mapping)), found)
    strange = [name for name, value in nearest.items() if not isinstance(name, str) or not is_plain(value)]
    return ", ".join(map(repr, strange[:LISTED])) + (f" and {len(strange) - LISTED} more" if strange[LISTED:] else "")


def without_prefix(names: list[str]) -> tuple[list[str], str]:
    """Names without what wrappers put before all of them, layer by layer, and what that was."""
    names = [name.replace("._orig_mod.", ".") for name in names]  # of torch.compile, anywhere
    prefix = ""
    while True:
        first = names[0].partition(".")[0] + "."
        if first[:-1].isdigit() or not all(name.startswith(first) for name in names):
            return names, prefix
        shorter = [name.removeprefix(first) for name in names]
        if not any("." in name for name in shorter):  # that was the layer itself
            return names, prefix
        names, prefix = shorter, prefix + first


def respelled(state: Mapping[str, Tensor], wanted: Collection[str]) -> State:
    """The state dict with its modules called as in ``wanted`` wherever a known spelling leads there."""
    return {f"{spelled(*name.rpartition('.')[::2], wanted)}": value for name, value in state.items()}


def spelled(module: str, leaf: str, wanted: Collection[str]) -> str:
    """The name of one entry."""
    if module not in wanted:
        for candidate in spellings(module):
            if candidate in wanted:
                return f"{candidate}.{leaf}"
    return f"{module}.{leaf}" if module else leaf


def spellings(module: str) -> list[str]:
    """What else a module may be called, rules applied up to twice."""
    found = [module]
    for _ in range(2):
        for name in list(found):
            stage = re.match(r"^conv(\d)_x\.(.*)$", name)
            if stage:
                found.append(f"layer{int(stage[1]) - 1}.{stage[2]}")
            found += [each.sub(to, name) for each, others in SPELLINGS for to in others if each.match(name)]
    return list(dict.fromkeys(found))


def in_the_way(given: Collection[str], wanted: Collection[str]) -> str:
    """One line on why no name fits, if none does: the prefix that most of them have, or "" if some fit."""
    if {*given} & {*wanted}:
        return ""
    prefix, count = Counter(name.partition(".")[0] + "." for name in given).most_common(1)[0]
    others = [name for name in given if not name.startswith(prefix)]
    rest = f"; remove the others: {', '.join(others[:LISTED])}" if others else ""
    example = f"it has names like {next(iter(given))!r}, the network like {next(iter(wanted))!r}"
    return f"no name of the file is the network's: {example}. {count} of {len(given)} begin with {prefix!r}{rest}"


# --- refused pickles --------------------------------------------------------------------------------------------------

GLOBAL = re.compile(r"(?:GLOBAL|global:?|class:?|function:?)\s+`?([A-Za-z_][\w.]*\.[\w.]+)")
PLAIN = (
    "python -c \"import sys, torch; plain = lambda m: m.state_dict() if hasattr(m, 'state_dict') else "
    "torch.as_tensor(m) if type(m).__module__ == 'numpy' else "
    "{k: plain(v) for k, v in m.items() if isinstance(v, dict) or hasattr(v, 'shape') or hasattr(v, 'state_dict')} "
    'if isinstance(m, dict) else m; torch.save(plain(torch.load(sys.argv[1], weights_only=False)), sys.argv[2])" '
)


def refusal(error: Exception, path: Any) -> str:
    """What a pickle holds besides tensors, and the line that makes a plain file of it; "" for another error."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    found = GLOBAL.search(text)
    if "Weights only load failed" not in text or not found:
        return ""
    return (
        f"holds a {found[1].rstrip('.')} object, and reading it would run code. If you trust its source, this line "
        f"writes a plain file: {PLAIN}{path} plain.pt"
    )

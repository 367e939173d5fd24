"""Canonical tree <-> PyTorch.

Attribute names are equal in all tracks, so the parameters of the module ``hidden.0`` are at
``hidden/0`` in the tree. The table ``LAYOUTS`` gives their names and axes by the *type* of the module.
For other types and other names, the class of the model states them in ``names``, ``{path in the tree: name in torch}``:

    names = {"gru/dense_i/kernel": "gru.weight_ih_l0.T", "gru/dense_i/bias": "gru.bias_ih_l0"}

``.T`` says that torch's parameter is the transpose; a parameter that ``LAYOUTS`` knows keeps the axes given there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from numpy_nn.tree import Tree, from_leaves, leaves, require_same, tree_map
from torch_nn.attention import Positions, Tokens


class Leaf(NamedTuple):
    """The layout of one parameter: its names in the tree and in torch, and the transpose from one to the other."""

    name: str
    torch_name: str
    to_torch: tuple[int, ...]

    @property
    def to_tree(self) -> tuple[int, ...]:
        return tuple(int(axis) for axis in np.argsort(self.to_torch))


Layout = Callable[[nn.Module], list[Leaf]]


def _scale_and_bias(module: nn.Module) -> list[Leaf]:
    return [Leaf("scale", "weight", (0,)), Leaf("bias", "bias", (0,))]


def _kernel_and_bias(axes: tuple[int, ...]) -> Layout:
    def layout(module: nn.Module) -> list[Leaf]:
        bias = [Leaf("bias", "bias", (0,))] if module.bias is not None else []
        return [Leaf("kernel", "weight", axes), *bias]

    return layout


def _recurrent(module: nn.Module) -> list[Leaf]:
    return [
        Leaf("dense_i/kernel", "weight_ih_l0", (1, 0)),
        Leaf("dense_h/kernel", "weight_hh_l0", (1, 0)),
        Leaf("dense_h/bias", "bias_hh_l0", (0,)),
    ]


# kernel (i, o) -> weight (o, i);  kernel (kh, kw, i, o) -> weight (o, i, kh, kw)
LAYOUTS: dict[type[nn.Module], Layout] = {
    nn.Linear: _kernel_and_bias((1, 0)),
    nn.Conv2d: _kernel_and_bias((3, 2, 0, 1)),
    nn.BatchNorm2d: _scale_and_bias,
    nn.LayerNorm: _scale_and_bias,
    nn.Embedding: lambda module: [Leaf("embedding", "weight", (0, 1))],
    nn.RNN: _recurrent,
    nn.LSTM: _recurrent,
    Tokens: lambda module: [Leaf(name, name, (0, 1, 2)) for name in ("class_token", "pos_embedding")],
    Positions: lambda module: [Leaf("pos_embedding", "pos_embedding", (0, 1))],
}


def bindings(model: nn.Module) -> Iterator[tuple[str, Leaf, Tensor]]:
    """Yield each parameter of the model: its path in the tree, its layout and the parameter itself.

    TypeError for parameters that have no layout.
    """
    stated = _stated(model)
    for module_path, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        for leaf in _layout(module):
            if leaf.torch_name in parameters and _name(module_path, leaf.torch_name) not in stated:
                path = "/".join([*filter(None, module_path.split(".")), leaf.name])
                yield path, leaf, parameters.pop(leaf.torch_name)
        for name in list(parameters):
            if path := stated.pop(_name(module_path, name), ""):
                yield path, _leaf(model, module, path, name), parameters.pop(name)
        if parameters:
            raise TypeError(
                f"{module_path or 'the model'} ({type(module).__name__}) has parameters without a layout: "
                f"{', '.join(parameters)}. State their paths in the tree in {type(model).__name__}.names"
            )
    if unknown := stated.keys() - dict(model.named_buffers()):
        raise TypeError(f"{type(model).__name__}.names: the model has no parameter {', '.join(sorted(unknown))}")


def _layout(module: nn.Module) -> list[Leaf]:
    """Return the leaves of a module's own parameters by its type; none for a type without a layout."""
    return next((LAYOUTS[kind](module) for kind in type(module).__mro__ if kind in LAYOUTS), [])


def _name(module_path: str, name: str) -> str:
    return f"{module_path}.{name}" if module_path else name


def _stated(model: nn.Module) -> dict[str, str]:
    """Return ``{name in torch: path in the tree}`` of what the class of the model states in ``names``."""
    return {name.removesuffix(".T"): path for path, name in getattr(model, "names", {}).items()}


def _leaf(model: nn.Module, module: nn.Module, path: str, name: str) -> Leaf:
    """Return the layout of a parameter whose path is stated: that of its type, or as stated."""
    known = next((leaf.to_torch for leaf in _layout(module) if leaf.torch_name == name), None)
    axes = tuple(range(getattr(module, name).ndim))
    stated = axes[::-1] if model.names[path].endswith(".T") else axes
    return Leaf(path.rpartition("/")[2], name, known or stated)


def params_to_tree(model: nn.Module, read: Callable[[Tensor], Tensor] = lambda p: p) -> Tree:
    """Copy the parameters, or ``read`` of each of them, to a canonical tree."""
    return from_leaves(
        {path: read(p).detach().cpu().numpy().transpose(leaf.to_tree).copy() for path, leaf, p in bindings(model)}
    )


@torch.no_grad()
def params_from_tree(model: nn.Module, tree: Mapping[str, Any]) -> None:
    """Copy a canonical tree to the model; ValueError lists all missing, unexpected and misshapen leaves."""
    require_same(params_to_tree(model), tree)
    given = leaves(tree)
    for path, leaf, p in bindings(model):
        p.copy_(to_tensor(given[path], leaf, p))


def to_tensor(array: np.ndarray, leaf: Leaf, like: Tensor) -> Tensor:
    """Return a canonical leaf in torch's layout, with the dtype, device and memory format of ``like``."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.asarray(array).transpose(leaf.to_torch)))
    return torch.empty_like(like).copy_(tensor)


def _stats(model: nn.Module) -> dict[str, Tensor]:
    """Return the running statistics of the model by their paths in the tree.

    ``num_batches_tracked`` is not among them: PyTorch uses it only if the momentum is None.
    """
    stated = _stated(model)
    return {
        stated.get(_name(module_path, f"running_{name}"), _name(module_path, name).replace(".", "/")): buffer
        for module_path, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name, buffer in (("mean", module.running_mean), ("var", module.running_var))
    }


def stats_to_tree(model: nn.Module) -> Tree:
    """Copy the running statistics to a canonical tree."""
    return from_leaves({path: buffer.cpu().numpy().copy() for path, buffer in _stats(model).items()})


def stats_from_tree(model: nn.Module, tree: Mapping[str, Any]) -> None:
    """Copy running statistics to the model; ValueError lists all missing, unexpected and misshapen leaves."""
    require_same(stats_to_tree(model), tree, what="stats")
    given = leaves(tree)
    for path, buffer in _stats(model).items():
        buffer.copy_(torch.from_numpy(np.array(given[path])))


def opt_to_tree(model: nn.Module, optimizer: torch.optim.Optimizer, slots: Mapping[str, str], count: int) -> Tree:
    """Copy the optimizer state to a tree ``{"count", "mu", "nu"}``; slots that torch has not created yet are zero."""

    def moment(name: str) -> Tree:
        return params_to_tree(model, lambda p: optimizer.state[p].get(name, torch.zeros_like(p)))

    return {"count": np.int32(count), **{slot: moment(name) for slot, name in slots.items()}}


def opt_from_tree(
    model: nn.Module, optimizer: torch.optim.Optimizer, slots: Mapping[str, str], tree: Mapping[str, Any]
) -> None:
    """Copy the slots and the update count of a canonical tree to the optimizer; ValueError if they do not fit."""
    zeros = tree_map(np.zeros_like, params_to_tree(model))
    require_same({"count": 0, **dict.fromkeys(slots, zeros)}, tree, what="optimizer state")
    moments = {name: leaves(tree[slot]) for slot, name in slots.items()}
    for path, leaf, p in bindings(model):
        state = {name: to_tensor(moment[path], leaf, p) for name, moment in moments.items()}
        if "nu" in slots:  # Adam, AdamW and RMSprop count their updates in a tensor per parameter
            state["step"] = torch.tensor(float(tree["count"]), dtype=torch.float32, device=p.device)
        if state:
            optimizer.state[p] = state

"""Networks of the user: a file with the same network as classes ``Numpy``, ``Jax`` and ``Torch``, two of them at least.

Such a network is named by the path of its file wherever another has a name in ``MODELS``. Its digest goes with it, so
that all tracks of a comparison, and whoever resumes one, run the same file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compare import python_file
from compare.config import Config
from compare.errors import UserError
from numpy_nn import models
from numpy_nn.network_file import is_file as is_file
from numpy_nn.tree import Tree, require_same

CLASSES = {"numpy": "Numpy", "jax": "Jax", "torch": "Torch"}
REQUIRED = ("input_shape", "classes")  # arguments that every network has


def classes_of(model: str) -> dict[str, Any]:
    """The classes of a file by track, NumPy first; UserError for fewer than two."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a process that only looks at a network takes no GPU
    module = python_file.load(Path(model))
    found = {
        track: getattr(module, name) for track, name in CLASSES.items() if isinstance(vars(module).get(name), type)
    }
    if len(found) < 2:
        there = f"only {CLASSES[next(iter(found))]}" if found else "none of them"
        raise UserError(f"{model} needs two of the classes {', '.join(CLASSES.values())}, and has {there}")
    return found


def parameters(model: str) -> dict[str, inspect.Parameter]:
    """The arguments of a network by name, with their defaults."""
    first = next(iter(classes_of(model).values())) if is_file(model) else models.get(model)
    return arguments_of(first)


def arguments_of(network: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a network's class; ``rngs``, which every Flax module takes, aside."""
    found = inspect.signature(network.__init__).parameters
    return {name: each for name, each in found.items() if name not in ("self", "rngs")}


def digest(file: str) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def applied(config: Config, file: Path) -> Config:
    """The config with the network of a file, with its own defaults, in place of the config's network."""
    classes_of(str(file))
    return dataclasses.replace(
        config, preset=file.stem, model=str(file), model_args={}, network_digest=digest(str(file)), expected=""
    )


def require_unchanged(model: str, then: str) -> None:
    """Raise UserError unless the file of a network is there, and is what it was."""
    if not is_file(model):
        return
    if not Path(model).is_file():
        raise UserError(f"{model}, the file of the network, is missing: restore it, or start again with --network")
    if (now := digest(model)) != then:
        raise UserError(
            f"{model} has changed: its SHA-256 was {then[:12]}… and is {now[:12]}…; restore the file that the "
            "network was trained with, or train from the start"
        )


def available(model: str, tracks: Sequence[str], *, asked: bool) -> list[str]:
    """Those tracks that have the network; UserError for a missing one that was ``asked`` for, and for none."""
    if not is_file(model):
        return list(tracks)
    there = classes_of(model)
    missing = [CLASSES[track] for track in tracks if track not in there]
    if missing and (asked or len(missing) == len(tracks)):
        raise UserError(f"{model} has no class {' and no class '.join(missing)}: choose --tracks {' '.join(there)}")
    return [track for track in tracks if track in there]


def chosen(model: str, tracks: Sequence[str]) -> list[str]:
    """The tracks of a ``--tracks`` that may be ``all``: every one that has the network."""
    every = "all" in tracks
    return available(model, list(CLASSES) if every else tracks, asked=not every)


# --- the first parameters, and whether all classes have the same ------------------------------------------------------


def first_snapshot(model: str, args: Mapping[str, Any], rng: np.random.Generator) -> Tree:
    """The first parameters, the same for every track: the NumPy network draws them, or PyTorch's if there is none."""
    if not is_file(model) or "numpy" in classes_of(model):
        return models.get(model)(**args).init(rng)
    import torch

    torch.manual_seed(int(rng.integers(2**31)))
    return torch_tree(classes_of(model)["torch"], args)


def torch_tree(network: Any, args: Mapping[str, Any]) -> Tree:
    """The parameters and running statistics of a new PyTorch network."""
    from torch_nn import interop

    made = network(**args)
    return {"params": interop.params_to_tree(made), "stats": interop.stats_to_tree(made)}


def jax_tree(network: Any, args: Mapping[str, Any]) -> Tree:
    """The parameters and running statistics of a Flax network, as shapes."""
    from flax import nnx

    from jax_nn import interop

    made = nnx.eval_shape(lambda: network(**args, rngs=nnx.Rngs(0)))
    _, params, stats = nnx.split(made, nnx.Param, nnx.BatchStat)
    return {"params": interop.names(nnx.to_pure_dict(params)), "stats": interop.names(nnx.to_pure_dict(stats))}


def numpy_tree(network: Any, args: Mapping[str, Any]) -> Tree:
    """The parameters and running statistics of a new NumPy network."""
    return network(**args).init(np.random.default_rng(0))


TREES = {"numpy": numpy_tree, "jax": jax_tree, "torch": torch_tree}


def require_same_network(config: Config) -> None:
    """Raise UserError unless the classes of a file take the same arguments and have the same parameter tree."""
    classes = classes_of(config.model)
    first, *others = classes
    for track, network in classes.items():
        require_same_arguments(config.model, track, arguments_of(network), arguments_of(classes[first]), CLASSES[first])
    trees = {track: tree_of(config, track) for track in classes}
    for track in others:
        for part, what in (("params", "parameters"), ("stats", "running statistics")):
            try:
                require_same(trees[first][part], trees[track][part], what=what)
            except ValueError as error:
                leaves = str(error).partition("\n")[2]
                raise UserError(
                    f"{config.model}: {CLASSES[track]} has other {what} than {CLASSES[first]}:\n{leaves}\n"
                    "Rename them; what PyTorch names in its own way is stated in Torch.names = {path: name in torch}"
                ) from error


def require_same_arguments(model: str, track: str, own: Mapping, expected: Mapping, other: str) -> None:
    """Raise UserError unless a class takes the arguments of the other, all by keyword and with the same defaults."""
    name = CLASSES[track]
    if missing := [each for each in REQUIRED if each not in own]:
        raise UserError(f"{model}: {name} needs the keyword argument {' and '.join(missing)}, with a default")
    for argument, parameter in own.items():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise UserError(f"{model}: {name} takes {argument}: it must be a keyword argument with a default")
    mine, theirs = ({key: each.default for key, each in these.items()} for these in (own, expected))
    if different := [key for key in mine.keys() | theirs.keys() if mine.get(key, ...) != theirs.get(key, ...)]:
        raise UserError(f"{model}: {name} and {other} differ in the argument or default {', '.join(sorted(different))}")


def tuples(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as they were before JSON made lists of their tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}


def tree_of(config: Config, track: str) -> Tree:
    """The tree of one class; UserError with the file's own lines if it cannot be made."""
    try:
        return TREES[track](classes_of(config.model)[track], config.model_args)
    except Exception as error:
        shown = python_file.shortened(error, Path(config.model))
        raise UserError(f"{config.model}: {CLASSES[track]} cannot be made:\n{shown}") from error

"""Trees: nested dictionaries with arrays at the leaves.

``Tree = dict[str, Tree | array]``. Positions in a list are the keys "0", "1", …
A leaf is named by its path, ``"hidden/0/kernel"``. Parameters, gradients,
running statistics and optimizer state are trees; a *snapshot* is the tree

    {"params": Tree, "stats": Tree, "opt": {"count", "mu", "nu"}, "step": ()}

which all three tracks read and write, with ``"ema": Tree`` if an average of the parameters is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Tree = dict[str, Any]


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{path: leaf}`` in the order of the tree: ``{"a": {"b": x}} -> {"a/b": x}``."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= leaves(value, f"{path}/")
        else:
            found[path] = value
    return found


def from_leaves(named: Mapping[str, Any]) -> Tree:
    """Undo :func:`leaves`: ``{"a/b": x} -> {"a": {"b": x}}``."""
    tree: Tree = {}
    for path, leaf in named.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def tree_map(function: Callable[..., Any], tree: Mapping[str, Any], *others: Mapping[str, Any]) -> Tree:
    """Apply ``function`` to the leaves of trees with the same structure; others may lack a branch without leaves."""

    def apply(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return tree_map(function, value, *(other.get(key, {}) for other in others))
        return function(value, *(other[key] for other in others))

    return {key: apply(key, value) for key, value in tree.items()}


def cast(tree: Mapping[str, Any], dtype: Any) -> Tree:
    """Copy a tree with its floating-point leaves as ``dtype``; other leaves keep their dtype."""

    def copy(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return leaf.astype(dtype if np.issubdtype(leaf.dtype, np.floating) else leaf.dtype, order="C")

    return tree_map(copy, tree)


def count(tree: Mapping[str, Any]) -> int:
    """Number of scalars in all leaves."""
    return sum(int(np.size(leaf)) for leaf in leaves(tree).values())


def require_same(expected: Mapping[str, Any], given: Mapping[str, Any], *, what: str = "parameters") -> None:
    """Raise ValueError unless both trees have the same paths and shapes.

    The message lists everything missing, unexpected or misshapen at once.
    """
    want, have = leaves(expected), leaves(given)
    problems = [f"missing {path} {np.shape(want[path])}" for path in want if path not in have]
    problems += [f"unexpected {path} {np.shape(have[path])}" for path in have if path not in want]
    problems += [
        f"misshapen {path}: {np.shape(have[path])}, expected {np.shape(want[path])}"
        for path in want
        if path in have and np.shape(want[path]) != np.shape(have[path])
    ]
    if problems:
        raise ValueError(f"these {what} do not fit the model:\n  " + "\n  ".join(problems))


def first_average(snapshot: Mapping[str, Any], decay: float | None) -> Tree:
    """Initial average of the parameters: the snapshot's, else its parameters; {} without a decay."""
    if decay is None and "ema" in snapshot:
        raise ValueError("the snapshot has an average of the parameters: give its decay (ema=0.999), or drop its 'ema'")
    if decay is not None and not 0 <= decay < 1:
        raise ValueError(f"ema {decay}: the decay of an average is at least 0 and less than 1")
    average = {} if decay is None else snapshot.get("ema", snapshot["params"])
    if average:
        require_same(snapshot["params"], average, what="averaged parameters")
    return average


def rate_factors(params: Mapping[str, Any], lr_scale: Mapping[str, float] | None) -> dict[str, float]:
    """Factor of each leaf's learning rate: the value of its longest prefix in ``lr_scale``, else 1.

    A prefix consists of whole names ("convs/1" is not a prefix of "convs/10/kernel"); "" is a prefix of every path.
    Raises ValueError for an unknown prefix, a factor below 0, and if all parameters are frozen.
    """
    scale = dict(lr_scale or {})

    def prefixes(path: str) -> list[str]:
        names = path.split("/")
        return ["/".join(names[:k]) for k in range(len(names), -1, -1)]

    known = {path: prefixes(path) for path in leaves(params)}
    for prefix, factor in scale.items():
        if not any(prefix in candidates for candidates in known.values()):
            raise ValueError(f"lr_scale {prefix!r}: no parameter has this prefix; known: {', '.join(params)}")
        if not (math.isfinite(factor) and factor >= 0):
            raise ValueError(
                f"lr_scale {prefix!r}: {factor} is not a valid factor of a learning rate: give 0 (frozen) or more"
            )
    factors = {path: next((scale[each] for each in own if each in scale), 1.0) for path, own in known.items()}
    if not any(factors.values()):
        raise ValueError("lr_scale freezes every parameter: leave at least one to train, such as the output layer")
    return factors


def frozen_norms(stats: Mapping[str, Any], factors: Mapping[str, float]) -> set[str]:
    """Paths of the batch norms (they have statistics) whose parameters are all frozen."""
    norms = {path.rpartition("/")[0] for path in leaves(stats)}
    return norms - {path.rpartition("/")[0] for path, factor in factors.items() if factor}

"""Three witnesses for a backward pass written by hand: central differences, jax.vjp and torch.autograd.

A `Case` is an operation and the same function in JAX and in PyTorch. Its
arguments are drawn, its outputs get random cotangents (never ones: the gradient
of a softmax would then be exactly zero), and every gradient leaf is compared.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import torch

Shapes = Any  # a shape (3, 5), an array, a dict of them, or a list of them (a tuple in the call)


@dataclass(frozen=True)
class Case:
    """``forward(*args, **options) -> (*outputs, cache)`` and ``backward(*doutputs, cache) -> dargs``."""

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: list[Shapes]  # everything that gets a gradient, in the order of forward
    jax: Callable[..., Any]
    torch: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    smooth: bool = True  # False where an argument stands on a kink: differences do not apply there
    outputs: int | None = None  # only the first so many outputs have a cotangent

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def draw(case: Case, dtype: Any = np.float64) -> tuple[Any, ...]:
    """Draw the arguments of a case: standard normal, always the same for the same name."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))

    def fill(shapes: Shapes) -> Any:
        if isinstance(shapes, dict):
            return {key: fill(value) for key, value in shapes.items()}
        if isinstance(shapes, list):
            return tuple(fill(value) for value in shapes)
        return np.asarray(shapes if isinstance(shapes, np.ndarray) else rng.normal(size=shapes), dtype)

    return fill(case.args)


def cotangents(case: Case, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Draw random cotangents of the outputs' shapes and dtypes; that of a scalar loss is a plain float."""
    rng = np.random.default_rng(zlib.crc32(case.name.encode()) + 1)

    def like(y: Any) -> Any:
        return rng.normal(size=np.shape(y)).astype(np.asarray(y).dtype) if np.ndim(y) else float(rng.normal())

    return jax.tree.map(like, outputs)


def run_numpy(case: Case, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
    """Return the outputs that have a cotangent, and the cache."""
    *outputs, cache = case.forward(*args, **case.options)
    return tuple(outputs[: case.outputs]), cache


def gradients_numpy(case: Case, douts: tuple[Any, ...], cache: Any) -> tuple[Any, ...]:
    """Backward of the case, always as a tuple."""
    dargs = case.backward(*douts, cache)
    return dargs if isinstance(dargs, tuple) else (dargs,)


def gradients_by_differences(case: Case, args: tuple[Any, ...], douts: tuple[Any, ...], eps: float = 1e-5) -> Any:
    """∂/∂xᵢ Σ dy·y ≈ (f(x + ε eᵢ) - f(x - ε eᵢ))/2ε, element by element."""
    args = jax.tree.map(np.copy, args)

    def f() -> float:
        outputs, _ = run_numpy(case, args)
        return sum(
            float(np.vdot(dy, y)) for dy, y in zip(jax.tree.leaves(douts), jax.tree.leaves(outputs), strict=True)
        )

    def along(x: np.ndarray) -> np.ndarray:
        slopes = np.empty_like(x)
        for at in np.ndindex(x.shape):
            here = x[at]
            x[at] = here + eps
            above = f()
            x[at] = here - eps
            below = f()
            x[at] = here
            slopes[at] = (above - below) / (2 * eps)
        return slopes

    return jax.tree.map(along, args)


def run_jax(case: Case, args: tuple[Any, ...], douts: tuple[Any, ...]) -> tuple[Any, Any]:
    """Outputs and gradients by jax.vjp, in float64."""

    def outputs_and_gradients(args: Any, douts: Any) -> Any:
        outputs, vjp = jax.vjp(lambda *a: as_tuple(case.jax(*a)), *args)
        return outputs, vjp(douts)

    # Run once: one compilation without optimization takes a third of the time of op-by-op dispatch.
    compiled = jax.jit(outputs_and_gradients, compiler_options={"xla_backend_optimization_level": 0})
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, compiled(args, douts))


def run_torch(case: Case, args: tuple[Any, ...], douts: tuple[Any, ...]) -> tuple[Any, Any]:
    """Outputs and gradients by torch.autograd, in float64."""
    args = jax.tree.map(lambda x: torch.tensor(x, requires_grad=True), args)
    outputs = as_tuple(case.torch(*args))
    leaves, structure = jax.tree.flatten(args)
    dys = [torch.tensor(dy, dtype=torch.float64) for dy in jax.tree.leaves(douts)]
    grads = torch.autograd.grad(jax.tree.leaves(outputs), leaves, dys)
    outputs = jax.tree.map(lambda y: y.detach().numpy(), outputs)
    return outputs, jax.tree.unflatten(structure, [g.numpy() for g in grads])


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    """``y -> (y,)``; a tuple stays."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def gap(got: Any, want: Any) -> float:
    """Largest difference, in units of the largest wanted value (at least 1)."""
    return float(np.max(np.abs(got - want), initial=0) / max(1.0, np.max(np.abs(want), initial=0)))


def assert_close(got: Any, want: Any, tolerance: float, what: str) -> None:
    """Compare two trees leaf by leaf; a failure names the leaf, the worst place and both values."""
    got_leaves, want_leaves = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, want))
    assert got_leaves.keys() == want_leaves.keys(), f"{what}: other leaves"
    for path, g in got_leaves.items():
        g, w = np.asarray(g), np.asarray(want_leaves[path])
        name = f"{what}{jax.tree_util.keystr(path)}"
        assert g.shape == w.shape, f"{name}: shape {g.shape}, wanted {w.shape}"
        if not gap(g, w) <= tolerance:
            at = np.unravel_index(np.argmax(np.abs(g - w)), g.shape)
            raise AssertionError(f"{name} at {tuple(map(int, at))}: {g[at]!r}, wanted {w[at]!r} (gap {gap(g, w):.1e})")

"""The values inside PyTorch's fused operations, which another implementation may compute one by one.

``F.layer_norm`` is one operation; a port by hand has a line for the mean, one for the variance and one for ε. Only with
these values beside it can the line with the wrong ε be told from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """One value inside an operation; sources are places of the operation's arguments, or names of earlier steps."""

    name: str
    value: Tensor
    sources: tuple[int | str, ...]


def _normalise(x: Tensor, dims: list[int], scale: Tensor | None, eps: float, places: tuple[int, int]) -> list[Step]:
    """x̂ = (x - μ)/√(σ² + ε), y = γ x̂ + β: everything up to γ x̂."""
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    var = centred.square().mean(dims, keepdim=True)
    steps = [Step("mean", mean, (places[0],)), Step("x - mean", centred, (places[0], "mean"))]
    steps += [Step("variance", var, ("x - mean",))]
    return steps + _scaled(centred, var, scale, eps, places[1], ("x - mean", "variance"))


def _scaled(
    centred: Tensor, var: Tensor, scale: Tensor | None, eps: float, place: int, sources: tuple[int | str, int | str]
) -> list[Step]:
    rstd = (var + eps).rsqrt()
    steps = [
        Step("variance + eps", var + eps, (sources[1],)),
        Step("rsqrt(variance + eps)", rstd, ("variance + eps",)),
        Step("normalised", centred * rstd, (sources[0], "rsqrt(variance + eps)")),
    ]
    if scale is not None:
        steps.append(Step("scale * normalised", scale * centred * rstd, ("normalised", place)))
    return steps


def _layer_norm(args: Any, outputs: Any) -> list[Step]:
    x, shape, scale, _, eps = args
    return _normalise(x, list(range(x.ndim - len(shape), x.ndim)), scale, eps, (0, 2))


def _group_norm(args: Any, outputs: Any) -> list[Step]:
    x, _, _, n, _, _, groups, eps = args
    return _normalise(x.reshape(n, groups, -1), [2], None, eps, (0, 0))


def _batch_norm(args: Any, outputs: Any) -> list[Step]:
    x, scale, _, mean, var, training, _, eps = args
    dims = [0, *range(2, x.ndim)]
    shape = (1, -1, *(1,) * (x.ndim - 2))
    scale = None if scale is None else scale.view(shape)
    if training:
        return _normalise(x, dims, scale, eps, (0, 1))
    centred = x - mean.view(shape)
    steps = [Step("x - mean", centred, (0, 3))]
    return steps + _scaled(centred, var.view(shape), scale, eps, 1, ("x - mean", 4))


def _softmax(args: Any, outputs: Any) -> list[Step]:
    x, dim = args[:2]
    shifted = x - x.amax(dim, keepdim=True)
    powers = shifted.exp()
    return [
        Step("x - max", shifted, (0,)),
        Step("exp", powers, ("x - max",)),
        Step("sum of exp", powers.sum(dim, keepdim=True), ("exp",)),
    ]


def _addmm(args: Any, outputs: Any) -> list[Step]:
    return [Step("product", outputs - args[0], (1, 2))]


def _convolution(args: Any, outputs: Any) -> list[Step]:
    if args[2] is None:
        return []
    return [Step("product", outputs - args[2].view(-1, *(1,) * (outputs.ndim - 2)), (0, 1))]


INSIDE: dict[str, Callable[[Any, Any], list[Step]]] = {
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "_log_softmax": _softmax,
    "addmm": _addmm,
    "convolution": _convolution,
}


def steps_inside(op: str, args: Any, outputs: Any) -> list[Step]:
    """The values inside one call of a fused operation; an empty list for every other operation."""
    if op not in INSIDE:
        return []
    with torch.no_grad():
        return INSIDE[op](args, outputs)

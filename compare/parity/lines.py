"""The line where two tracks part: network and loss of each, compared value by value by ``compare.ports``.

The parity check says which leaf differs. This compares what a step computes before it updates anything, forward and
backward, on the same floats and labels and from the same parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from compare import networks
from compare.config import Config
from compare.parity.check import random_batches
from compare.ports import check
from compare.ports.report import Report
from compare.ports.side import PortError
from numpy_nn.tree import Tree, tree_map

LAYOUTS = {"numpy": "NHWC", "jax": "NHWC", "torch": "NCHW"}
IMAGES = 4  # so many show what a batch does


def compared(config: Config, a: str, b: str, change: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> Report:
    """The report of two tracks' training loss as ports of each other, in float64, on images that ``change`` may change.

    Raises PortError where they cannot be compared.
    """
    rng = np.random.default_rng(config.seed)
    snapshot = shaken(networks.first_snapshot(config.model, config.model_args, rng), rng)
    x, y = random_batches(config, rng, steps=1)
    if x.ndim == 3:
        raise PortError("networks of text are compared leaf by leaf only")
    images, labels = change(x[0, :IMAGES] / 255 - 0.5), y[0, :IMAGES]
    given = images.transpose(0, 3, 1, 2) if LAYOUTS[a] == "NCHW" else images
    layouts = LAYOUTS[a], LAYOUTS[b]
    sides = SIDES[a](config, snapshot), SIDES[b](config, snapshot)
    return check(*sides, [given, labels], layouts=layouts, mapping=mapping(config, a, b), train=True)


def shaken(snapshot: Tree, rng: np.random.Generator) -> Tree:
    """The snapshot with random numbers added to every leaf: zeros and ones hide what is left out or mixed up."""
    return {
        "params": tree_map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape), snapshot["params"]),
        "stats": tree_map(lambda leaf: leaf + rng.random(leaf.shape), snapshot["stats"]),
    }


def with_ties(images: np.ndarray) -> np.ndarray:
    """The images, the first of them all 0, so that its pixels are equal to the last bit after a convolution, too."""
    return np.concatenate([np.zeros_like(images[:1]), images[1:]])


def explained(config: Config, a: str, b: str) -> str:
    """The line where two tracks part, or why none can be named, as text for the terminal."""
    try:
        report = compared(config, a, b)
        if report.verdict == "same":
            report = compared(config, a, b, with_ties)
    except PortError as error:
        return f"no line can be named: {error}"
    if report.verdict == "same":
        return (
            "forward and backward pass of network and loss are the same line by line: the tracks part in the update "
            "(optimizer, schedule, accumulation) or in the scaling of the images"
        )
    return str(report)


def of_numpy(config: Config, snapshot: Tree) -> tuple[Callable[..., Any], Callable[..., Any], Tree]:
    """The training loss in NumPy: forward, backward, parameters."""
    from numpy_nn import models
    from numpy_nn.losses import LOSSES
    from numpy_nn.norm import Mode

    network = models.get(config.model)(**config.model_args)
    loss_forward, loss_backward = LOSSES[config.loss]

    def forward(params: Tree, x: np.ndarray, y: np.ndarray, train: bool) -> tuple[Any, Any, Tree]:
        outputs, stats, cache = network.forward(params["params"], params.get("stats", {}), x, Mode(train=train))
        loss, loss_cache = loss_forward(outputs, y, **config.loss_args)
        return loss, (cache, loss_cache), {"stats": stats}

    def backward(dloss: Any, caches: Any) -> Tree:
        cache, loss_cache = caches
        doutputs = loss_backward(float(dloss), loss_cache)
        return {"params": network.backward(doutputs, cache)}

    return forward, backward, {name: snapshot[name] for name in ("params", "stats")}


def of_jax(config: Config, snapshot: Tree) -> Any:
    """The training loss in JAX, as a module whose network has the parameters."""
    from flax import nnx

    from jax_nn import interop, models
    from jax_nn.losses import LOSSES

    loss = partial(LOSSES[config.loss], **config.loss_args)

    class Loss(nnx.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.model = models.get(config.model)(**config.model_args, rngs=nnx.Rngs(0))

        def __call__(self, x: Any, y: Any) -> Any:
            return loss(self.model(x), y)

    made = Loss()
    for part in ("params", "stats"):
        nnx.update(made.model, interop.to_jax(snapshot[part], "float32"))
    return made


def of_torch(config: Config, snapshot: Tree) -> Any:
    """The training loss in PyTorch, as a module whose network has the parameters."""
    from torch import nn

    from torch_nn import interop, models
    from torch_nn.losses import LOSSES

    loss = partial(LOSSES[config.loss], **config.loss_args)

    class Loss(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = models.get(config.model)(**config.model_args)

        def forward(self, x: Any, y: Any) -> Any:
            return loss(self.model(x), y)

    made = Loss().double()
    interop.params_from_tree(made.model, snapshot["params"])
    interop.stats_from_tree(made.model, snapshot["stats"])
    return made


SIDES: dict[str, Callable[[Config, Tree], Any]] = {"numpy": of_numpy, "jax": of_jax, "torch": of_torch}


def mapping(config: Config, a: str, b: str) -> dict[str, str | None] | None:
    """What the class ``Torch`` of the user's file states about its names, for ``check``."""
    if not networks.is_file(config.model) or "torch" not in (a, b):
        return None
    stated = getattr(networks.classes_of(config.model)["torch"], "names", {})
    other = {"numpy": "params", "jax": "model"}[b if a == "torch" else a]
    found: dict[str, str | None] = {}
    for path, name in stated.items():
        ours, theirs, transposed = f"{other}/{path}", f"model.{name.removesuffix('.T')}", ".T" * name.endswith(".T")
        found |= {theirs: ours + transposed} if b == "torch" else {ours: theirs + transposed}
    return found

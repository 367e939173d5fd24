"""What the notebooks share: the style of figures, finite differences to check a gradient, a parity check of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib_inline.backend_inline import set_matplotlib_formats

from compare.report.style import FAINT, INK, KNOWN, RC

__all__ = ["FAINT", "INK", "KNOWN", "PALETTE", "figures", "finite_differences", "same_in_three"]

PALETTE = ["#222222", "#009E73", "#56B4E9", "#CC79A7", "#B8860B", "#762A83"]


def figures() -> None:
    """Draw as the reports do, at 144 dots per inch."""
    plt.rcParams.update(RC | {"figure.dpi": 72, "figure.constrained_layout.use": True})
    set_matplotlib_formats("retina")  # twice the dots, shown at the same size


def finite_differences(
    f: Callable[[np.ndarray], float], x: Any, places: Iterable[Any] | None = None, eps: float = 1e-5
) -> np.ndarray:
    """∂f/∂x by central differences, (f(x + ε) - f(x - ε)) / 2ε: for every element of x, or at the given places only.

    The gradient has the shape of x and is zero at the places left out. Notebook 01 shows why ε is 1e-5 in float64.
    """
    x = np.array(x, float)
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape) if places is None else places:
        value = x[at]
        x[at] = value + eps
        above = f(x)
        x[at] = value - eps
        gradient[at] = (above - f(x)) / (2 * eps)
        x[at] = value
    return gradient


def same_in_three(model: str, steps: int = 3, size: int = 28, **model_args: Any) -> None:
    """Train the three tracks of this project from the same weights on the same digits, and assert that they stay equal.

    Losses agree to 1e-11 of themselves, all parameters to 1e-10, in float64. Digits are cut to ``size`` pixels a side.
    """
    from compare.data.datasets import load  # here, because not every notebook needs the three frameworks' tracks
    from jax_nn import train as jax_train
    from numpy_nn import train as numpy_train
    from numpy_nn.models import MODELS
    from numpy_nn.tree import count, leaves
    from torch_nn import train as torch_train

    data = load("mnist")
    snapshot = MODELS[model](**model_args).init(np.random.default_rng(0))
    x = data.train_x[: steps * 16].reshape(steps, 16, 28, 28, 1)[:, :, :size, :size]
    y = data.train_y[: steps * 16].reshape(steps, 16)
    after, losses = {}, {}
    for name, track in {"numpy": numpy_train, "jax": jax_train, "torch": torch_train}.items():
        state = track.init_state(
            snapshot, model=model, model_args=model_args, optimizer="momentum",
            schedule_args={"lr": 0.05, "steps": steps}, precision="float64",
        )  # fmt: skip
        state, metrics = track.train_steps(state, x, y)
        after[name], losses[name] = leaves(track.to_snapshot(state)["params"]), np.asarray(metrics["loss"])
    for other in ("jax", "torch"):
        np.testing.assert_allclose(losses[other], losses["numpy"], rtol=1e-11)
        for path, leaf in after["numpy"].items():
            np.testing.assert_allclose(after[other][path], leaf, rtol=0, atol=1e-10, err_msg=f"{other} {path}")
    print(f"{model}: {count(snapshot['params']):,} parameters, losses {losses['numpy'].round(4)} in all three")

"""What the notebooks share: the style of the figures, and finite differences to check a gradient against."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib_inline.backend_inline import set_matplotlib_formats

from compare.report.style import FAINT, INK, KNOWN, RC

__all__ = ["FAINT", "INK", "KNOWN", "PALETTE", "figures", "finite_differences"]

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

"""Formulas that implementations choose differently: which of them did each side compute?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from compare.ports.patterns import fits

Formula = Callable[[np.ndarray], np.ndarray]
_erf = np.vectorize(math.erf, otypes=[float])


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1/(1 + e⁻ˣ) = (1 + tanh(x/2))/2."""
    return 0.5 * (1 + np.tanh(x / 2))


ACTIVATIONS: dict[str, Formula] = {
    "ReLU": lambda x: np.maximum(x, 0),
    "GELU with erf": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "GELU with tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "GELU with sigmoid(1.702 x)": lambda x: x * sigmoid(1.702 * x),
    "SiLU": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(x, 0),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "leaky ReLU with slope 0.01": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky ReLU with slope 0.1": lambda x: np.where(x > 0, x, 0.1 * x),
    "leaky ReLU with slope 0.2": lambda x: np.where(x > 0, x, 0.2 * x),
    "the identity": lambda x: x,
}


def activation_of(x: np.ndarray, y: np.ndarray) -> str:
    """The activation that makes y of x, "" if none does."""
    if x.shape != y.shape or x.size < 8 or x.size > 10**6:
        return ""
    with np.errstate(over="ignore", invalid="ignore"):
        return next((name for name, formula in ACTIVATIONS.items() if fits(y, formula(x), 1e-9)), "")


def normalised_axis(x: np.ndarray) -> int:
    """The axis (-1, -2, ...) along which probabilities sum to 1; 0 if there is none, or more than one."""
    if x.ndim < 2 or not np.isfinite(x).all() or x.min() < 0:
        return 0
    found = [k for k in range(-x.ndim, 0) if x.shape[k] > 1 and fits(x.sum(axis=k), np.ones(1), 1e-9)]
    return found[0] if len(found) == 1 else 0


def epsilon_gap(x: np.ndarray, y: np.ndarray) -> float | None:
    """εᵇ - εᵃ of x = 1/√(σ² + εᵃ), y = 1/√(σ² + εᵇ): 1/y² - 1/x²; None if that is not one number."""
    if x.shape != y.shape or x.size < 2 or (x <= 0).any() or (y <= 0).any():
        return None
    gap = 1 / y**2 - 1 / x**2
    mean = float(gap.mean())
    return mean if mean and np.linalg.norm((gap - mean).ravel()) <= 1e-4 * np.linalg.norm(gap.ravel()) else None


def convolution_padding(x: np.ndarray, kernel: np.ndarray, y: np.ndarray) -> tuple[int, int] | None:
    """The padding with which y (n, o, p, q) is the convolution of x (n, i, h, w) with kernel (o, i, kh, kw)."""
    import torch

    image, weight = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(kernel))
    sizes = range(max(kernel.shape[2:]))
    groups = x.shape[1] // kernel.shape[1] if kernel.shape[1] else 0
    if not groups or groups * kernel.shape[1] != x.shape[1]:
        return None
    for stride in (1, 2, 3, 4):
        for before, after in sorted(itertools.product(sizes, sizes), key=lambda pair: abs(pair[0] - pair[1])):
            padded = torch.nn.functional.pad(image, (before, after, before, after))
            if min(padded.shape[2:]) < max(kernel.shape[2:]):
                continue
            made = torch.nn.functional.conv2d(padded, weight, stride=stride, groups=groups).numpy()
            if made.shape == y.shape and fits(y, made, 1e-9):
                return before, after
    return None


def resize_corners(x: np.ndarray, y: np.ndarray) -> bool | None:
    """``align_corners`` of the bilinear resize that makes y (n, c, p, q) of x (n, c, h, w); None if there is none."""
    import torch

    if x.ndim != 4 or y.ndim != 4 or x.shape[:2] != y.shape[:2] or x.shape == y.shape:
        return None
    image = torch.from_numpy(np.array(x))
    for corners in (False, True):
        made = torch.nn.functional.interpolate(image, y.shape[2:], mode="bilinear", align_corners=corners).numpy()
        if fits(y, made, 1e-6):
            return corners
    return None


def smoothing(log_p: np.ndarray, labels: np.ndarray, loss: float) -> float | None:
    """ε of the mean of -(1 - ε) log p[label] - ε mean(log p); None outside 0..1.

    The loss is linear in ε: loss = L₀ + ε (Lᵤ - L₀) with L₀ = -mean log p[label], Lᵤ = -mean log p.
    """
    if (
        log_p.ndim != 2
        or log_p.shape[1] < 2
        or labels.shape != log_p.shape[:1]
        or labels.min() < 0
        or labels.max() >= log_p.shape[1]
    ):
        return None
    chosen = -float(np.mean(log_p[np.arange(len(labels)), labels.astype(int)]))
    uniform = -float(np.mean(log_p))
    epsilon = (loss - chosen) / (uniform - chosen) if uniform != chosen else math.nan
    return epsilon if -1e-9 <= epsilon <= 1 + 1e-9 else None

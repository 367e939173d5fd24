"""Normalisation: subtract a mean, divide by a deviation, then scale and shift by what is learned."""

from __future__ import annotations

from torch import nn

EPS = 1e-5  # added to every variance; written out because the frameworks differ
NEW = 0.1  # running statistics ← 0.9 · old + 0.1 · those of the batch


class BatchNorm(nn.BatchNorm2d):
    """y = γ (x - μ)/√(σ² + ε) + β per channel  (Ioffe & Szegedy 2015, arXiv:1502.03167).

    In training μ and σ² are those of the batch, otherwise the running ones. The
    running variance follows the unbiased σ² N/(N - 1): PyTorch's rule, and here everybody's.
    """

    def __init__(self, c: int):
        super().__init__(c, eps=EPS, momentum=NEW)


class LayerNorm(nn.LayerNorm):
    """y = γ (x - μ)/√(σ² + ε) + β, μ and σ² over the features (Ba, Kiros & Hinton 2016, arXiv:1607.06450)."""

    def __init__(self, d: int, *, eps: float = EPS):
        super().__init__(d, eps=eps)

"""Normalisation: subtract the mean, divide by the standard deviation, then apply a learned scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torch_nn.collectives import all_mean

EPS = 1e-5  # added to every variance; written out because the frameworks' defaults differ
MOMENTUM = 0.1  # running ← (1 - momentum) · running + momentum · batch; the other tracks call that 0.9


class BatchNorm(nn.BatchNorm2d):
    """y = γ (x - μ)/√(σ² + ε) + β per channel  (Ioffe & Szegedy 2015, arXiv:1502.03167).

    μ and σ² are those of the batch in training, and the running ones in evaluation. The running variance
    follows the unbiased σ² N/(N - 1): PyTorch's rule, which all tracks follow. With several ``replicas``, x is one
    of equal shards, and μ and σ² are those of all; ``nn.SyncBatchNorm`` does that on GPUs only.
    """

    def __init__(self, c: int):
        super().__init__(c, eps=EPS, momentum=MOMENTUM)
        self.replicas = 1

    def forward(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) -> the same shape."""
        if self.replicas == 1 or not self.training:
            return super().forward(x)
        values, size = x.to(self.weight.dtype), self.replicas * x.numel() // x.shape[1]
        mean = all_mean(values.mean(dim=(0, 2, 3)))
        centred = values - mean[:, None, None]
        var = all_mean(centred.square().mean(dim=(0, 2, 3)))
        with torch.no_grad():
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_var.lerp_(var * (size / (size - 1)), MOMENTUM)
        scale = self.weight * torch.rsqrt(var + EPS)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """y = γ (x - μ)/√(σ² + ε) + β, μ and σ² over the features (Ba, Kiros & Hinton 2016, arXiv:1607.06450)."""

    def __init__(self, d: int, *, eps: float = EPS):
        super().__init__(d, eps=eps)

"""Normalisation: subtract a mean, divide by a deviation, then scale and shift by what is learned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torch_nn.parallel import all_mean

EPS = 1e-5  # added to every variance; written out because the frameworks differ
NEW = 0.1  # running statistics ← 0.9 · old + 0.1 · those of the batch


class BatchNorm(nn.BatchNorm2d):
    """y = γ (x - μ)/√(σ² + ε) + β per channel  (Ioffe & Szegedy 2015, arXiv:1502.03167).

    In training μ and σ² are those of the batch, otherwise the running ones. The
    running variance follows the unbiased σ² N/(N - 1): PyTorch's rule, and here everybody's. Where a batch lies in
    equal shards on several ``replicas``, μ and σ² are means of theirs; ``nn.SyncBatchNorm`` can do that on GPUs only.
    """

    def __init__(self, c: int):
        super().__init__(c, eps=EPS, momentum=NEW)
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
            self.running_mean.lerp_(mean, NEW)
            self.running_var.lerp_(var * (size / (size - 1)), NEW)
        scale = self.weight * torch.rsqrt(var + EPS)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """y = γ (x - μ)/√(σ² + ε) + β, μ and σ² over the features (Ba, Kiros & Hinton 2016, arXiv:1607.06450)."""

    def __init__(self, d: int, *, eps: float = EPS):
        super().__init__(d, eps=eps)

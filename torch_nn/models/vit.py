"""ViT: an image as a sequence of patches that exchange information through attention."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from torch_nn.attention import MultiHeadAttention, Tokens
from torch_nn.conv import Conv
from torch_nn.layers import Linear
from torch_nn.norm import EPS, LayerNorm


class EncoderBlock(nn.Module):
    """x ← x + attention(norm(x)),  x ← x + contract(gelu(expand(norm(x)))): pre-norm, as in the paper.

    No layer lies on the residual path, so the gradient reaches the first block directly.
    """

    def __init__(self, dim: int, *, heads: int, mlp_dim: int, eps: float):
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=eps)
        self.attention = MultiHeadAttention(dim, heads=heads)
        self.norm2 = LayerNorm(dim, eps=eps)
        self.expand = Linear(dim, mlp_dim)
        self.contract = Linear(mlp_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, t, d) -> the same shape."""
        h = self.norm1(x)
        h = self.attention(h)
        x = x + h
        h = self.norm2(x)
        h = self.expand(h)
        h = gelu(h)  # the exact form, with erf
        h = self.contract(h)
        return x + h


class ViT(nn.Module):
    """x (n, c, h, w) -> patches -> class token, positions -> blocks -> class token -> norm -> linear -> logits.

    Dosovitskiy et al. 2021, "An image is worth 16x16 words", arXiv:2010.11929. A convolution whose
    stride is the patch size maps each patch to a vector. The paper and torchvision use ``eps=1e-6``;
    ViT-B/16 is ``input_shape=(224, 224, 3), patch=16, dim=768, depth=12,
    heads=12, mlp_dim=3072, eps=1e-6, classes=1000``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (28, 28, 1),
        patch: int = 7,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_dim: int = 128,
        eps: float = EPS,
        classes: int = 10,
    ):
        super().__init__()
        h, w, c = input_shape
        if patch < 1 or h % patch or w % patch:
            raise ValueError(f"patch is {patch}: it must divide the image's height {h} and width {w}")
        self.patches = Conv(c, dim, patch, stride=patch)
        self.tokens = Tokens((h // patch) * (w // patch), dim)
        self.blocks = nn.ModuleList(EncoderBlock(dim, heads=heads, mlp_dim=mlp_dim, eps=eps) for _ in range(depth))
        self.norm = LayerNorm(dim, eps=eps)
        self.output = Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.patches(x)
        x = x.permute(0, 2, 3, 1).flatten(1, 2)  # (n, t, d), row by row
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        h = self.norm(x[:, 0])
        return self.output(h)

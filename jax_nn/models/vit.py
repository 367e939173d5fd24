"""ViT: an image as a sequence of patches that exchange information through attention."""

from __future__ import annotations

from flax import nnx
from jax import Array
from jax.nn import gelu

from jax_nn.attention import MultiHeadAttention, Tokens
from jax_nn.conv import Conv
from jax_nn.layers import Linear
from jax_nn.norm import EPS, LayerNorm


class EncoderBlock(nnx.Module):
    """x ← x + attention(norm(x)),  x ← x + contract(gelu(expand(norm(x)))): pre-norm, as in the paper.

    No layer lies on the residual path, so the gradient reaches the first block directly.
    """

    def __init__(self, dim: int, *, heads: int, mlp_dim: int, eps: float, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(dim, eps=eps, rngs=rngs)
        self.attention = MultiHeadAttention(dim, heads=heads, rngs=rngs)
        self.norm2 = LayerNorm(dim, eps=eps, rngs=rngs)
        self.expand = Linear(dim, mlp_dim, rngs=rngs)
        self.contract = Linear(mlp_dim, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """x (n, t, d) -> the same shape."""
        h = self.norm1(x)
        h = self.attention(h)
        x = x + h
        h = self.norm2(x)
        h = self.expand(h)
        h = gelu(h, approximate=False)  # the exact form, with erf
        h = self.contract(h)
        return x + h


class ViT(nnx.Module):
    """x (n, h, w, c) -> patches -> class token, positions -> blocks -> class token -> norm -> linear -> logits.

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
        rngs: nnx.Rngs,
    ):
        h, w, c = input_shape
        if patch < 1 or h % patch or w % patch:
            raise ValueError(f"patch is {patch}: it must divide the image's height {h} and width {w}")
        self.patches = Conv(c, dim, patch, stride=patch, rngs=rngs)
        self.tokens = Tokens((h // patch) * (w // patch), dim)
        self.blocks = nnx.List(
            EncoderBlock(dim, heads=heads, mlp_dim=mlp_dim, eps=eps, rngs=rngs) for _ in range(depth)
        )
        self.norm = LayerNorm(dim, eps=eps, rngs=rngs)
        self.output = Linear(dim, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Return the logits."""
        x = self.patches(x)
        n, h, w, d = x.shape
        x = x.reshape(n, h * w, d)
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        h = self.norm(x[:, 0])
        return self.output(h)

"""GPT: a text as a sequence of tokens, each predicted from those before it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu

from torch_nn.attention import MultiHeadAttention, Positions, causal_mask
from torch_nn.layers import Embedding, Linear
from torch_nn.norm import EPS, LayerNorm


class DecoderBlock(nn.Module):
    """x ← x + attention(norm(x)),  x ← x + contract(gelu(expand(norm(x)))), where no position sees a later one.

    The mask is the only difference from the encoder block of a ViT.
    """

    def __init__(self, dim: int, *, heads: int, mlp_dim: int, eps: float):
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=eps)
        self.attention = MultiHeadAttention(dim, heads=heads)
        self.norm2 = LayerNorm(dim, eps=eps)
        self.expand = Linear(dim, mlp_dim)
        self.contract = Linear(mlp_dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (n, t, d) -> the same shape."""
        h = self.norm1(x)
        h = self.attention(h, mask)
        x = x + h
        h = self.norm2(x)
        h = self.expand(h)
        h = gelu(h)  # the exact form, with erf
        h = self.contract(h)
        return x + h


class GPT(nn.Module):
    """tokens (n, t) -> token embedding + position embedding -> blocks -> norm -> linear -> logits (n, t, v).

    Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2), with the exact GELU instead of
    its tanh approximation. The logits at a position are those of the next token. ``input_shape`` is the context, the
    number of positions; ``classes`` is the vocabulary. With ``tied``, the output layer is the transpose of the token
    embedding (Press & Wolf 2017, arXiv:1608.05859). GPT-2 small is ``input_shape=(1024,), dim=768, depth=12,
    heads=12, mlp_dim=3072, classes=50257``.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] = (128,),
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        mlp_dim: int = 256,
        tied: bool = True,
        eps: float = EPS,
        classes: int = 128,
    ):
        super().__init__()
        if len(input_shape) != 1:
            raise ValueError(f"input_shape is {input_shape}: a text has one number, its length")
        (context,) = input_shape
        self.tied = tied
        self.embedding = Embedding(classes, dim)
        self.positions = Positions(context, dim)
        self.blocks = nn.ModuleList(DecoderBlock(dim, heads=heads, mlp_dim=mlp_dim, eps=eps) for _ in range(depth))
        self.norm = LayerNorm(dim, eps=eps)
        if not tied:
            self.output = Linear(dim, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        _, t = x.shape
        x = self.embedding(x)
        x = self.positions(x)
        mask = causal_mask(t).to(x.device)
        for block in self.blocks:
            x = block(x, mask)
        h = self.norm(x)
        kernel = self.embedding.weight.T if self.tied else self.output.weight.T
        return h @ kernel

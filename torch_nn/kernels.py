"""GPU kernels in Triton: the kernels of numpy_nn/kernels.py.

On a GPU, Triton compiles a kernel at its first call; tile sizes must be powers of two, at least 16. Without a GPU it
interprets the kernel on the CPU, slowly, with the same result. Triton comes with PyTorch for Linux; elsewhere importing
this module raises ImportError.

A kernel receives the addresses of arrays and their strides. A tile is a (block, block) array of addresses, and a mask
is True for those inside the array.
"""

from __future__ import annotations

import os
import sys
from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if not torch.cuda.is_available():  # Triton reads the variable when it is imported
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise ImportError(
            "Triton is already loaded for a GPU, and there is none: import torch_nn.kernels before anything that loads "
            "Triton (torch.compile does), or start Python with TRITON_INTERPRET=1"
        )
    os.environ["TRITON_INTERPRET"] = "1"
try:
    import triton
    import triton.language as tl
except ModuleNotFoundError as error:
    raise ImportError(
        "torch_nn.kernels needs Triton, which comes with PyTorch for Linux, CPU builds excepted: pip install triton"
    ) from error

# --- tiled matmul -----------------------------------------------------------------------------------------------------


@triton.jit
@no_type_check
def _matmul_kernel(
    a, b, y, n, i, o, a_row, a_column, b_row, b_column, block: tl.constexpr
):  # a_row, a_column, b_row, b_column: strides of a and b; y is contiguous
    """Compute one (block, block) tile of y: a row of tiles of a times a column of tiles of b."""
    rows = (tl.program_id(0) * block + tl.arange(0, block))[:, None]
    columns = (tl.program_id(1) * block + tl.arange(0, block))[None, :]
    accumulator = tl.zeros((block, block), tl.float32)  # fast memory: the registers
    for start in range(0, i, block):
        inner = start + tl.arange(0, block)
        across, down = inner[None, :], inner[:, None]
        a_tile = tl.load(a + rows * a_row + across * a_column, mask=(rows < n) & (across < i), other=0.0)
        b_tile = tl.load(b + down * b_row + columns * b_column, mask=(down < i) & (columns < o), other=0.0)
        accumulator = tl.dot(a_tile, b_tile, accumulator, input_precision="ieee")  # no TF32
    tl.store(y + rows * o + columns, accumulator, mask=(rows < n) & (columns < o))


def _run_matmul(a: Tensor, b: Tensor, block: int) -> Tensor:
    (n, i), o = a.shape, b.shape[1]
    y = a.new_empty(n, o)
    grid = (triton.cdiv(n, block), triton.cdiv(o, block))
    _matmul_kernel[grid](a, b, y, n, i, o, *a.stride(), *b.stride(), block=block)
    return y


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, block: int) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.block = block
        return _run_matmul(a, b, block)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b = ctx.saved_tensors
        return _run_matmul(dy, b.T, ctx.block), _run_matmul(a.T, dy, ctx.block), None


def matmul(a: Tensor, b: Tensor, *, block: int = 32) -> Tensor:
    """y (n, o) = a (n, i) b (i, o), one program per (block, block) tile of y; da = dy bᵀ and db = aᵀ dy likewise.

    ValueError if the inner sizes differ, or a dtype is not float32.
    """
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"a is {tuple(a.shape)} and b {tuple(b.shape)}: a must have as many columns as b has rows")
    _check(a, b)
    return _Matmul.apply(a, b, block)


# --- fused softmax and cross-entropy ----------------------------------------------------------------------------------


@triton.jit
@no_type_check
def _loss_kernel(logits, labels, loss, log_z, n, v, block: tl.constexpr):
    """Compute log z = log Σᵥ e^x and loss = log z - x[label] for ``block`` rows, in one pass over the logits.

    So far, m is the largest logit and total = Σ e^(x - m); right is the logit of the label
    (online softmax, Milakov & Gimelshein 2018, arXiv:1805.02867).
    """
    rows = tl.program_id(0) * block + tl.arange(0, block)
    label = tl.load(labels + rows, mask=rows < n, other=-1)
    m = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    right = tl.zeros((block,), tl.float32)
    for start in range(0, v, block):
        columns = start + tl.arange(0, block)
        mask = (rows < n)[:, None] & (columns < v)[None, :]
        x = tl.load(logits + rows[:, None] * v + columns[None, :], mask=mask, other=-3.4e38)  # e^-3.4e38 = 0
        new_m = tl.maximum(m, tl.max(x, axis=1))
        total = total * tl.exp(m - new_m) + tl.sum(tl.exp(x - new_m[:, None]), axis=1)
        right += tl.sum(tl.where(columns[None, :] == label[:, None], x, 0.0), axis=1)
        m = new_m
    z = m + tl.log(total)
    tl.store(log_z + rows, z, mask=rows < n)
    tl.store(loss + rows, tl.where(label >= 0, z - right, 0.0), mask=rows < n)


@triton.jit
@no_type_check
def _gradient_kernel(logits, labels, log_z, scale, dlogits, n, v, block: tl.constexpr):
    """Compute one (block, block) tile of dlogits = scale · (e^(x - log z) - one_hot(label))."""
    rows = (tl.program_id(0) * block + tl.arange(0, block))[:, None]
    columns = (tl.program_id(1) * block + tl.arange(0, block))[None, :]
    label = tl.load(labels + rows, mask=rows < n, other=-1)
    z = tl.load(log_z + rows, mask=rows < n, other=0.0)
    s = tl.load(scale + rows, mask=rows < n, other=0.0)
    mask = (rows < n) & (columns < v)
    softmax = tl.exp(tl.load(logits + rows * v + columns, mask=mask, other=-3.4e38) - z)
    tl.store(dlogits + rows * v + columns, s * (softmax - tl.where(columns == label, 1.0, 0.0)), mask=mask)


class _SoftmaxCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, block: int) -> Tensor:
        (n, v), logits, labels = logits.shape, logits.contiguous(), labels.contiguous()
        loss, log_z = logits.new_empty(n), logits.new_empty(n)
        _loss_kernel[(triton.cdiv(n, block),)](logits, labels, loss, log_z, n, v, block=block)
        count = (labels >= 0).sum().clamp(min=1)
        ctx.save_for_backward(logits, labels, log_z, count)
        ctx.block = block
        return loss.sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, log_z, count = ctx.saved_tensors
        (n, v), block = logits.shape, ctx.block
        scale = torch.where(labels >= 0, dloss / count, 0)
        dlogits = torch.empty_like(logits)
        grid = (triton.cdiv(n, block), triton.cdiv(v, block))
        _gradient_kernel[grid](logits, labels, log_z, scale, dlogits, n, v, block=block)
        return dlogits, None, None


def softmax_cross_entropy(logits: Tensor, labels: Tensor, *, block: int = 32) -> Tensor:
    """loss = -1/n Σₙ log softmax(logits)[label] for logits (n, v), labels (n,), one program per ``block`` rows.

    Labels below zero are padding and are not counted. No (n, v) intermediate is kept: the backward pass recomputes the
    softmax from log z, one number per row. ValueError for a dtype other than float32.
    """
    _check(logits)
    return _SoftmaxCrossEntropy.apply(logits, labels, block)


def _check(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise ValueError(f"the kernels take float32, not {tensor.dtype}: convert with .float()")

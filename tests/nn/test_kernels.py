"""Kernels written in tiles are the whole-array operations, in their interpreters and on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from compare.parity.check import exact_jax
from jax_nn import kernels as jax_kernels
from numpy_nn import kernels, losses

try:
    from torch_nn import kernels as torch_kernels
except ImportError as error:
    torch_kernels, without_triton = None, str(error)  # type: ignore[assignment]

BLOCK = 16
ROWS, INNER, CLASSES = 37, 21, 18  # none divides by the block
# Of the largest number: a decade above what was seen, which is given here.
FLOAT64 = 3e-14  # 3.0e-15: the gradient where logits are 1000; else 3e-16
FLOAT32 = 3e-5  # 2.2e-6: the same; else 1.5e-7


@pytest.fixture
def triton() -> None:
    if torch_kernels is None:
        pytest.skip(without_triton)


@pytest.fixture
def logits(rng) -> tuple[np.ndarray, np.ndarray]:
    """Rows that overflow without care, and rows that do not count."""
    x = 3 * rng.normal(size=(ROWS, CLASSES))
    x[0], x[1], x[2, ::2], x[2, 1::2] = 1000, -1000, 1000, -1000
    x[3, 17] = 1000  # the largest comes last: everything summed before it shrinks to nothing
    labels = rng.integers(0, CLASSES, ROWS)
    labels[[2, 5, ROWS - 1]] = 1, -1, -1
    return x, labels


@pytest.fixture
def factors(rng) -> tuple[np.ndarray, ...]:
    """a, b and dy."""
    return rng.normal(size=(ROWS, INNER)), rng.normal(size=(INNER, CLASSES)), rng.normal(size=(ROWS, CLASSES))


def gap(have, want) -> float:
    """Largest difference over all leaves, each measured by its own largest number."""
    pairs = zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True)
    gaps = [np.abs(np.asarray(x) - y).max() / np.abs(y).max() for x, y in pairs]
    print(gaps)
    return max(gaps)


def reference(logits: np.ndarray, labels: np.ndarray) -> tuple:
    """By the loss that test_ops.py holds against JAX's and PyTorch's."""
    loss, cache = losses.softmax_cross_entropy_forward(logits, labels)
    return loss, losses.softmax_cross_entropy_backward(1.3, cache)


def products(a: np.ndarray, b: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, ...]:
    return a @ b, dy @ b.T, a.T @ dy


# --- NumPy ------------------------------------------------------------------------------------------------------------


def test_numpy_tiled_matmul_matches_plain(factors):
    a, b, dy = factors
    tiled = tuple(kernels.matmul(x, y, block=BLOCK) for x, y in ((a, b), (dy, b.T), (a.T, dy)))
    assert gap(tiled, products(a, b, dy)) < FLOAT64


@pytest.mark.parametrize("block", [5, BLOCK, 64])
def test_numpy_online_softmax_loss_matches_plain(logits, block):
    loss, cache = kernels.softmax_cross_entropy_forward(*logits, block=block)
    have = loss, kernels.softmax_cross_entropy_backward(1.3, cache)
    assert gap(have, reference(*logits)) < FLOAT64


def test_blocks_may_run_in_any_order(factors, logits, monkeypatch):
    def everything() -> Iterator[Any]:
        yield kernels.matmul(*factors[:2], block=BLOCK)
        loss, cache = kernels.softmax_cross_entropy_forward(*logits, block=BLOCK)
        yield from (loss, kernels.softmax_cross_entropy_backward(1.0, cache))

    def backwards(kernel, grid, *args) -> None:
        for program in reversed(list(np.ndindex(grid))):
            kernel(program, *args)

    in_order = list(everything())
    monkeypatch.setattr(kernels, "launch", backwards)
    assert gap(list(everything()), in_order) == 0


def test_numpy_stays_float32(factors, logits):
    a, b, _ = factors
    assert kernels.matmul(a.astype(np.float32), b.astype(np.float32)).dtype == np.float32
    x, labels = logits
    loss, cache = kernels.softmax_cross_entropy_forward(x.astype(np.float32), labels)
    assert loss.dtype == kernels.softmax_cross_entropy_backward(1.0, cache).dtype == np.float32


# --- JAX --------------------------------------------------------------------------------------------------------------


def jax_matmul(a, b, dy):
    y, vjp = jax.vjp(lambda a, b: jax_kernels.matmul(a, b, block=BLOCK), a, b)
    return y, *vjp(dy)


def jax_loss(x, labels):
    loss, vjp = jax.vjp(lambda x: jax_kernels.softmax_cross_entropy(x, labels, block=BLOCK), x)
    return loss, *vjp(1.3 * jnp.ones_like(loss))


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", FLOAT32), ("float64", FLOAT64)])
def test_pallas_kernels_match_numpy(factors, logits, precision, tolerance):
    (x, labels), want = logits, (products(*factors), reference(*logits))
    with exact_jax(precision):
        have = jax.jit(jax_matmul)(*(each.astype(precision) for each in factors))
        loss = jax.jit(jax_loss)(x.astype(precision), labels.astype(np.int32))
    assert {each.dtype for each in (*have, *loss)} == {np.dtype(precision)}
    assert gap(have, want[0]) < tolerance
    assert gap(loss, want[1]) < tolerance


@pytest.mark.parametrize(("function", "kernels"), [(jax_matmul, 3), (jax_loss, 2)], ids=["matmul", "loss"])
def test_pallas_kernels_lower_for_a_gpu(factors, logits, function, kernels):
    """Translated to Triton's language, without interpreted loops; a GPU's driver would do the rest."""
    arrays = factors if function is jax_matmul else (logits[0], logits[1].astype(np.int32))
    arrays = [each.astype(np.float32) if each.ndim == 2 else each for each in arrays]
    program = jax.jit(function).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("triton") == kernels
    assert "while" not in program


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def torch_matmul(*factors: np.ndarray, device: str = "cpu") -> list[torch.Tensor]:
    a, b, dy = (torch.tensor(each, dtype=torch.float32, device=device, requires_grad=True) for each in factors)
    y = torch_kernels.matmul(a, b, block=BLOCK)
    y.backward(dy.detach())
    return [each.detach().cpu() for each in (y, a.grad, b.grad)]


def torch_loss(logits: np.ndarray, labels: np.ndarray, device: str = "cpu") -> list[torch.Tensor]:
    x = torch.tensor(logits, dtype=torch.float32, device=device, requires_grad=True)
    loss = torch_kernels.softmax_cross_entropy(x, torch.tensor(labels, device=device), block=BLOCK)
    (1.3 * loss).backward()
    return [each.detach().cpu() for each in (loss, x.grad)]


def test_triton_kernels_match_numpy(factors, logits, triton):
    assert gap(torch_matmul(*factors), products(*factors)) < FLOAT32
    assert gap(torch_loss(*logits), reference(*logits)) < FLOAT32


def test_triton_accepts_strided_arrays(factors, logits, triton):
    a, b, _ = (torch.tensor(each, dtype=torch.float32) for each in factors)
    y = torch_kernels.matmul(a.T.contiguous().T, b.T.contiguous().T, block=BLOCK)
    assert torch.equal(y, torch_kernels.matmul(a, b, block=BLOCK))
    x, labels = torch.tensor(logits[0], dtype=torch.float32), torch.tensor(logits[1])
    loss = torch_kernels.softmax_cross_entropy(x.T.contiguous().T, labels, block=BLOCK)
    assert torch.equal(loss, torch_kernels.softmax_cross_entropy(x, labels, block=BLOCK))


# --- all of them ------------------------------------------------------------------------------------------------------


def test_loss_of_padding_only_is_zero(logits, triton):
    x, none = logits[0].astype(np.float32), np.full(ROWS, -1)
    loss, cache = kernels.softmax_cross_entropy_forward(x, none)
    assert loss == 0 == np.abs(kernels.softmax_cross_entropy_backward(1.0, cache)).max()
    assert [each.abs().max().item() for each in torch_loss(x, none)] == [0, 0]


def test_invalid_input_is_named(rng, triton):
    a, b = rng.normal(size=(2, 3, 4))
    for module, array in ((jax_kernels, jnp.asarray), (torch_kernels, torch.tensor)):
        with pytest.raises(ValueError, match=r"a is \(3, 4\) and b \(3, 4\): a must have as many columns"):
            module.matmul(array(a), array(b))
    with pytest.raises(ValueError, match=r"float32, not torch.float64: convert with \.float\(\)"):
        torch_kernels.matmul(torch.tensor(a), torch.tensor(b.T))


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")  # Triton 3.9 announces another default
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")  # JAX 0.11: Mosaic is to follow it
def test_compiled_kernels_match_numpy_on_a_gpu(factors, logits, triton):
    if not torch.cuda.is_available() or jax.default_backend() != "gpu":
        pytest.skip("needs a GPU that JAX and PyTorch both find (and NN_GPU=1, so that they look for one)")
    want = products(*factors), reference(*logits)
    assert gap(torch_matmul(*factors, device="cuda"), want[0]) < FLOAT32
    assert gap(torch_loss(logits[0], logits[1], device="cuda"), want[1]) < FLOAT32
    assert gap(jax.jit(jax_matmul)(*(each.astype(np.float32) for each in factors)), want[0]) < FLOAT32
    x, labels = logits[0].astype(np.float32), logits[1].astype(np.int32)
    assert gap(jax.jit(jax_loss)(x, labels), want[1]) < FLOAT32

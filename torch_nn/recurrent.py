"""Recurrent layers: PyTorch's own modules, with their fused kernels.

PyTorch trains two biases, one added to x Wᵢ and one to h Wₕ. Both get the same gradient, so their sum takes twice the
step. Here the first one is a buffer of zeros; the layer can compute the same functions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


def fix_input_bias(module: nn.RNNBase) -> None:
    """Replace the parameter ``bias_ih_l0`` with a buffer of zeros."""
    zeros = torch.zeros_like(module.bias_ih_l0.data)
    del module.bias_ih_l0
    module.register_buffer("bias_ih_l0", zeros, persistent=False)


class RNNLayer(nn.RNN):
    """h ← tanh(x Wᵢ + h Wₕ + b) at every step  (Elman 1990, "Finding structure in time").

    x (n, t, i) -> h at every step (n, t, d), and the last h (1, n, d).
    """

    def __init__(self, i: int, d: int):
        super().__init__(i, d, batch_first=True)
        fix_input_bias(self)


class LSTMLayer(nn.LSTM):
    """[i f g o] = [σ σ tanh σ](x Wᵢ + h Wₕ + b),  c ← f c + i g,  h ← o tanh(c) at every step.

    Hochreiter & Schmidhuber 1997, with the forget gate f of Gers et al. 2000, without peepholes.
    x (n, t, i) -> h at every step (n, t, d), and the last (h, c), each (1, n, d).
    """

    def __init__(self, i: int, d: int):
        super().__init__(i, d, batch_first=True)
        fix_input_bias(self)


def pack(x: Tensor, lengths: Tensor) -> PackedSequence:
    """Pack sequences x (n, t, i) of the given lengths (n,) without their padding; both layers accept the result."""
    return pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)


def unpack(ys: PackedSequence, t: int) -> Tensor:
    """Undo :func:`pack`: return (n, t, d), with 0 after the end of each sequence."""
    return pad_packed_sequence(ys, batch_first=True, total_length=t)[0]

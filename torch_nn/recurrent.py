"""Recurrent networks: PyTorch's own modules and their fused kernels.

They add two biases, one beside the input's product and one beside the state's. Two trained
numbers that are only ever added take the gradient's step twice, so the first is a buffer here,
and stays 0. The network can compute the same functions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


def hold_input_bias(module: nn.RNNBase) -> None:
    """Replace the trained ``bias_ih_l0`` by a buffer of zeros."""
    zeros = torch.zeros_like(module.bias_ih_l0.data)
    del module.bias_ih_l0
    module.register_buffer("bias_ih_l0", zeros, persistent=False)


class RNN(nn.RNN):
    """h ← tanh(x Wᵢ + h Wₕ + b) at every step  (Elman 1990, "Finding structure in time").

    x (n, t, i) -> h after every step (n, t, d), and the last h (1, n, d).
    """

    def __init__(self, i: int, d: int):
        super().__init__(i, d, batch_first=True)
        hold_input_bias(self)


class LSTM(nn.LSTM):
    """[i f g o] = [σ σ tanh σ](x Wᵢ + h Wₕ + b),  c ← f c + i g,  h ← o tanh(c) at every step.

    Hochreiter & Schmidhuber 1997, with the forget gate f of Gers et al. 2000, without peepholes.
    x (n, t, i) -> h after every step (n, t, d), and the last (h, c), each (1, n, d).
    """

    def __init__(self, i: int, d: int):
        super().__init__(i, d, batch_first=True)
        hold_input_bias(self)


def pack(x: Tensor, lengths: Tensor) -> PackedSequence:
    """Drop from x (n, t, i) what follows the end of each sequence; both modules take the result in place of x."""
    return pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)


def unpack(ys: PackedSequence, t: int) -> Tensor:
    """Undo :func:`pack`, with 0 after the end of each sequence: (n, t, d)."""
    return pad_packed_sequence(ys, batch_first=True, total_length=t)[0]

"""Causal attention with scores of -inf, written twice in PyTorch: masks, axes, residuals and rounding are named."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from compare.ports import check


class Attention(nn.Module):
    def __init__(self, *, above: int = 1, axis: int = -1, residual: bool = True, single: bool = False):
        super().__init__()
        self.above, self.axis, self.residual, self.single = above, axis, residual, single
        self.qkv, self.down, self.lstm = nn.Linear(6, 18), nn.Linear(6, 6), nn.LSTM(6, 4, batch_first=True)

    def forward(self, x):  # (n, t, 6)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = q @ k.transpose(1, 2) / 6**0.5
        future = torch.ones(x.shape[1], x.shape[1]).triu(self.above).bool()
        scores = scores.masked_fill(future, float("-inf"))
        weights = scores.softmax(self.axis)
        if self.single:
            weights = weights.float().to(weights.dtype)
        h = self.down(weights @ v)
        if self.residual:
            h = x + h
        return self.lstm(h)[0].mean(1)


def line(text: str) -> str:
    """Where a piece of the source stands, as a report names it."""
    source, start = inspect.getsourcelines(Attention)
    (found,) = (k for k, each in enumerate(source, start) if text in each)
    return f"test_attention.py:{found}"


@pytest.fixture
def report():
    def compared(**port):
        torch.manual_seed(0)
        return check(Attention(), Attention(**port), np.random.default_rng(0).standard_normal((3, 5, 6)))

    return compared


def test_equal_scores_of_minus_infinity_are_equal(report):
    found = report()
    assert found.verdict == "same", str(found)


@pytest.mark.parametrize(("above", "places"), [(2, 4), (0, 5)])
def test_a_mask_off_by_one_is_found_even_where_it_makes_nan(report, above, places):
    found = report(above=above)
    assert found.verdict == "different"
    assert found.first.a.endswith(line("triu("))
    assert found.first.b.endswith(line("triu("))
    assert found.first.hint == f"the masks differ at {places} of 25 places"
    if above == 0:  # nothing is left to attend to in the first row
        assert found.reason.startswith("b has NaN or infinite values, first made at ")
        assert found.reason.endswith(line("masked_fill("))


def test_a_softmax_over_another_axis_is_found_behind_a_mask(report):
    found = report(axis=-2)
    assert found.first.b.endswith(line("softmax("))
    assert found.first.hint == "the softmax is over axis -1 in a, over axis -2 in b"


def test_a_missing_residual_is_no_flatten_order(report):
    found = report(residual=False)
    assert found.first.a.endswith(line("h = x + h"))
    assert found.first.note == "b goes on without it"
    assert "flatten" not in found.first.hint


def test_a_step_in_float32_is_named_though_the_difference_is_small(report):
    found = report(single=True)
    assert found.verdict == "undecided"
    assert "computes in float32, and the difference is of its rounding" in found.reason
    assert found.first.b.endswith(line("weights.float()"))

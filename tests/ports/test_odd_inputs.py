"""Models and inputs out of the ordinary: each is compared, or refused with its reason; never "same" by accident."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from compare.ports import PortError, assert_same, check

HERE = Path(__file__).resolve()


def line_of(text: str) -> str:
    (line,) = (k for k, line in enumerate(HERE.read_text("utf-8").splitlines(), 1) if line.endswith(f"# {text}"))
    return f"{HERE.name}:{line}"


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.output(self.hidden(x).tanh())


@pytest.fixture
def x(rng):
    torch.manual_seed(0)
    return rng.standard_normal((6, 4))


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_integers_among_the_outputs_are_compared_without_a_gradient(x):
    class Labelled(Network):
        def forward(self, x):
            y = super().forward(x)
            return {"logits": y, "label": y.argmax(1), "nothing": None}

    report = assert_same(Labelled(), Labelled(), x)
    assert {row.a for row in report.rows if row.what == "output"} == {"logits", "label"}
    assert sum(row.what == "gradient" for row in report.rows) == 4


def test_a_transposed_output_is_told_of(x):
    class Turned(Network):
        def forward(self, x):
            return super().forward(x).T

    report = check(Network(), Turned(), x)
    assert report.rows[0].note == "shapes (6, 3) and (3, 6)"


# --- parameters -------------------------------------------------------------------------------------------------------


def test_a_parameter_of_b_alone_that_acts_is_a_difference(x):
    class More(Network):
        def __init__(self):
            super().__init__()
            self.extra = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return super().forward(x) + self.extra  # acts

    report = check(Network(), More(), x, mapping={"extra": None})
    assert report.verdict == "different"
    assert (report.first.b, report.first.note) == (line_of("acts"), "only b has it: extra")


def test_leaves_that_one_side_shares_are_named(x):
    class Twice(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            if shared:
                self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x).tanh())

    report = check(Twice(True), Twice(False), x, mapping={"two.weight": "one.weight", "one.weight": "one.weight"})
    assert report.verdict == "different"
    assert (
        report.first.hint == "a shares one.weight where b has two.weight, one.weight: its gradient is the sum of theirs"
    )


def test_a_parameter_called_mean_is_compared():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((4, 3))), "mean": jnp.full(3, 2.0)}
    stopped = lambda p, x: jnp.tanh(x @ p["w"]) * jax.lax.stop_gradient(p["mean"])  # noqa: E731
    report = check(
        (lambda p, x: jnp.tanh(x @ p["w"]) * p["mean"], params), (stopped, params), rng.standard_normal((5, 4))
    )
    assert report.verdict == "different"
    assert report.first.hint == "b has a stop_gradient here"


def test_a_function_may_keep_square_weights_as_pytorch_has_them(rng):
    torch.manual_seed(0)
    params = {"0": {"weight": jnp.zeros((4, 4))}, "2": {"weight": jnp.zeros((4, 4))}}

    def kept(p, x):
        return jnp.tanh(x @ p["0"]["weight"].T) @ p["2"]["weight"].T

    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    report = assert_same(network, (kept, params), rng.standard_normal((5, 4)))
    assert "square weights are copied so that the outputs agree: 0/weight, 2/weight" in report.notes


def test_a_gradient_that_a_backward_does_not_return_is_a_difference(rng):
    params = {"w": rng.standard_normal((4, 3)), "b": np.zeros(3)}

    def forward(p, x):
        return x @ p["w"] + p["b"], x

    def backward(dy, x):
        dw = x.T @ dy  # the last value
        return {"w": dw}

    network = nn.Linear(4, 3)
    mapping = {"w": "weight", "b": "bias"}
    report = check(network, (forward, backward, params), rng.standard_normal((5, 4)), mapping=mapping)
    assert report.verdict == "different"
    assert report.first.b == line_of("the last value")
    assert report.first.note == "the backward of b returns no gradient of b"


# --- NaN and precision ------------------------------------------------------------------------------------------------


class RootOfZero(Network):
    def forward(self, x):
        h = self.hidden(x)
        h = h.tanh() + (0 * h).sqrt()  # infinite derivative
        return self.output(h)


def test_gradients_of_nan_are_never_the_same(x):
    report = check(RootOfZero(), RootOfZero(), x)
    assert report.verdict == "undecided"
    assert report.reason.startswith("the gradient of hidden.weight is NaN or infinite, first made in a at ")
    assert line_of("infinite derivative") in report.reason


@pytest.mark.parametrize("turned", [False, True])
def test_a_gradient_of_nan_on_one_side_is_a_difference(x, turned):
    a, b = (RootOfZero(), Network()) if turned else (Network(), RootOfZero())
    report = check(a, b, x)
    assert report.verdict == "different"
    assert line_of("infinite derivative") in report.reason
    assert line_of("infinite derivative") == (report.first.a if turned else report.first.b)


def test_what_a_module_makes_itself_has_the_precision_of_the_check(x):
    class Made(Network):
        def forward(self, x):
            h = torch.zeros(len(x), 8)
            h[:] = self.hidden(x)
            return self.output(h.tanh() @ torch.eye(8))

    assert_same(Network(), Made(), x)
    assert torch.get_default_dtype() == torch.float32


def test_float32_against_bfloat16(x):
    a, b = Network(), Network()
    b.load_state_dict(a.state_dict())
    given = {"precision": "as-is", "weights": "as-is"}
    assert check(a, b.bfloat16(), x, **given, tolerances=0.05).verdict == "same"
    assert check(a, b, x, **given).verdict == "different"


def test_rounding_to_bfloat16_inside_is_undecided(x):
    class Rounded(Network):
        def forward(self, x):
            h = self.hidden(x).bfloat16()  # rounds
            return self.output(h.double().tanh())

    report = check(Network(), Rounded(), x)
    assert report.verdict == "undecided"
    assert report.reason == f"{line_of('rounds')} computes in bfloat16, and the difference is of its rounding"


# --- refused ----------------------------------------------------------------------------------------------------------


def test_tensors_are_inputs(x):
    assert_same(Network(), Network(), torch.from_numpy(x).requires_grad_())


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (lambda: nn.LazyLinear(3), "lazy parameters without a shape: call it once"),
        (lambda: nn.Linear(4, 3, device="meta"), "parameters on the meta device, without values"),
        (lambda: (lambda p, x: jnp.tanh(x @ p["w"]), {"w": np.ones((4, 3))}), "for a JAX function pass its parameters"),
    ],
)
def test_a_model_without_values_or_of_another_kind_is_refused(x, a, message):
    with pytest.raises(PortError, match=message):
        check(a(), nn.Linear(4, 3), x)


def test_a_cast_in_a_module_is_refused_with_its_line_and_the_remedy(x):
    class Single(Network):
        def forward(self, x):
            return self.output(self.hidden(x.float()))  # cast

    with pytest.raises(PortError, match=rf"b \(PyTorch\) .*{line_of('cast')}: .*precision='float32'"):
        check(Network(), Single(), x)


def test_layers_without_a_line_of_the_users_are_named_by_their_module(x):
    a = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    report = check(a, nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), x)
    assert (report.first.a, report.first.path_a) == ("relu", "1")
    assert (report.first.b, report.first.path_b) == ("tanh", "1")
    assert report.first.hint == "a computes ReLU, b tanh"
    assert not re.search(r"test_\w+\.py", str(report))

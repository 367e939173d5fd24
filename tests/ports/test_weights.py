"""Which leaf of one model is which of the other: gates, biases, layouts, sums and parts, without running a model."""

from __future__ import annotations

import numpy as np
import pytest

from compare.ports.side import Leaf, PortError
from compare.ports.weights import link, moved, uncovered

FEATURES, H = 3, 2  # H: hidden


def leaves(shapes: dict[str, tuple[tuple[int, ...], str]], rng=None) -> dict[str, Leaf]:
    """Leaves of these shapes and axes, in the order of use; random with ``rng``."""
    made = {}
    for order, (name, (shape, axes)) in enumerate(shapes.items()):
        made[name] = Leaf(np.zeros(shape) if rng is None else rng.standard_normal(shape), axes, order)
    return made


def torch_rnn(gates: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """The leaves of a recurrent layer of PyTorch."""
    return {
        "rnn.weight_ih_l0": ((gates * H, FEATURES), "oi"),
        "rnn.weight_hh_l0": ((gates * H, H), "oi"),
        "rnn.bias_ih_l0": ((gates * H,), "c"),
        "rnn.bias_hh_l0": ((gates * H,), "c"),
    }


def flax_cell(gates: str, biases: tuple[str, ...], suffix: str = "") -> dict[str, tuple[tuple[int, ...], str]]:
    """The leaves of a cell of Flax with a kernel for each gate."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for of, size in (("i", FEATURES), ("h", H)):
        for gate in gates:
            name = f"rnn/cell/{of}{gate}{suffix if of + gate == 'if' else ''}"
            found[f"{name}/kernel"] = ((size, H), "io")
            if of + gate in biases:
                found[f"{name}/bias"] = ((H,), "c")
    return found


def copied(a: dict[str, Leaf], b: dict[str, Leaf], **more) -> dict[str, np.ndarray]:
    return moved(a, b, link(a, b, **more))


@pytest.mark.parametrize("suffix", ["", "_"])  # "if" is a word of Python: NNX says "if_", Linen "if"
def test_the_gates_of_an_lstm_go_to_the_cells_of_flax_and_back(rng, suffix):
    a = leaves(torch_rnn(4), rng)
    b = leaves(flax_cell("ifgo", ("hi", "hf", "hg", "ho"), suffix))
    there = copied(a, b)
    both = a["rnn.bias_ih_l0"].array + a["rnn.bias_hh_l0"].array
    for place, gate in enumerate("ifgo"):
        rows = slice(place * H, (place + 1) * H)
        name = f"rnn/cell/i{gate}{suffix if gate == 'f' else ''}/kernel"
        assert np.array_equal(there[name], a["rnn.weight_ih_l0"].array[rows].T)
        assert np.array_equal(there[f"rnn/cell/h{gate}/kernel"], a["rnn.weight_hh_l0"].array[rows].T)
        assert np.array_equal(there[f"rnn/cell/h{gate}/bias"], both[rows])
    flax = {name: Leaf(array, b[name].axes, b[name].order) for name, array in there.items()}
    back = copied(flax, leaves(torch_rnn(4)))
    assert np.array_equal(back["rnn.weight_ih_l0"], a["rnn.weight_ih_l0"].array)
    assert np.array_equal(back["rnn.weight_hh_l0"], a["rnn.weight_hh_l0"].array)
    assert np.array_equal(back["rnn.bias_ih_l0"] + back["rnn.bias_hh_l0"], both)


def test_the_candidate_of_a_gru_keeps_its_two_biases(rng):
    a, b = leaves(torch_rnn(3), rng), leaves(flax_cell("rzn", ("ir", "iz", "in", "hn")))
    there = copied(a, b)
    first, second = a["rnn.bias_ih_l0"].array, a["rnn.bias_hh_l0"].array
    assert np.array_equal(there["rnn/cell/ir/bias"], first[:H] + second[:H])
    assert np.array_equal(there["rnn/cell/in/bias"], first[2 * H :])
    assert np.array_equal(there["rnn/cell/hn/bias"], second[2 * H :])


def test_two_biases_go_to_two_linear_layers(rng):
    a = leaves(torch_rnn(4), rng)
    b = leaves({
        "wx/kernel": ((FEATURES, 4 * H), "io"), "wh/kernel": ((H, 4 * H), "io"),
        "wx/bias": ((4 * H,), "c"), "wh/bias": ((4 * H,), "c"),
    })  # fmt: skip
    there = copied(a, b)
    assert np.array_equal(there["wx/bias"], a["rnn.bias_ih_l0"].array)
    assert np.array_equal(there["wh/bias"], a["rnn.bias_hh_l0"].array)


def test_a_mapping_takes_sums_and_parts_of_both_sides(rng):
    a = leaves({"p": ((4,), "c"), "q": ((4,), "c"), "w": ((4, 4), "oi"), "v": ((2, 4), "oi"), "u": ((2, 4), "oi")}, rng)
    b = leaves({"s": ((4,), "c"), "x": ((4, 4), "io"), "uv": ((4, 4), "oi")})
    there = copied(a, b, mapping={"s": "p + q", "x": "w.T", "uv[0:2]": "u", "uv[2:4]": "v"})
    assert np.array_equal(there["s"], a["p"].array + a["q"].array)
    assert np.array_equal(there["x"], a["w"].array.T)
    assert np.array_equal(there["uv"], np.concatenate([a["u"].array, a["v"].array]))
    with pytest.raises(PortError, match="'y' is not a leaf of b"):
        link(a, b, mapping={"y[0:2]": "u"})


@pytest.mark.parametrize("kept", [True, False])
def test_the_other_leaves_tell_whether_a_function_keeps_the_layout_of_pytorch(rng, kept):
    a = leaves({"0.weight": ((3, 3), "oi"), "1.weight": ((5, 3), "oi")}, rng)
    b = leaves({"0/weight": ((3, 3), "io"), "1/weight": ((5, 3) if kept else (3, 5), "io")})
    square = copied(a, b)["0/weight"]
    assert np.array_equal(square, a["0.weight"].array if kept else a["0.weight"].array.T)


@pytest.mark.parametrize("mirrors", [True, False])
def test_kernels_of_transposed_convolutions_are_mirrored_if_only_one_side_does_it_itself(rng, mirrors):
    a = {"up.weight": Leaf(rng.standard_normal((3, 4, 2, 2)), "iohw", mirrored=True)}
    b = {"up/kernel": Leaf(np.zeros((2, 2, 4, 3) if mirrors else (2, 2, 3, 4)), "hwoi" if mirrors else "hwio")}
    b["up/kernel"].mirrored = mirrors
    there = copied(a, b)["up/kernel"]
    whole = a["up.weight"].array
    assert np.array_equal(there, whole.transpose(2, 3, 1, 0) if mirrors else whole.transpose(2, 3, 0, 1)[::-1, ::-1])


def test_what_only_b_has_is_known(rng):
    a, b = leaves({"w": ((3,), "c")}, rng), leaves({"w": ((3,), "c"), "extra": ((2,), "c")})
    links = link(a, b, {"extra": None})
    assert list(uncovered(b, links, "b")) == ["extra"]
    assert not uncovered(a, links)

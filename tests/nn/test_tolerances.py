"""The parity check's tolerances bite: in every quantity and precision a difference of three tolerances fails."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from compare import networks, tracks
from compare.config import Config
from compare.parity import check
from numpy_nn import train
from numpy_nn.models import MODELS
from numpy_nn.tree import from_leaves, leaves, tree_map

ARGS = {"input_shape": (4, 3, 1), "classes": 3, "hidden": (5,)}
CONFIG = Config("small", "mlp", "random images", model_args=ARGS, optimizer="adam", lr=0.001)
CASES = [(precision, what) for precision, tolerances in check.TOLERANCES.items() for what in tolerances]
COMPUTE = check.compute  # tests replace it
LARGEST = {  # what the tolerances may be at most: a tolerance a hundred times as wide is noticed
    "float64": {"logits": 1e-10, "gradients": 1e-10, "losses": 1e-9, "parameters": 1e-9, "optimizer": 1e-9},
    "float32": {"logits": 1e-5, "gradients": 1e-4, "losses": 1e-4, "parameters": 1e-3, "optimizer": 1e-3},
    "bfloat16": {"logits": 5e-2, "gradients": 5e-1, "losses": 2e-1},
}


@functools.cache
def quantities() -> check.Quantities:
    """What NumPy computes in float64."""
    return COMPUTE(dataclasses.replace(CONFIG, precision="float64"), "numpy", steps=2)


def off_by(what: str, relative: float) -> check.Quantities:
    """The same, but for the last leaf of one quantity: ‖a - b‖ = relative · ‖b‖."""
    tree = tree_map(np.copy, getattr(quantities(), what))
    *_, last = leaves(tree)
    rng = np.random.default_rng(0)

    def moved(path: str, leaf: np.ndarray) -> np.ndarray:
        noise = rng.normal(size=np.shape(leaf))
        return leaf + relative * np.linalg.norm(leaf) * noise / np.linalg.norm(noise) if path == last else leaf

    changed = from_leaves({path: moved(path, leaf) for path, leaf in leaves(tree).items()})
    return dataclasses.replace(quantities(), **{what: changed})


def passed(precision: str, what: str, relative: float, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the command's check lets two tracks pass that differ so far in one quantity."""
    names = tracks.supporting(precision, ["numpy", "jax", "torch"])

    def compute(config: Config, track: str, *, steps: int, attempt: int, perturbation: float = 0.0) -> check.Quantities:
        if config.precision != precision:  # for the sensitivity of the network
            return COMPUTE(config, track, steps=steps, attempt=attempt, perturbation=perturbation)
        return off_by(what, relative) if track == names[-1] else quantities()

    monkeypatch.setattr(check, "compute", compute)
    rows = [row for row, _ in check.check_parity(dataclasses.replace(CONFIG, precision=precision), names, steps=2)]
    failed = {(row["a"], row["b"], each["what"]) for row in rows for each in row["checks"] if not each["passed"]}
    assert failed == {(name, names[-1], what) for name in names[:-1] if not all(row["passed"] for row in rows)}
    return not failed


@pytest.mark.parametrize(("precision", "what"), CASES)
def test_a_difference_of_three_tolerances_fails(precision, what, monkeypatch):
    tolerance = check.TOLERANCES[precision][what]
    assert tolerance <= LARGEST[precision][what]
    assert passed(precision, what, 0.6 * tolerance, monkeypatch)
    assert not passed(precision, what, 3 * tolerance, monkeypatch)


def test_jax_computes_the_sensitivity_of_a_network_that_numpy_does_not_have(monkeypatch):
    by_numpy = check.sensitivity(CONFIG, steps=2, attempt=1)
    monkeypatch.setattr(networks, "available", lambda *_, **__: ["jax", "torch"])
    by_jax = check.sensitivity(CONFIG, steps=2, attempt=1)
    assert by_jax == pytest.approx(by_numpy, rel=1e-6)
    assert by_jax != by_numpy  # it was another track


def test_every_quantity_is_compared_in_float64():
    assert set(check.TOLERANCES["float64"]) == {field.name for field in dataclasses.fields(check.Quantities)}
    assert LARGEST.keys() == check.TOLERANCES.keys()
    for precision, largest in LARGEST.items():
        assert largest.keys() == check.TOLERANCES[precision].keys()


def test_the_quantities_are_what_they_are_called():
    """Logits before training, the gradient of the first batch; losses, averages and moments of three steps."""
    config = dataclasses.replace(CONFIG, precision="float64", ema=0.5)
    found = check.compute(config, "numpy", steps=3)
    rng = np.random.default_rng((config.seed, 1))
    snapshot = MODELS["mlp"](**ARGS).init(rng)
    x, y = check.random_batches(config, rng, steps=3)
    arguments = tracks.state_arguments(config, "numpy", steps=check.SCHEDULE_STEPS, threads=1)
    state = train.init_state(snapshot, **arguments, mean=(0.13,), std=(0.31,))
    np.testing.assert_array_equal(found.logits["logits"], train.logits(state, x[0]))
    *_, gradients = train.loss_and_grads(state, x[0], y[0])
    state, metrics = train.train_steps(state, x, y)
    final = train.to_snapshot(state)
    expected = {
        "gradients": gradients,
        "losses": {f"step {k}": loss for k, loss in enumerate(metrics["loss"])},
        "parameters": {"params": final["params"], "ema": final["ema"]},
        "optimizer": {"mu": final["opt"]["mu"], "nu": final["opt"]["nu"]},
    }
    for what, tree in expected.items():
        ours = leaves(getattr(found, what))
        assert ours.keys() == leaves(tree).keys()
        for path, leaf in leaves(tree).items():
            np.testing.assert_array_equal(ours[path], leaf, err_msg=f"{what} {path}")

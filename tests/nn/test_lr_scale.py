"""Learning rates of parts of a network, some of them zero: the same in all tracks, for every optimizer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compare import tracks
from compare.config import Config
from compare.parity import check
from numpy_nn.models import MODELS
from numpy_nn.optim import OPTIMIZERS
from numpy_nn.tree import frozen_norms, leaves, rate_factors, tree_map

CONFIG = Config(
    preset="small mlp",
    model="mlp",
    dataset="random images",
    model_args={"input_shape": (6, 5, 3), "classes": 7, "hidden": (9, 8)},
    optimizer_args={"weight_decay": 1e-2, "clip_norm": 0.5},
    lr_scale={"hidden": 0.3, "hidden/0": 0.0, "output/bias": 2.0},
    precision="float64",
)
WITH_NORMS = dataclasses.replace(
    CONFIG,
    model="vgg",
    model_args={"input_shape": (8, 8, 3), "classes": 7, "stages": (1, 1), "channels": (4, 4)},
    lr_scale={"": 0.0, "convs/1": 0.5, "norms/1": 0.5, "output": 1.0},
    optimizer="adamw",
    lr=0.01,
)


@pytest.fixture(params=tracks.TRACKS)
def track(request):
    """Each track in turn."""
    return request.param


def first(config: Config, *, moments: bool = False) -> dict:
    """A snapshot to start from, with or without moments that have seen something."""
    rng = np.random.default_rng(2)
    snapshot = MODELS[config.model](**config.model_args).init(rng)
    if moments:
        memory = OPTIMIZERS[config.optimizer][1]
        seen = {slot: tree_map(lambda p: rng.uniform(0.1, 1.0, p.shape), snapshot["params"]) for slot in memory}
        snapshot |= {"opt": {"count": np.int32(5), **seen}, "step": np.int32(5)}
    return snapshot


def trained(config: Config, track: str, snapshot: dict, **changes: object) -> dict:
    """Leaves of the snapshot after four steps on random images."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (4, 12, *config.model_args["input_shape"]), dtype=np.uint8)
    y = rng.integers(0, 7, (4, 12), dtype=np.int32)
    arguments = tracks.state_arguments(config, track, steps=100, threads=1) | changes
    module = tracks.load(track)
    with check.exact_jax(config.precision):
        state = module.init_state(snapshot, **arguments, mean=(0.13,) * 3, std=(0.31,) * 3)
        state, _ = module.train_steps(state, x, y)
        return leaves(module.to_snapshot(state))


def require_equal(config: Config) -> None:
    """Every leaf is the same in the three tracks, moments and running statistics included."""
    start = first(config, moments=True)
    expected, *others = (trained(config, track, start) for track in tracks.TRACKS)
    for other in others:
        assert other.keys() == expected.keys()
        for path, leaf in expected.items():  # observed: 3e-16
            assert check.distance(other[path], leaf)[1] < 1e-12, path


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tracks_agree_under_lr_scale(optimizer):
    lr = 0.05 if optimizer in ("sgd", "momentum", "nesterov") else 0.001
    require_equal(dataclasses.replace(CONFIG, optimizer=optimizer, lr=lr))


def test_tracks_agree_on_frozen_norms():
    require_equal(dataclasses.replace(WITH_NORMS, ema=0.9))


@pytest.mark.parametrize(("config", "optimizer"), [(CONFIG, "lion"), (WITH_NORMS, "nesterov"), (WITH_NORMS, "adamw")])
def test_frozen_parameters_do_not_change_by_one_bit(track, optimizer, config):
    config = dataclasses.replace(config, optimizer=optimizer, lr=0.01)
    before = first(config, moments=True)
    factors = rate_factors(before["params"], config.lr_scale)
    after = trained(config, track, before)
    for path, old in leaves(before).items():
        part, _, leaf = path.partition("/")
        if part == "opt":
            leaf = leaf.partition("/")[2]
        moved = not leaf.startswith("norms/0") if part == "stats" else factors.get(leaf, 1) > 0
        assert np.array_equal(old, after[path]) != moved, path


def test_half_the_learning_rate_halves_the_step(track):
    config = dataclasses.replace(CONFIG, optimizer="sgd", optimizer_args={}, schedule="constant")
    start = first(config)
    scaled = trained(config, track, start, lr_scale={"": 0.5})
    slower = trained(dataclasses.replace(config, lr=config.lr / 2), track, start, lr_scale=None)
    for path in scaled:
        np.testing.assert_allclose(scaled[path], slower[path], rtol=1e-12, atol=1e-14, err_msg=path)


def test_longest_matching_prefix_of_whole_names_wins():
    params = {"convs": {"1": {"kernel": 0}, "10": {"kernel": 0}}, "output": {"kernel": 0, "bias": 0}}
    assert rate_factors(params, {"": 0.0, "convs/1": 0.1, "output": 1.0, "output/bias": 2.0}) == {
        "convs/1/kernel": 0.1,
        "convs/10/kernel": 0.0,
        "output/kernel": 1.0,
        "output/bias": 2.0,
    }
    assert set(rate_factors(params, None).values()) == {1.0}


def test_norm_statistics_freeze_when_all_its_parameters_are_frozen():
    stats = {"norm": {"mean": 0, "var": 0}, "blocks": {"0": {"norm1": {"mean": 0, "var": 0}}}}
    factors = {"norm/scale": 0.0, "norm/bias": 1.0, "blocks/0/norm1/scale": 0.0, "blocks/0/norm1/bias": 0.0}
    assert frozen_norms(stats, factors) == {"blocks/0/norm1"}
    assert frozen_norms({}, factors) == set()


@pytest.mark.parametrize(
    ("lr_scale", "message"),
    [
        ({"conv": 0.0}, "'conv': no parameter has this prefix; known: hidden, output"),
        ({"hidden/2": 0.1}, "'hidden/2': no parameter"),
        ({"hidden": -1.0}, "'hidden': -1.0 is not a valid factor"),
        ({"hidden": float("nan")}, "'hidden': nan is not a valid factor"),
        ({"": 0.0}, "freezes every parameter"),
    ],
)
def test_invalid_lr_scale_is_refused(track, lr_scale, message):
    with pytest.raises(ValueError, match=message):
        trained(CONFIG, track, first(CONFIG), lr_scale=lr_scale)

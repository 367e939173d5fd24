"""What every track's train.py promises, whatever its framework."""

from __future__ import annotations

import copy
import logging
from typing import Any

import jax
import numpy as np
import pytest
from support.signatures import defaults, parameters

from compare import tracks
from compare.config import Config
from jax_nn import train as jax_train
from numpy_nn import train as numpy_train
from numpy_nn.models import MODELS
from numpy_nn.tree import leaves, tree_map
from torch_nn import train as torch_train

TRACKS = {"numpy": numpy_train, "jax": jax_train, "torch": torch_train}
CONTRACT = [name for name in vars(tracks.Track) if not name.startswith("_")]
ARGUMENTS: dict[str, Any] = {
    "model": "cnn",
    "model_args": {"input_shape": (12, 12, 1), "channels": (3, 4), "kernel": 3, "padding": 1, "hidden": 8},
    "optimizer": "adamw",
    "optimizer_args": {"weight_decay": 1e-2},
    "schedule": "cosine",
    "schedule_args": {"lr": 1e-2, "steps": 20},
    "mean": (0.13,),
    "std": (0.31,),
}


@pytest.fixture(params=TRACKS)
def track(request):
    """Each track in turn."""
    return TRACKS[request.param]


def fresh(**changes):
    """A snapshot of first parameters."""
    network = MODELS[ARGUMENTS["model"]](**ARGUMENTS["model_args"], **changes)
    return network.init(np.random.default_rng(3))


def images(rng, k, n=6):
    """k batches of n random images and labels."""
    x = rng.integers(0, 256, (k, n, 12, 12, 1), dtype=np.uint8)
    return x, rng.integers(0, 10, (k, n), dtype=np.int32)


def test_every_track_module_has_the_contract_functions():
    assert {name: tracks.load(name) for name in tracks.TRACKS} == TRACKS
    assert len(CONTRACT) == 8
    for module in TRACKS.values():
        for name in CONTRACT:
            assert callable(getattr(module, name))


BESIDE_THE_CONFIG = {"numpy": set(), "jax": {"parallel"}, "torch": {"compile"}}  # see test_shards and test_benchmark


@pytest.mark.parametrize("name", TRACKS)
def test_the_runner_gives_every_argument_of_a_state(name):
    """An argument that the runner forgets has its default whatever the Config says."""
    config = Config("small", "mlp", "made up")
    given = set(tracks.state_arguments(config, name, steps=1, threads=1)) | {"snapshot", "mean", "std"}
    assert parameters(TRACKS[name].init_state) == given | BESIDE_THE_CONFIG[name]
    known = defaults(TRACKS[name].init_state)
    assert {key: known[key] for key in defaults(numpy_train.init_state)} == defaults(numpy_train.init_state)
    for key in ("accumulate", "ema", "lr_scale", "loss", "seed", "device", "devices", "precision"):
        assert known.get(key, "cpu") == getattr(config, key), key


def test_float32_stays_float32(track, rng):
    state = track.init_state(fresh(), **ARGUMENTS)
    state, _ = track.train_steps(state, *images(rng, 2))
    for path, leaf in leaves(track.to_snapshot(state)).items():
        expected = np.int32 if path in ("step", "opt/count") else np.float32
        assert leaf.dtype == expected, path
    assert np.asarray(track.logits(state, images(rng, 1)[0][0])).dtype == np.float32


def test_a_chunk_equals_its_single_steps(track, rng):
    x, y = images(rng, 4)
    whole, metrics = track.train_steps(track.init_state(fresh(), **ARGUMENTS), x, y)
    state, losses = track.init_state(fresh(), **ARGUMENTS), []
    for k in range(4):
        state, one = track.train_steps(state, x[k : k + 1], y[k : k + 1])
        losses += np.asarray(one["loss"]).tolist()
    assert {name: np.shape(value) for name, value in metrics.items()} == {"loss": (4,), "correct": (4,), "lr": (4,)}
    assert losses == pytest.approx(np.asarray(metrics["loss"]).tolist(), rel=1e-6)
    for a, b in zip(leaves(track.to_snapshot(whole)).values(), leaves(track.to_snapshot(state)).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("continued_by", TRACKS)
def test_any_track_resumes_from_any_tracks_snapshot(track, continued_by, rng):
    x, y = images(rng, 8)
    uninterrupted, _ = track.train_steps(track.init_state(fresh(), **ARGUMENTS), x, y)
    half, _ = track.train_steps(track.init_state(fresh(), **ARGUMENTS), x[:4], y[:4])
    other = TRACKS[continued_by]
    resumed, _ = other.train_steps(other.init_state(track.to_snapshot(half), **ARGUMENTS), x[4:], y[4:])
    a, b = leaves(track.to_snapshot(uninterrupted)), leaves(other.to_snapshot(resumed))
    assert a.keys() == b.keys()
    for path in a:
        if other is track:
            np.testing.assert_array_equal(a[path], b[path], err_msg=path)
        else:  # observed: 2e-6 of the largest entry
            np.testing.assert_allclose(a[path], b[path], rtol=0, atol=2e-5 * np.abs(a[path]).max(), err_msg=path)


def test_snapshots_are_copies(track, rng):
    state = track.init_state(fresh(), **ARGUMENTS)
    before = track.to_snapshot(state)
    kept = {path: leaf.copy() for path, leaf in leaves(before).items()}
    track.train_steps(state, *images(rng, 2))
    for path, leaf in leaves(before).items():
        np.testing.assert_array_equal(leaf, kept[path], err_msg=path)


def aligned(array):
    """A copy at an address divisible by 64, which JAX shares with NumPy instead of copying it."""
    array = np.asarray(array)
    buffer = np.empty(array.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    moved = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    moved[...] = array
    return moved


def test_the_arrays_of_the_caller_are_neither_changed_nor_shared(track, rng):
    arguments = ARGUMENTS | {"ema": 0.9}
    trained, _ = track.train_steps(track.init_state(fresh(), **arguments), *images(rng, 2))
    given = {"snapshot": tree_map(aligned, track.to_snapshot(trained))}
    given |= dict(zip("xy", map(aligned, images(rng, 2)), strict=True))
    kept = copy.deepcopy(given)
    state, _ = track.train_steps(track.init_state(given["snapshot"], **arguments), given["x"], given["y"])
    track.eval_batch(state, given["x"][0], given["y"][0])
    track.logits(state, given["x"][0])
    track.place_dataset(state, given["x"][0], given["y"][0])
    after_two_steps = leaves(track.to_snapshot(state))
    track.synchronize(state)
    for path, leaf in leaves(given).items():
        np.testing.assert_array_equal(leaf, leaves(kept)[path], err_msg=path)

    state = track.init_state(given["snapshot"], **arguments)
    for leaf in leaves(given["snapshot"]).values():
        leaf[...] = 0
    for leaf in filter(np.ndim, leaves(track.to_snapshot(state)).values()):
        leaf[...] = 0
    state, _ = track.train_steps(state, given["x"], given["y"])
    for path, leaf in leaves(track.to_snapshot(state)).items():
        np.testing.assert_array_equal(leaf, after_two_steps[path], err_msg=path)


def test_evaluation_ignores_padding_only(track, rng):
    state = track.init_state(fresh(), **ARGUMENTS)
    x, y = images(rng, 1, n=7)
    whole = {name: float(value) for name, value in track.eval_batch(state, x[0], y[0]).items()}
    padded = np.concatenate([y[0], [-1, -1]]).astype(np.int32), np.concatenate([x[0], x[0, :2]])
    with_padding = {name: float(value) for name, value in track.eval_batch(state, padded[1], padded[0]).items()}
    assert whole["count"] == with_padding["count"] == 7
    assert whole["correct"] == with_padding["correct"]
    assert with_padding["loss_sum"] == pytest.approx(whole["loss_sum"], rel=1e-5)


def test_threads_do_not_change_the_result(rng):
    x, y = images(rng, 5, n=7)  # 7 images over 3 threads: shards of 3, 2 and 2
    one, three = (
        numpy_train.train_steps(numpy_train.init_state(fresh(), **ARGUMENTS, threads=n, precision="float64"), x, y)
        for n in (1, 3)
    )
    np.testing.assert_allclose(one[1]["loss"], three[1]["loss"], rtol=1e-12)
    for a, b in zip(leaves(one[0].params).values(), leaves(three[0].params).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_jax_compiles_once_per_program(rng, caplog):
    jax.clear_caches()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        state = jax_train.init_state(fresh(), **ARGUMENTS)
        caplog.clear()
        for _ in range(3):
            state, _ = jax_train.train_steps(state, *images(rng, 2))
            for _ in range(2):
                x, y = images(rng, 1)
                jax_train.eval_batch(state, x[0], y[0])
        compiled = [record.getMessage() for record in caplog.records if "XLA compilation" in record.getMessage()]
    assert len([text for text in compiled if "lambda" in text or "train" in text]) == 1, compiled
    assert len([text for text in compiled if "evaluate" in text]) == 1, compiled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "perceptron"}, "perceptron.*mlp, cnn"),
        ({"optimizer": "sdg", "optimizer_args": {}}, "sdg.*sgd, momentum"),
        ({"loss": "triplet"}, "triplet.*cross_entropy"),
        ({"schedule": "linear"}, "linear.*constant, step"),
        ({"precision": "float16"}, "float16"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(track, change, message):
    with pytest.raises(ValueError, match=message):
        track.init_state(fresh(), **ARGUMENTS | change)


def test_mismatched_snapshot_lists_every_difference(track):
    snapshot = fresh()
    del snapshot["params"]["hidden"]["bias"]
    snapshot["params"]["convs"]["0"]["kernel"] = np.zeros((5, 5, 1, 3))
    snapshot["params"]["extra"] = {"kernel": np.zeros(2)}
    named = r"(?s)missing hidden/bias \(8,\).*unexpected extra/kernel \(2,\).*misshapen convs/0/kernel"
    with pytest.raises(ValueError, match=named):
        track.init_state(snapshot, **ARGUMENTS)


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_schedule_starts_at_the_step_of_a_snapshot_without_optimizer_state(track, optimizer, rng):
    """Moments begin anew there, with a count of their own; the learning rate goes on, in what is reported and done."""
    x, y = images(rng, 4)
    arguments = ARGUMENTS | {"optimizer": optimizer, "precision": "float64"}
    with jax.enable_x64(True):
        first = fresh() | {"step": np.int32(12)}
        expected, _ = numpy_train.train_steps(numpy_train.init_state(first, **arguments), x, y)
        state, metrics = track.train_steps(track.init_state(first, **arguments), x[:2], y[:2])
        schedule = numpy_train.optim.SCHEDULES["cosine"]
        rates = [schedule(step, **ARGUMENTS["schedule_args"]) for step in (12, 13)]
        np.testing.assert_allclose(metrics["lr"], rates, rtol=1e-6)
        # and whoever goes on from there counts step and moments apart, too
        state, _ = track.train_steps(track.init_state(track.to_snapshot(state), **arguments), x[2:], y[2:])
        ours, numpys = leaves(track.to_snapshot(state)), leaves(numpy_train.to_snapshot(expected))
    assert ours.keys() == numpys.keys()
    assert (ours["step"], ours["opt/count"]) == (16, 4)
    for path in ours:  # observed: 1e-15 of the largest entry
        atol = 1e-12 * np.abs(numpys[path]).max()
        np.testing.assert_allclose(ours[path], numpys[path], rtol=0, atol=atol, err_msg=path)

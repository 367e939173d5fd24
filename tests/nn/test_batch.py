"""Arrays of one's own, to each track alone: the same number from all three, or the same refusal in words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from compare import tracks
from numpy_nn.models import MODELS

ARGS = {"input_shape": (4, 5, 1), "hidden": (6,), "classes": 3}
K, N = 2, 8


def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (K, N, 4, 5, 1), np.uint8), rng.integers(0, 3, (K, N)).astype(np.int32)


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


def state_of(track: str) -> Any:
    snapshot = MODELS["mlp"](**ARGS).init(np.random.default_rng(0))
    schedule = {"lr": 0.1, "steps": 4}
    return tracks.load(track).init_state(snapshot, model="mlp", model_args=ARGS, schedule_args=schedule)


@functools.cache
def unchanged(track: str) -> Any:
    """A state that only evaluates: JAX compiles once."""
    return state_of(track)


def outcomes(track: str, x: Any, y: Any, calls: Sequence[int] = (0, 1, 2)) -> list[Any]:
    """Loss of each step, sums over a batch, logits; or the words of a refusal in its place."""
    module, found = tracks.load(track), []
    every: list[Callable[[], Any]] = [
        lambda: np.asarray(module.train_steps(state_of(track), x, y)[1]["loss"]),
        lambda: np.asarray([float(module.eval_batch(unchanged(track), x[0], y[0])[name]) for name in SUMS]),
        lambda: np.asarray(module.logits(unchanged(track), x[0])),
    ]
    for call in calls:
        try:
            found.append(every[call]())
        except ValueError as error:
            found.append(str(error))
    return found


SUMS = ("loss_sum", "correct", "count")
X, Y = arrays()
ACCEPTED = {
    "int64": (X, Y.astype(np.int64)),
    "uint8": (X, Y.astype(np.uint8)),
    "big-endian": (X, Y.astype(">i8")),
    "read-only": (read_only(X), read_only(Y)),
    "every other image": (np.repeat(X, 2, axis=1)[:, ::2], np.repeat(Y, 2, axis=1)[:, ::2]),
    "in Fortran's order": (np.asfortranarray(X), np.asfortranarray(Y)),
    "backwards twice": (np.ascontiguousarray(X[:, :, ::-1])[:, :, ::-1], Y),
}
OTHER_NUMBERS = {
    "mirrored view": (X[:, :, :, ::-1], Y),
    "labels of -7 are padding": (X, np.where(np.arange(N) < 2, -7, Y)),
}
SHAPES, DTYPES = "images have shape", "images have dtype"
ALL, LABELLED = (0, 1, 2), (0, 1)  # calls
REFUSED = {
    "labels 1 to 3": (X, Y + 1, LABELLED, "labels must be 0 to 2, found 3"),
    "0 to 1": ((X / 255).astype(np.float32), Y, ALL, f"{DTYPES} float32: expected uint8, 0 to 255; (255 * x)"),
    "int64 images": (X.astype(np.int64), Y, ALL, f"{DTYPES} int64: expected uint8"),
    "no channel": (X[..., 0], Y, ALL, SHAPES),
    "channels first": (np.moveaxis(X, -1, 2), Y, ALL, SHAPES),
    "another size": (X[:, :, :3], Y, ALL, SHAPES),
    "no images": (X[:, :0], Y[:, :0], ALL, SHAPES),
    "one label less": (X, Y[:, 1:], LABELLED, "expected as many of both"),
    "labels as a column": (X, Y[..., None], LABELLED, "labels have shape"),
    "labels as floats": (X, Y.astype(np.float32), LABELLED, "labels have dtype float32 and shape"),
    "labels as booleans": (X, Y > 1, LABELLED, "labels have dtype bool"),
    "distributions over four": (X, np.eye(4, dtype=np.float32)[Y], LABELLED, "distributions"),
}


@pytest.mark.parametrize("track", tracks.TRACKS)
def test_arrays_of_any_layout_give_the_number_of_plain_ones(track: str) -> None:
    expected = outcomes(track, *arrays())
    for case, (x, y) in ACCEPTED.items():
        for found, wanted in zip(outcomes(track, x, y), expected, strict=True):
            np.testing.assert_array_equal(found, wanted, err_msg=case)


@pytest.mark.parametrize("case", OTHER_NUMBERS)
def test_tracks_agree_on_views_and_padding(case: str) -> None:
    found = {track: outcomes(track, *OTHER_NUMBERS[case]) for track in tracks.TRACKS}
    plain = outcomes("numpy", *arrays())
    assert not np.allclose(found["numpy"][1], plain[1])
    for track in tracks.TRACKS:
        for a, b in zip(found[track], found["numpy"], strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6, err_msg=track)


@pytest.mark.parametrize("case", REFUSED)
def test_tracks_refuse_the_same_arrays_in_the_same_words(case: str) -> None:
    x, y, calls, words = REFUSED[case]
    found = {track: outcomes(track, x, y, calls) for track in tracks.TRACKS}
    for said in zip(*found.values(), strict=True):
        assert isinstance(said[0], str)
        assert words in said[0]
        assert said[0] == said[1] == said[2]


def test_missing_channel_gets_the_line_that_adds_it() -> None:
    assert all("x[..., None]" in words for words in outcomes("numpy", X[..., 0], Y))


@pytest.mark.parametrize("track", tracks.TRACKS)
def test_arrays_of_the_caller_are_not_changed(track: str) -> None:
    x, y = arrays()
    outcomes(track, x, y)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)

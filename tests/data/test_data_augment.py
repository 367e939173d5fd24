"""Augmentation: what each does to the pixels, and that it is a pure function of (seed, step)."""

from __future__ import annotations

import time

import numpy as np
import pytest

from compare.data import Data
from compare.data import augment as augment_module
from compare.data.augment import KNOWN, affine, augment, crop, cutout, flip, parse
from compare.data.loaders import BatchIterator
from compare.data.stream import IndexSampler
from compare.errors import UserError

ALL = ("crop:2", "flip", "affine:15:1.5", "cutout:3", "mixup:0.4")


def toy(count: int = 64, h: int = 9, w: int = 7, c: int = 3) -> Data:
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (count, h, w, c), dtype=np.uint8)
    y = rng.integers(0, 5, count, dtype=np.int32)
    names = ("a", "b", "c", "d", "e")
    return Data(name="toy", train_x=x, train_y=y, test_x=x, test_y=y, classes=names, mean=(0.5,) * c, std=(0.2,) * c)


def chunk(
    data: Data, seed: int, step: int, k: int, *, batch_size: int, augment: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The batches of the steps step .. step + k - 1."""
    sampler = IndexSampler(
        seed=seed, batch_size=batch_size, train_size=len(data.train_x), k=k, first=step, stop=step + k
    )
    return next(BatchIterator(data, sampler, augment=augment))


def uniform(draws: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((draws, count))


@pytest.mark.parametrize("specs", [(), *((spec,) for spec in ALL), ALL])
def test_augmentation_does_not_depend_on_chunking(specs: tuple[str, ...]) -> None:
    data = toy()
    x, y = chunk(data, 3, 5, 6, batch_size=20, augment=specs)
    assert x.dtype == np.uint8
    assert x.shape == (6, 20, 9, 7, 3)
    assert x.flags.c_contiguous
    for start, k in [(0, 1), (1, 2), (3, 3)]:
        part_x, part_y = chunk(data, 3, 5 + start, k, batch_size=20, augment=specs)
        assert (part_x == x[start : start + k]).all()
        assert (part_y == y[start : start + k]).all()
    if specs:
        assert (chunk(data, 4, 5, 6, batch_size=20, augment=specs)[0] != x).any()


def test_augmentation_leaves_the_dataset_unchanged() -> None:
    data = toy()
    before = data.train_x.copy()
    chunk(data, 0, 0, 4, batch_size=32, augment=ALL)
    assert (data.train_x == before).all()


def test_appended_augmentation_does_not_change_earlier_ones() -> None:
    x = np.full((1, 1000, 8, 8, 1), 255, np.uint8)
    x[..., 0, :, :] = 7
    y = np.zeros((1, 1000), np.int32)
    cropped = augment(x.copy(), y, ("crop:2",), seed=0, step=0, classes=1)[0]
    both = augment(x.copy(), y, ("crop:2", "cutout:1"), seed=0, step=0, classes=1)[0]
    assert (both != cropped).sum() > 500  # some of the blackened pixels were black before
    assert ((both == cropped) | (both == 0)).all()


def test_crop_shows_every_window_equally_often() -> None:
    x = np.zeros((5000, 5, 6, 1), np.uint8)
    x[:, 2, 3] = 9
    out = crop(x, uniform(2, 5000), 2)
    where = np.argwhere(out[..., 0] == 9)
    assert len(where) == 5000  # a shift of up to 2 never loses the middle pixel
    counts = np.zeros((5, 6), int)
    np.add.at(counts, tuple(where[:, 1:].T), 1)
    assert (counts[:, 0] == 0).all()
    assert counts[:, 1:].min() > 140  # 200 expected in each of the 25 windows
    assert counts[:, 1:].max() < 260


def test_crop_shifts_and_pads_with_black() -> None:
    x = toy().train_x
    u = np.array([[0.0] * 32 + [0.999] * 32, [0.5] * 64])
    out = crop(x, u, 1)
    assert (out[:32, 1:] == x[:32, :-1]).all()
    assert (out[:32, 0] == 0).all()
    assert (out[32:, :-1] == x[32:, 1:]).all()
    assert (out[32:, -1] == 0).all()


def test_flip_mirrors_half_of_the_images() -> None:
    x = toy().train_x
    out = flip(x.copy(), np.array([[0.49] * 30 + [0.5] * 34]))
    assert (out[:30] == x[:30, :, ::-1]).all()
    assert (out[30:] == x[30:]).all()


def test_affine_without_motion_is_the_identity() -> None:
    x = toy().train_x
    assert (affine(x, uniform(3, 64), 0, 0) == x).all()


def test_affine_by_whole_pixels_is_a_shift() -> None:
    x = toy().train_x
    u = np.stack([np.full(64, 0.5), np.full(64, 1.0), np.full(64, 0.0)])  # 2 down, 2 left
    out = affine(x, u, 0, 2)
    assert (out[:, 2:, :-2] == x[:, :-2, 2:]).all()
    assert (out[:, :2] == 0).all()
    assert (out[:, :, -2:] == 0).all()


def test_affine_by_a_right_angle_is_a_rotation() -> None:
    x = toy(h=8, w=8).train_x
    out = affine(x, np.stack([np.full(64, 1.0), *np.full((2, 64), 0.5)]), 90, 0)
    assert (np.abs(out.astype(int) - np.rot90(x, 1, axes=(1, 2))) <= 1).all()  # float32 cosines


def test_affine_interpolates_like_the_formula_pixel_by_pixel() -> None:
    x = toy(count=6).train_x
    u = uniform(3, 6, seed=3)
    out = affine(x, u, 25, 1.5)
    _, h, w, c = x.shape
    for n in range(6):
        angle, down, right = (2 * u[:, n] - 1) * [np.radians(25), 1.5, 1.5]
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        centre = np.array([(h - 1) / 2, (w - 1) / 2])
        for p in np.ndindex(h, w):
            row, col = turn @ (np.array(p) - centre - [down, right]) + centre
            expected = np.zeros(c)
            for i in (int(np.floor(row)), int(np.floor(row)) + 1):
                for j in (int(np.floor(col)), int(np.floor(col)) + 1):
                    if 0 <= i < h and 0 <= j < w:
                        expected += (1 - abs(row - i)) * (1 - abs(col - j)) * x[n, i, j]
            assert np.abs(out[n][p] - expected).max() < 0.51


def test_cutout_blackens_one_square_cut_off_at_the_border() -> None:
    x = np.full((4000, 9, 7, 2), 200, np.uint8)
    out = cutout(x, uniform(2, 4000), 3)
    black = (out == 0).all(axis=3)
    assert ((out == 200) | (out == 0)).all()
    assert set(black.sum(axis=(1, 2))) == {4, 6, 9}  # corners, edges, inside
    assert (black.mean(axis=0) > 0.03).all()  # every pixel has its turn
    rows, cols = black.any(axis=2).sum(axis=1), black.any(axis=1).sum(axis=1)
    assert (rows * cols == black.sum(axis=(1, 2))).all()


@pytest.mark.parametrize(("side", "rows", "cols"), [(2, (3, 4), (1, 2)), (3, (3, 5), (1, 3)), (4, (2, 5), (0, 3))])
def test_cutout_blackens_this_square(side: int, rows: tuple[int, int], cols: tuple[int, int]) -> None:
    """Around row 4 of 9 and column 2 of 7; an even side begins one pixel earlier."""
    out = cutout(np.full((1, 9, 7, 1), 200, np.uint8), np.array([[4.5 / 9], [2.5 / 7]]), side)
    black = np.argwhere(out[0, :, :, 0] == 0)
    assert len(black) == side**2
    assert black.min(axis=0).tolist() == [rows[0], cols[0]]
    assert black.max(axis=0).tolist() == [rows[-1], cols[-1]]


def test_mixup_mixes_images_and_labels_alike() -> None:
    data = toy()
    x, y = chunk(data, 0, 0, 3, batch_size=64)
    mixed, soft = chunk(data, 0, 0, 3, batch_size=64, augment=("mixup:1",))
    assert soft.dtype == np.float32
    assert soft.shape == (3, 64, 5)
    assert (soft.sum(axis=2) == 1).all()
    for k in range(3):
        lam = soft[k][soft[k] > 0].min()  # one per batch, as in the paper
        lam = {float(lam), float(1 - lam)}
        for n in range(64):
            own = float(soft[k, n, y[k, n]])
            weights = lam if own == 1 else {own}
            pairs = [w * x[k, n] + (1 - w) * x[k] for w in weights]
            gap = min(np.abs(mixed[k, n] - pair).reshape(64, -1).max(axis=1).min() for pair in pairs)
            assert gap <= 0.5


def test_mixup_with_a_small_alpha_hardly_mixes() -> None:
    data = toy()
    soft = chunk(data, 0, 0, 200, batch_size=8, augment=("mixup:0.01",))[1]
    assert (soft.max(axis=2) > 0.99).mean() > 0.9


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("rotate:3", "unknown augmentation 'rotate:3'.*crop:PIXELS, flip, affine:DEGREES:PIXELS, cutout:PIXELS, mixup"),
        ("", "unknown augmentation ''"),
        ("crop", "write crop:PIXELS with whole numbers of at least 1"),
        ("crop:0", "write crop:PIXELS"),
        ("crop:1.5", "write crop:PIXELS"),
        ("crop:two", "write crop:PIXELS"),
        ("crop:nan", "write crop:PIXELS"),
        ("crop:inf", "write crop:PIXELS"),
        ("crop:1:2", "write crop:PIXELS"),
        ("flip:1", "write flip"),
        ("affine:10", "write affine:DEGREES:PIXELS with numbers of at least 0"),
        ("affine:-1:2", "write affine:DEGREES:PIXELS"),
        ("mixup:0", "write mixup:ALPHA with numbers of at least 0.01"),
    ],
)
def test_invalid_augmentation_is_named(spec: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parse([spec])


def test_augmentation_that_does_not_fit_is_named() -> None:
    for spec in ("crop:8", "cutout:100000"):
        with pytest.raises(UserError, match=rf"{spec} does not fit images of 7 pixels: choose 1 to 7"):
            chunk(toy(), 0, 0, 1, batch_size=4, augment=(spec,))
    with pytest.raises(UserError, match=r"'mixup:1' mixes two images.*put it last"):
        parse(["mixup:1", "flip"])


def test_the_documentation_lists_every_augmentation() -> None:
    assert all(known.form in (augment_module.__doc__ or "") for known in KNOWN.values())


@pytest.mark.perf
def test_crop_and_flip_are_faster_than_a_training_step() -> None:
    """50,000 images/s of 28x28 on one core is the promise; about 500,000 were measured on a quiet machine."""
    x = np.zeros((5000, 28, 28, 1), np.uint8)
    y = np.zeros(5000, np.int32)
    data = Data(name="zeros", train_x=x, train_y=y, test_x=x, test_y=y, classes=("0",), mean=(0.0,), std=(1.0,))
    seconds = []
    for step in range(5):
        start = time.process_time()
        chunk(data, 0, 50 * step, 50, batch_size=128, augment=("crop:2", "flip"))
        seconds.append(time.process_time() - start)
    assert 50 * 128 / min(seconds) > 50_000

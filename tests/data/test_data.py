"""MNIST, the IDX parser and the index stream."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from compare.data import Data, DataError, batch_indices, eval_batches, idx, load
from compare.errors import UserError


@pytest.fixture(scope="module")
def mnist() -> Data:
    return load("mnist", seed=3)


# --- MNIST -------------------------------------------------------------------------------------


def test_mnist_holds_every_image_once(mnist: Data) -> None:
    assert mnist.train_x.shape == (55_000, 28, 28, 1)
    assert mnist.val_x.shape == (5_000, 28, 28, 1)
    assert mnist.test_x.shape == (10_000, 28, 28, 1)
    for x, y in [(mnist.train_x, mnist.train_y), (mnist.val_x, mnist.val_y), (mnist.test_x, mnist.test_y)]:
        assert x.dtype == np.uint8
        assert y.dtype == np.int32
        assert x.flags.c_contiguous
        assert y.shape == (len(x),)
        assert set(np.unique(y)) == set(range(10))
    assert np.bincount(mnist.test_y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.classes == tuple("0123456789")


def test_mnist_mean_and_std_match_the_training_images() -> None:
    data = load("mnist", val_size=0)
    assert data.mean == pytest.approx([data.train_x.mean() / 255], abs=5e-5)
    assert data.std == pytest.approx([data.train_x.std() / 255], abs=5e-5)


def test_split_is_disjoint_complete_and_a_function_of_the_seed() -> None:
    x = np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1)
    y = np.arange(200, dtype=np.int32)
    whole = Data(name="toy", train_x=x, train_y=y, test_x=x[:3], test_y=y[:3], classes=("a",), mean=(0.0,), std=(1.0,))
    data = whole.split(50, seed=7)
    assert sorted([*data.train_y, *data.val_y]) == list(range(200))
    assert len(data.val_y) == 50
    assert (data.train_x.ravel() == data.train_y).all()
    assert (data.val_x.ravel() == data.val_y).all()
    assert (whole.split(50, seed=7).val_y == data.val_y).all()
    assert (whole.split(50, seed=8).val_y != data.val_y).any()
    empty = whole.split(0, seed=7)
    assert (empty.train_y == y).all()
    assert empty.val_x.shape == (0, 1, 1, 1)
    assert empty.val_y.shape == (0,)


@pytest.mark.parametrize("val_size", [-1, 60_000, 10**9])
def test_invalid_validation_size_names_both_numbers(val_size: int) -> None:
    with pytest.raises(UserError, match=rf"{val_size:,} images.*60,000.*from 0 to 59,999"):
        load("mnist", val_size=val_size)


def test_unknown_dataset_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'mnits'.*mnist"):
        load("mnits")


# --- the index stream --------------------------------------------------------------------------


def test_every_epoch_is_a_permutation_and_batches_straddle_epochs() -> None:
    stream = batch_indices(5, 0, 70, batch_size=3, train_size=10).ravel()
    assert stream.dtype == np.int64
    assert stream.shape == (210,)
    epochs = stream.reshape(21, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 21


def test_any_slicing_of_the_stream_yields_the_same_batches() -> None:
    size = {"batch_size": 7, "train_size": 23}
    whole = batch_indices(1, 0, 40, **size)
    rng = np.random.default_rng(0)
    for _ in range(200):
        step = int(rng.integers(0, 40))
        k = int(rng.integers(0, 41 - step))
        assert (batch_indices(1, step, k, **size) == whole[step : step + k]).all()
    assert batch_indices(1, 5, 0, **size).shape == (0, 7)


def test_index_stream_depends_on_the_seed_and_has_random_access() -> None:
    size = {"batch_size": 50, "train_size": 100}
    assert (batch_indices(0, 0, 2, **size) != batch_indices(1, 0, 2, **size)).any()
    assert batch_indices(0, 10**9, 1, **size).shape == (1, 50)


def test_index_stream_refuses_invalid_arguments() -> None:
    with pytest.raises(UserError, match=r"batch size 61 .* 60 images"):
        batch_indices(0, 0, 1, batch_size=61, train_size=60)
    with pytest.raises(UserError, match="batch size 0"):
        batch_indices(0, 0, 1, batch_size=0, train_size=60)
    with pytest.raises(UserError, match="step -1"):
        batch_indices(0, -1, 1, batch_size=1, train_size=60)
    with pytest.raises(UserError, match="seed -1"):
        batch_indices(-1, 0, 1, batch_size=1, train_size=60)


def test_a_chunk_holds_the_images_and_labels_of_its_indices(mnist: Data) -> None:
    index = batch_indices(0, 428, 5, batch_size=128, train_size=55_000)  # across the end of epoch 0
    x, y = mnist[index]
    assert x.shape == (5, 128, 28, 28, 1)
    assert y.shape == (5, 128)
    assert x.dtype == np.uint8
    assert y.dtype == np.int32
    assert x.flags.c_contiguous
    assert y.flags.c_contiguous
    assert (x == mnist.train_x[index]).all()
    assert (y == mnist.train_y[index]).all()
    assert x.flags.writeable
    assert not np.shares_memory(x, mnist.train_x)


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 4), (0, 4), (1, 1)])
def test_evaluation_counts_every_image_once_in_one_shape(count: int, batch_size: int) -> None:
    x = np.arange(1, count + 1, dtype=np.uint8).reshape(count, 1, 1, 1)
    y = np.arange(count, dtype=np.int32)
    batches = list(eval_batches(x, y, batch_size))
    assert len(batches) == -(-count // batch_size)
    assert all(
        bx.shape == (batch_size, 1, 1, 1)
        and by.shape == (batch_size,)
        and bx.dtype == np.uint8
        and by.dtype == np.int32
        for bx, by in batches
    )
    labels = np.concatenate([by for _, by in batches] or [y])
    images = np.concatenate([bx for bx, _ in batches] or [x]).ravel()
    assert (labels[labels >= 0] == y).all()
    assert (images[labels >= 0] == x.ravel()).all()
    assert (labels[count:] == -1).all()
    assert (images[count:] == 0).all()


def test_evaluation_refuses_an_empty_batch() -> None:
    with pytest.raises(UserError, match="batch size 0"):
        next(eval_batches(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32), 0))


# --- damaged files -----------------------------------------------------------------------------

LABELS = "t10k-labels-idx1-ubyte"


def mnist_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> Path:
    """A copy of the MNIST folder whose file of test labels holds `content`; returns that file."""
    for source in idx.MNIST_DIR.glob("*.gz"):
        (tmp_path / source.name).symlink_to(source)
    bad = tmp_path / f"{LABELS}.gz"
    bad.unlink()
    bad.write_bytes(content)
    monkeypatch.setattr(idx, "MNIST_DIR", tmp_path)
    monkeypatch.setattr(idx, "MNIST_MD5", {LABELS: idx.MNIST_MD5[LABELS]})
    return bad


def true_labels() -> bytes:
    return gzip.decompress((idx.MNIST_DIR / f"{LABELS}.gz").read_bytes())


def raw_cases() -> dict[str, tuple[bytes, str]]:
    good = true_labels()
    return {
        "truncated": (good[:-1], "9,999 bytes after its header, which promises 10,000"),
        "only a header": (good[:8], "0 bytes after its header"),
        "inside the header": (good[:5], "ends inside its header"),
        "altered": (good[:-1] + bytes([good[-1] ^ 1]), "was altered"),
        "over-long": (good + bytes(9), "longer than the 10,016 raw bytes"),
        "wrong magic": (b"\0\0\x09\1" + good[4:], "magic number 0x00000901"),
        "images for labels": (struct.pack(">4I", 0x803, 1, 28, 28) + bytes(784), "magic number 0x00000803"),
        "header claims more": (good[:4] + b"\xff\xff\xff\xff" + good[8:], "promises 4,294,967,295"),
        "none": (good[:4] + bytes(4), r"shape \(0,\)"),
        "label out of range": (good[:8] + b"\x0a" + good[9:], "label 10; labels run from 0 to 9"),
        "empty": (b"", "is empty"),
    }


@pytest.mark.parametrize("case", raw_cases())
def test_damaged_raw_bytes_are_named(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, problem = raw_cases()[case]
    bad = mnist_with(tmp_path, monkeypatch, gzip.compress(content))
    with pytest.raises(DataError, match=problem) as caught:
        load("mnist")
    message = str(caught.value)
    assert str(bad) in message
    assert idx.MNIST_MD5[LABELS] in message
    assert "git checkout" in message
    assert hashlib.md5(content).hexdigest() in message


def test_damaged_gzip_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (idx.MNIST_DIR / f"{LABELS}.gz").read_bytes()
    cases = {
        "zero bytes": b"",
        "cut": good[:-100],
        "no gzip": true_labels(),
        "torn": good[:500] + b"\0" * 9 + good[509:],
    }
    bad = mnist_with(tmp_path, monkeypatch, b"")
    for content in cases.values():
        bad.write_bytes(content)
        with pytest.raises(DataError, match="md5 of its raw bytes") as caught:
            load("mnist")
        assert str(bad) in str(caught.value)
        assert idx.MNIST_MD5[LABELS] in str(caught.value)
    bad.unlink()
    with pytest.raises(DataError, match="not found"):
        load("mnist")
    bad.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        load("mnist")


def test_gzip_bomb_is_refused_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnist_with(tmp_path, monkeypatch, gzip.compress(bytes(1 << 28), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(DataError, match="longer than the"):
        load("mnist")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20

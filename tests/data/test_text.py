"""Shakespeare's plays as windows of characters, and text cut into windows."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from compare.data import Data, DataError, load, text
from compare.data.stream import IndexSampler, eval_batches


@pytest.fixture(scope="module")
def shakespeare() -> Data:
    return load("shakespeare", seed=3)


def read(part: str) -> bytes:
    return gzip.decompress((text.FOLDER / f"{part}.txt.gz").read_bytes())


def test_the_text_that_ships_is_small_and_its_source_and_licence_are_stated() -> None:
    assert sum(path.stat().st_size for path in text.FOLDER.glob("*.gz")) <= 500_000
    about = (text.FOLDER / "README.md").read_text(encoding="utf-8")
    assert "**Source.**" in about
    assert "public domain" in about
    assert all(f"{len(read(part)):,} characters" in about for part in ("train", "test"))


def test_each_label_is_the_character_that_follows(shakespeare: Data) -> None:
    tokens = np.frombuffer(read("test"), np.uint8)
    count = shakespeare.test_y.size
    assert shakespeare.test_x.shape == shakespeare.test_y.shape == (768, 128)
    assert (shakespeare.test_x.dtype, shakespeare.test_y.dtype) == (np.uint8, np.int32)
    assert np.array_equal(shakespeare.test_x.ravel(), tokens[:count])
    assert np.array_equal(shakespeare.test_y.ravel(), tokens[1 : count + 1])
    assert len(tokens) - 1 - count < 128
    assert bytes(shakespeare.test_x[0]).startswith(b"THE TEMPEST\n")


def test_no_label_is_in_two_windows(shakespeare: Data) -> None:
    assert (len(shakespeare.train_x), len(shakespeare.val_x)) == (8275, 919)
    assert shakespeare.train_y.size + shakespeare.val_y.size == (len(read("train")) - 1) // 128 * 128
    windows = {bytes(x) for x in np.concatenate([shakespeare.train_x, shakespeare.val_x])}
    assert len(windows) == 9194


def test_windows_are_a_pure_function_of_seed_and_step(shakespeare: Data) -> None:
    def sampler(first: int) -> IndexSampler:
        return IndexSampler(seed=1, batch_size=32, train_size=8275, k=2, first=first, stop=600)

    x, y = shakespeare[sampler(400)[0]]
    again, labels = shakespeare[sampler(0)[200]]
    assert x.shape == y.shape == (2, 32, 128)
    assert np.array_equal(x, again)
    assert np.array_equal(y, labels)
    assert np.array_equal(x[..., 1:], y[..., :-1])


def test_padding_of_the_last_batch_does_not_count(shakespeare: Data) -> None:
    batches = list(eval_batches(shakespeare.test_x, shakespeare.test_y, 500))
    assert [x.shape for x, _ in batches] == [y.shape for _, y in batches] == [(500, 128)] * 2
    assert sum(int((y >= 0).sum()) for _, y in batches) == shakespeare.test_y.size


def test_descriptions_speak_of_characters(shakespeare: Data) -> None:
    assert shakespeare.describe() == (
        "shakespeare: 8,275 training, 919 validation and 768 test sequences of 128 tokens, of 128 different ones"
    )
    assert shakespeare.labels_per_example == 128
    assert not shakespeare.preparation.known


def test_what_is_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="has 4 characters; a window of 4 and the character after it need 5"):
        text.windows(text.encode(b"abcd"), 4)
    with pytest.raises(DataError, match="holds the byte 195; only ASCII"):
        text.encode("é".encode())
    monkeypatch.setattr(text, "FOLDER", tmp_path)
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(b"altered"))
    with pytest.raises(DataError, match=r"train\.txt\.gz: was altered.*git checkout -- compare/data/shakespeare"):
        load("shakespeare")

"""CIFAR-10 in every layout, every damage, and the pickles that are read and not run."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pickle
import re
import struct
import time
import tracemalloc
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from support.cifar_files import binary_file, pixels_and_labels, python_file, write_archive, write_batches

from compare.data import DataError, cifar, fetch, load
from compare.data.pickles import Call, read_pickle


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["binary", "python", "official"])
@pytest.mark.parametrize("place", [".", "cifar10", "CIFAR-10"])
def test_cifar10_loads_from_every_layout(layout: str, packed: bool, place: str, tmp_path: Path) -> None:
    target = tmp_path / place
    target.mkdir(exist_ok=True)
    source = write_batches(tmp_path / "elsewhere" if packed else target, layout)
    if packed:
        write_archive(target / "cifar-10-mine.tar.gz", source)
    data = load("cifar10", data_dir=tmp_path, val_size=0)
    assert data.train_x.shape == (15, 32, 32, 3)
    assert data.note == "a subset of CIFAR-10: 15 of 50,000 training and 3 of 10,000 test images"
    for seed, name in enumerate(cifar.BATCHES):
        pixels, labels = pixels_and_labels(seed)
        x, y = (
            (data.test_x, data.test_y) if name == "test_batch" else (data.train_x[3 * seed :], data.train_y[3 * seed :])
        )
        assert (y[:3] == labels).all()
        assert (x[:3] == pixels.reshape(3, 3, 32, 32).transpose(0, 2, 3, 1)).all()
    assert data.train_x.flags.c_contiguous
    assert data.train_y.dtype == np.int32


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", range(5))
def test_pickled_batches_of_every_protocol(protocol: int, order: str) -> None:
    x, y = cifar.parse_python(python_file(1, protocol, order))
    expected_x, expected_y = cifar.parse_binary(binary_file(1))
    assert (x == expected_x).all()
    assert (y == expected_y).all()


def test_archive_with_an_official_name_needs_the_official_md5(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "cifar-10-python.tar.gz", write_batches(tmp_path / "elsewhere", "official"))
    with pytest.raises(DataError, match=r"cut short or altered.*expected c58f30108f718f92721af3b95e74349a") as caught:
        load("cifar10", data_dir=tmp_path)
    assert hashlib.md5(archive.read_bytes()).hexdigest() in str(caught.value)


def test_file_of_the_official_size_needs_the_official_md5() -> None:
    pixels, labels = pixels_and_labels(0, count=10_000)
    raw = pickle.dumps({"data": pixels, "labels": labels.tolist()}, protocol=2)
    assert len(cifar.parse_python(raw)[1]) == 10_000
    with pytest.raises(DataError, match=r"was altered.*c99cafc152244af753f735de768cd75f"):
        cifar.parse_python(raw, md5=cifar.PYTHON_MD5["data_batch_1"])


@pytest.mark.parametrize("name", ["cifar-10-python (1).tar.gz", "cifar10.tgz"])
def test_archive_is_found_under_other_names(name: str, tmp_path: Path) -> None:
    write_archive(tmp_path / name, write_batches(tmp_path / "elsewhere", "official"))
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"a broken download")
    assert len(load("cifar10", data_dir=tmp_path).test_x) == 3


@pytest.mark.parametrize(
    ("labels", "protocol"),
    [([np.int64(3)] * 3, 4), (np.array([1, 2, 3]), 4), ([1, 2, 3], 5)],
    ids=["items", "array", "5"],
)
def test_own_pickle_that_cannot_be_read_gets_the_line_that_fixes_it(labels: object, protocol: int) -> None:
    pixels, _ = pixels_and_labels(0)
    with pytest.raises(DataError, match=r"write labels\.tolist\(\) .* protocol=4"):
        cifar.parse_python(pickle.dumps({"data": pixels, "labels": labels}, protocol))


BAD_BINARY = {
    "truncated": (binary_file(4)[:-1], "no multiple of the 3,073"),
    "over-long": (binary_file(4) + b"\0", "no multiple of the 3,073"),
    "too many": (bytes(3073 * 12_000), "longer than the 31,778,576"),
    "empty": (b"", "is empty"),
    "label": (b"\x0a" + binary_file(4)[1:], "holds the label 10; labels run from 0 to 9"),
}


def _python(**changes: object) -> bytes:
    pixels, labels = pixels_and_labels(4)
    return pickle.dumps({"data": pixels, "labels": labels.tolist(), **changes}, protocol=4)


BAD_PYTHON = {
    "truncated": (python_file(4)[:-1], "not a readable pickle"),
    "empty": (b"", "is empty"),
    "no dict": (pickle.dumps([1, 2], protocol=4), "not a pickled dict"),
    "no labels": (pickle.dumps({"data": 1}, protocol=4), "not a pickled dict"),
    "label": (_python(labels=[0, 10, 1]), "holds the label 10"),
    "huge label": (_python(labels=[0, 10**30, 1]), "not a small number"),
    "negative label": (_python(labels=[0, -1, 1]), "not a small number"),
    "few labels": (_python(labels=[0, 1]), "no list of 3 labels"),
    "floats": (_python(data=np.zeros((3, 3072))), r"something else than an array uint8 \(n, 3072\)"),
    "narrow": (_python(data=np.zeros((3, 3071), np.uint8)), "something else than an array"),
    "none": (_python(data=np.zeros((0, 3072), np.uint8), labels=[]), "something else than an array"),
    "a class": (pickle.dumps(Path("x"), protocol=2), "not a pickled dict"),
}


CASES = [("binary", case) for case in BAD_BINARY] + [("python", case) for case in BAD_PYTHON]


@pytest.mark.parametrize(("layout", "case"), CASES)
def test_damaged_cifar10_file_is_named(layout: str, case: str, tmp_path: Path) -> None:
    content, problem = (BAD_BINARY if layout == "binary" else BAD_PYTHON)[case]
    bad = write_batches(tmp_path, layout) / ("data_batch_5" + ".bin" * (layout == "binary"))
    bad.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        load("cifar10", data_dir=tmp_path)
    assert str(bad) in str(caught.value)
    assert "elete" not in str(caught.value)
    if case != "too many":
        assert hashlib.md5(content).hexdigest() in str(caught.value)


@pytest.mark.parametrize(("layout", "case"), [case for case in CASES if case[1] not in ("empty", "too many")])
def test_damaged_file_in_an_archive_is_named(layout: str, case: str, tmp_path: Path) -> None:
    content, problem = (BAD_BINARY if layout == "binary" else BAD_PYTHON)[case]
    bad = write_batches(tmp_path / "elsewhere", layout) / ("data_batch_5" + ".bin" * (layout == "binary"))
    bad.write_bytes(content)
    archive = write_archive(tmp_path / "cifar-10.tar.gz", bad.parent)
    with pytest.raises(DataError, match=problem) as caught:
        load("cifar10", data_dir=tmp_path)
    assert f"{archive}, member {bad.name}" in str(caught.value)
    assert hashlib.md5(archive.read_bytes()).hexdigest() in str(caught.value)


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    folder = write_batches(tmp_path / "elsewhere", "binary")
    archive = write_archive(tmp_path / "cifar-10.tar.gz", folder)
    good = archive.read_bytes()
    cut = gzip.compress(gzip.decompress(good)[:2000])
    bomb = gzip.compress(gzip.decompress(good)[: 512 * 3] + bytes(1 << 28), compresslevel=1)
    for content in (b"", good[: len(good) // 2], b"PK\3\4" + good, good[:300] + bytes(20) + good[320:], cut, bomb):
        archive.write_bytes(content)
        tracemalloc.start()
        with pytest.raises(DataError, match=r"cifar-10\.tar\.gz"):
            load("cifar10", data_dir=tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()
    (folder / "data_batch_3.bin").unlink()
    write_archive(archive, folder)
    with pytest.raises(DataError, match=r"has no member data_batch_3\.bin"):
        load("cifar10", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"lacks data_batch_3\.bin: add what is missing"):
        load("cifar10", data_dir=tmp_path / "elsewhere")


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch EXECUTED",)


def test_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for protocol in range(5):
        call = read_pickle(pickle.dumps(_Bomb(), protocol=protocol))
        assert isinstance(call, Call)
        assert call.function.name == "system"
        assert call.arguments == ("touch EXECUTED",)
    assert not Path("EXECUTED").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",  # a string of a terabyte
        b"\x80\x04]r\xff\xff\xff\x7f.",  # the two-billionth entry of the memo
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b"abc.",  # a bytearray of 64 GB
        b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"abc.",  # a number of a billion bytes
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",  # a frame
    ],
)
def test_pickle_cannot_claim_large_memory(raw: bytes) -> None:
    tracemalloc.start()
    with contextlib.suppress(DataError):  # a large index of the memo is no error: here the memo is a dict
        read_pickle(raw)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "raw",
    [
        b"(" * 300_000 + b"t" * 300_000 + b".",  # marks, each closed by a tuple
        b"]" + b"(Na" * 300_000 + b".",  # marks that are never closed
        b")" + b"\x85" * 300_000 + b".",  # tuples within tuples
        b"]" + b"2\x86" * 300_000 + b".",  # which share their parts: 2**300_000 elements
        b"}(" + b"K\x01N" * 300_000 + b"u.",  # keys that are not strings
    ],
)
def test_time_is_linear_in_the_length_of_a_pickle(raw: bytes) -> None:
    """A quadratic reader needs minutes for the first; observed on a busy machine: 3.4 s at most."""
    start = time.process_time()
    with contextlib.suppress(DataError):
        read_pickle(raw)
    assert time.process_time() - start < 20


def test_pickle_values_round_trip() -> None:
    value = {
        "a": [1, -5, 2.5, None, True, False, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "b": {"c": 10**30, "d": "é"},
    }
    for protocol in range(5):
        assert read_pickle(pickle.dumps(value, protocol=protocol)) == value
        many = list(range(3000))
        assert read_pickle(pickle.dumps([many, many], protocol=protocol)) == [many, many]
    with pytest.raises(DataError, match="EMPTY_SET"):
        read_pickle(pickle.dumps({1, 2}, protocol=4))
    with pytest.raises(DataError, match="not a string"):
        read_pickle(pickle.dumps({1: 2}, protocol=4))


@pytest.mark.parametrize("layout", ["binary", "python"])
@pytest.mark.parametrize("missing", ["data_batch_3", "test_batch"])
def test_own_set_of_batches_names_what_it_lacks(layout: str, missing: str, tmp_path: Path) -> None:
    name = missing + ".bin" * (layout == "binary")
    place = write_batches(tmp_path, layout)
    (place / name).unlink()
    with pytest.raises(DataError, match=rf"lacks {re.escape(name)}: add what is missing"):
        load("cifar10", data_dir=tmp_path)


def test_published_batches_are_completed_by_a_download_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_batches(tmp_path, "python")
    (place / "data_batch_3").unlink()
    kept = (place / "data_batch_1").read_bytes()
    monkeypatch.setattr(cifar, "is_official", lambda place: True)
    asked = []

    def download(name: str, root: Path, missing: Collection[str] = ()) -> None:
        asked.append((name, root, list(missing)))
        write_archive(root / "cifar-10-python.tar.gz", write_batches(tmp_path / "published", "python"))

    monkeypatch.setattr(fetch, "download", download)
    monkeypatch.setattr(cifar, "ARCHIVE_MD5", {})
    assert len(load("cifar10", data_dir=tmp_path).test_x) == 3
    assert asked == [("cifar10", tmp_path, ["data_batch_3"])]
    assert (place / "data_batch_1").read_bytes() == kept


def test_published_batches_are_known_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_batches(tmp_path, "python")
    assert not cifar.is_official(place)
    digests = {name: hashlib.md5((place / name).read_bytes()).hexdigest() for name in cifar.BATCHES}
    monkeypatch.setattr(cifar, "PYTHON_MD5", digests)
    assert cifar.is_official(place)

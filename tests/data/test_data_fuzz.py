"""12,000 damaged files: nothing but DataError comes out of the parsers, and no header takes memory by lying."""

from __future__ import annotations

import gzip
import io
import resource
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.cifar_files import binary_file, official_file, python_file, write_batches

from compare.data import DataError, cifar, idx
from compare.data.files import read_file
from compare.data.folder import read_image

EXTREMES = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\xff" * 8,
    b"\0" * 8,
]


def mutate(good: bytes, rng: np.random.Generator) -> bytes:
    """`good` with one to four faults; half of them in the first 200 bytes, where headers are."""
    bad = bytearray(good)
    for _ in range(rng.integers(1, 5)):
        size = max(1, len(bad))
        at = int(rng.integers(0, min(size, 200) if rng.random() < 0.5 else size))
        length = int(rng.integers(1, 40))
        match rng.integers(0, 7):
            case 0:
                bad[at : at + 1] = bytes([rng.integers(0, 256)])
            case 1:
                extreme = EXTREMES[rng.integers(0, len(EXTREMES))]
                bad[at : at + len(extreme)] = extreme
            case 2:
                del bad[at : at + length]
            case 3:
                bad[at:at] = rng.bytes(length)
            case 4:
                bad[at:at] = bad[at : at + length]
            case 5:
                del bad[at:]
            case 6:
                bad += rng.bytes(length)
    return bytes(bad)


def idx_file(shape: tuple[int, ...]) -> bytes:
    header = np.array([0x0800 + len(shape), *shape], ">u4").tobytes()
    return header + np.random.default_rng(0).integers(0, 10, shape, dtype=np.uint8).tobytes()


def image_file(form: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def archive_file(tmp_path: Path, layout: str) -> bytes:
    """A tar, not yet compressed: to be mutated inside the compression as well as outside."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(write_batches(tmp_path, layout), arcname="é" * 120)  # a name that takes an extended header
    return file.getvalue()


Read = Callable[[Path], object]


def reader(parse: Callable[..., object], **options: object) -> Read:
    return lambda path: read_file(path, partial(parse, **options), limit=1 << 20, remedy="Mend it.")


def feed(read: Read, path: Path, good: bytes, count: int, *, pack: bool = False) -> int:
    """Read `count` mutations of `good`, then packed by gzip where `pack` says so; how many were refused."""
    rng = np.random.default_rng(len(good))
    refused = 0
    for _ in range(count):
        bad = mutate(good, rng)
        path.write_bytes(gzip.compress(bad, compresslevel=1) if pack else bad)
        message = ""
        try:
            read(path)
        except DataError as error:
            message = str(error)
        assert not message or path.name in message
        refused += bool(message)
    return refused


@pytest.fixture(autouse=True)
def _memory_follows_the_files() -> object:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 << 10  # KiB


@pytest.mark.parametrize("packed", ["plain", "inside gzip", "gzip itself"])
def test_damaged_idx_files(packed: str, tmp_path: Path) -> None:
    images, labels = idx_file((10, 28, 28)), idx_file((500,))
    path = tmp_path / ("file.gz" if "gzip" in packed else "file")
    if packed == "gzip itself":
        images, labels = gzip.compress(images, 1), gzip.compress(labels, 1)
    pack = packed == "inside gzip"
    assert feed(reader(idx.parse_images), path, images, 900, pack=pack) > 500
    assert feed(reader(idx.parse_labels, classes=10), path, labels, 900, pack=pack) > 500


@pytest.mark.parametrize("make", [binary_file, official_file, python_file])
def test_damaged_cifar10_files(make: Callable[[int], bytes], tmp_path: Path) -> None:
    parse: Callable[..., object] = cifar.parse_binary if make is binary_file else cifar.parse_python
    assert feed(reader(parse), tmp_path / "file", make(0), 900) > 400


def test_damaged_pickles_of_protocol_4_and_0(tmp_path: Path) -> None:
    for protocol in (0, 4):
        assert feed(reader(cifar.parse_python), tmp_path / "file", python_file(0, protocol), 400) > 150


@pytest.mark.parametrize("layout", ["binary", "official"])
@pytest.mark.parametrize("pack", [True, False], ids=["inside gzip", "gzip itself"])
def test_damaged_cifar10_archives(layout: str, pack: bool, tmp_path: Path) -> None:
    good = archive_file(tmp_path, layout)
    path = tmp_path / "file.tar.gz"
    assert feed(cifar.read_archive_batches, path, good if pack else gzip.compress(good, 1), 400, pack=pack) > 200


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM", "TIFF", "TGA"])
def test_damaged_images(form: str, tmp_path: Path) -> None:
    read = partial(read_image, image_size=8, channels=3)
    assert feed(read, tmp_path / f"file.{form}", image_file(form), 300) > 50


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes(raw: bytes) -> None:
    for parse in (idx.parse_images, partial(idx.parse_labels, classes=10), cifar.parse_binary, cifar.parse_python):
        with pytest.raises(DataError):
            parse(raw)

"""Small CIFAR-10 files in every layout."""

from __future__ import annotations

import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

from compare.data import cifar


def pixels_and_labels(seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, 10, count, dtype=np.uint8)


def binary_file(seed: int) -> bytes:
    pixels, labels = pixels_and_labels(seed)
    return np.concatenate([labels[:, None], pixels], axis=1).tobytes()


def python_file(seed: int, protocol: int = 2, order: str = "C") -> bytes:
    pixels, labels = pixels_and_labels(seed)
    array = np.asfortranarray(pixels) if order == "F" else pixels
    content = {b"batch_label": b"part", b"labels": labels.tolist(), b"data": array, b"filenames": [b"a.png"] * 3}
    return pickle.dumps(content, protocol=protocol)


def official_file(seed: int) -> bytes:
    """The opcodes of the published files, which Python 2's cPickle wrote."""
    pixels, labels = pixels_and_labels(seed)

    def text(content: bytes) -> bytes:
        return b"U" + bytes([len(content)]) + content

    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85" + text(b"b") + b"\x87Rq\x03"
    dtype = b"cnumpy\ndtype\nq\x04" + text(b"u1") + b"K\x00K\x01\x87Rq\x05(K\x03" + text(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K" + bytes([len(labels)]) + b"M\x00\x0c\x86" + dtype + b"\x89T"
    state += struct.pack("<i", pixels.size) + pixels.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}q\x00(" + text(b"data") + array + state + text(b"labels") + numbers + b"u."


def write_batches(folder: Path, layout: str) -> Path:
    """The six files in `folder`/cifar-10-batches-..., batch i with the images of seed i."""
    binary = layout == "binary"
    place = folder / ("cifar-10-batches-bin" if binary else "cifar-10-batches-py")
    place.mkdir(parents=True)
    make = {"binary": binary_file, "python": python_file, "official": official_file}[layout]
    for seed, name in enumerate(cifar.BATCHES):
        (place / (name + ".bin" * binary)).write_bytes(make(seed))
    return place


def write_archive(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(folder, arcname=folder.name)
    return path

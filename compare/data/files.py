"""Reading files that may be damaged: in bounded memory, checksummed, and with one kind of error."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from compare.errors import UserError

T = TypeVar("T")
BLOCK = 1 << 20  # bytes per read: memory grows with what is there, not with what a header claims


class DataError(UserError):
    """A dataset is missing, damaged or not what it should be; the message names the file and the remedy."""


DAMAGE = (DataError, EOFError, OSError, ValueError, zlib.error, tarfile.TarError)  # what reading a bad file may raise


def read_file(path: Path, parse: Callable[[bytearray], T], *, limit: int, md5: str | None = None, remedy: str) -> T:
    """`parse` of the decompressed bytes of `path`, a plain or gzip file of at most `limit` raw bytes.

    `md5` is that of the raw (decompressed) bytes: it survives a recompression of the file.
    Whatever goes wrong here or in `parse` leaves as a DataError that names the file, the
    md5 of the bytes that could be read, the expected md5 and the remedy.
    """
    raw = bytearray()
    try:
        for block in _blocks(path, limit):
            raw += block
        if not raw:
            raise DataError("is empty")
        parsed = parse(raw)
        if md5 is not None and md5_of(raw) != md5:
            raise DataError("was altered")
        return parsed
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found. {remedy}") from error
    except DAMAGE as error:
        wanted = f", expected {md5}" if md5 else ""
        raise DataError(f"{path}: {_problem(error)}. md5 of its raw bytes: {md5_of(raw)}{wanted}. {remedy}") from error


def read_archive(path: Path, wanted: Collection[str], *, limit: int, remedy: str) -> dict[str, bytes]:
    """The members of the tar.gz file `path` whose names, without folders, are in `wanted`; nothing touches the disk."""
    try:
        with tarfile.open(fileobj=_Stream(_blocks(path, limit)), mode="r|") as archive:  # type: ignore[call-overload]
            members = {}
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content and (name := Path(member.name).name) in wanted:
                    members[name] = content.read()
            return members
    except DAMAGE as error:
        raise DataError(f"{path}: {_problem(error)}. md5: {md5_of_file(path)}. {remedy}") from error


class _Stream:
    """A generator of blocks as the file that tarfile reads one after the other, never seeking."""

    def __init__(self, blocks: Iterator[bytes]):
        self.blocks = blocks

    def read(self, _size: int) -> bytes:
        return next(self.blocks, b"")


def _blocks(path: Path, limit: int) -> Iterator[bytes]:
    """The decompressed bytes of a plain or gzip file; DataError after more than `limit` of them."""
    total = 0
    with path.open("rb") as file:
        packed = path.suffix == ".gz" or file.peek(2)[:2] == b"\x1f\x8b"
        source = gzip.GzipFile(fileobj=file) if packed else file
        while block := source.read(BLOCK):
            yield block
            total += len(block)
            if total > limit:
                raise DataError(f"is longer than the {limit:,} raw bytes it should have at most")


def _problem(error: Exception) -> str:
    return str(error) if isinstance(error, DataError) else f"cannot be read ({error})"


def first_bytes(path: Path, count: int) -> bytes:
    """The first decompressed bytes of a plain or gzip file; fewer if it is shorter, none if it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            return (gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file).read(count)
    except (EOFError, OSError, zlib.error):
        return b""


def files_below(root: Path, *, depth: int = 3, limit: int = 10_000) -> Iterator[Path]:
    """The first ``limit`` files in ``root`` and its sub-folders down to ``depth``, by name; hidden ones aside."""
    for folder, folders, names in itertools.islice(os.walk(root, followlinks=True), limit):
        below = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if below < depth else []
        yield from (Path(folder, name) for name in sorted(names)[:limit] if not name.startswith("."))


def md5_of(raw: bytes | bytearray) -> str:
    """The md5 of bytes in memory."""
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def md5_of_file(path: Path) -> str:
    """The md5 of the file as it lies on the disk, if it can be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        return f"unknown ({error.strerror})"

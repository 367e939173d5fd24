"""Reading one file that may be damaged: in bounded memory, checksummed, with one kind of error."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from compare.errors import UserError

T = TypeVar("T")
BLOCK = 1 << 20  # bytes per read: memory grows with what is there, not with what a header claims


class DataError(UserError):
    """A dataset is missing, damaged or not what it should be; the message names the file and the remedy."""


def read_file(path: Path, parse: Callable[[bytearray], T], *, limit: int, md5: str | None = None, remedy: str) -> T:
    """`parse` of the decompressed bytes of `path`, a plain or gzip file of at most `limit` raw bytes.

    `md5` is that of the raw (decompressed) bytes: it survives a recompression of the file.
    Whatever goes wrong here or in `parse` leaves as a DataError that names the file, the
    md5 of the bytes that could be read, the expected md5 and the remedy.
    """
    raw = bytearray()
    try:
        for block in _blocks(path):
            raw += block
            if len(raw) > limit:
                raise DataError(f"is longer than the {limit:,} raw bytes it should have at most")
        if not raw:
            raise DataError("is empty")
        parsed = parse(raw)
        if md5 is not None and _md5(raw) != md5:
            raise DataError("was altered")
        return parsed
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found. {remedy}") from error
    except (DataError, EOFError, OSError, zlib.error) as error:
        problem = str(error) if isinstance(error, DataError) else f"cannot be read ({error})"
        wanted = f", expected {md5}" if md5 else ""
        raise DataError(f"{path}: {problem}. md5 of its raw bytes: {_md5(raw)}{wanted}. {remedy}") from error


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        packed = path.suffix == ".gz" or file.peek(2)[:2] == b"\x1f\x8b"
        source = gzip.GzipFile(fileobj=file) if packed else file
        while block := source.read(BLOCK):
            yield block


def _md5(raw: bytes | bytearray) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()

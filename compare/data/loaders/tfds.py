"""TFDS: a data source, records of a file that are read and decoded in any order."""

from __future__ import annotations

from collections.abc import Generator

from compare.data.loaders import Chunk, Order, ahead
from compare.data.loaders.records import Records, prepared
from compare.data.stream import Data


def chunks(images: Data | Records, order: Order) -> Generator[Chunk]:
    """TFDS's data source; images in memory are written to a file first, once. A thread reads one chunk ahead."""
    records = images if isinstance(images, Records) else Records(prepared(images, "array_record"))
    return ahead(records.__getitem__, order)

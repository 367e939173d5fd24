"""TFDS: a data source, whose records are read from a file and decoded in any order."""

from __future__ import annotations

from collections.abc import Generator

from compare.data.loaders import Chunk, prefetch
from compare.data.loaders.records import Records, prepared
from compare.data.stream import Data, IndexSampler


def chunks(images: Data | Records, sampler: IndexSampler) -> Generator[Chunk]:
    """Yield the chunks of a data source, one prefetched; images in memory are first written to a file, once."""
    records = images if isinstance(images, Records) else Records(prepared(images, "array_record"))
    return prefetch(records.__getitem__, sampler)

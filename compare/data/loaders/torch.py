"""PyTorch: a map-style dataset and a DataLoader whose worker processes gather chunks ahead.

The index stream is the loader's `sampler`. A key of the dataset is an array of numbers and stands for a
whole chunk, so `batch_size` is None: nothing is left to collate. Tensors that go to a worker are moved to
shared memory on the way, so that all workers have the images only once.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from compare.data.loaders import WORKERS, Chunk, Order
from compare.data.loaders.records import Records
from compare.data.stream import Data
from compare.errors import UserError


def chunks(images: Data | Records, order: Order) -> Generator[Chunk]:
    """Workers are spawned: a fork would copy locks that JAX's threads hold, a fork server outlive a killed parent."""
    dataset: Any = images
    if isinstance(images, Data):
        dataset = TensorDataset(torch.from_numpy(images.train_x), torch.from_numpy(images.train_y))
    loader = DataLoader(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=WORKERS,
        prefetch_factor=1,
        multiprocessing_context="spawn",
    )
    try:
        for x, y in loader:
            yield x.numpy(), y.numpy()
    except UserError as error:  # a worker's; its traceback is part of the message
        raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(f"{str(error).splitlines()[0]}: go on from the last checkpoint with --resume") from error

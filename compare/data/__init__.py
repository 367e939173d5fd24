"""The data room: checksummed datasets and the one index stream that every track trains on.

NumPy and the standard library only, so that importing it costs nothing; torchvision, TFDS
and Pillow are imported by the functions that need them.
"""

from __future__ import annotations

from compare.data.datasets import DATASETS, load
from compare.data.files import DataError
from compare.data.stream import Data, batch_indices, eval_batches

__all__ = ["DATASETS", "Data", "DataError", "batch_indices", "eval_batches", "load"]

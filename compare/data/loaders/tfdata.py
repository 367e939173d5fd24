"""tf.data: a graph that maps the index stream to images and prefetches them, in TensorFlow's own threads.

tf.data reads a file from its beginning to its end and cannot follow an index sampler. What fits into memory is
therefore loaded whole (`tfds.load`) and gathered in the graph. What does not is read from a data source by a Python
function (`tf.numpy_function`), which Python's lock keeps to one core.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from typing import Any

with contextlib.suppress(ImportError):  # Linux only
    import triton  # noqa: F401  imported after TensorFlow, it could not load its own LLVM for PyTorch
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

from compare.data.loaders import WORKERS, Chunk
from compare.data.loaders.records import NAME, Records, prepared, tfds
from compare.data.stream import Data, IndexSampler
from compare.errors import UserError

tf.config.set_visible_devices([], "GPU")  # it would take all of its memory, and leave none for the track


def chunks(images: Data | Records, sampler: IndexSampler) -> Generator[Chunk]:
    """Yield the chunks of the sampler: mapped in parallel, kept in order, one prefetched, copied by `numpy`."""
    gather = gather_from_file(images) if isinstance(images, Records) else gather_from_memory(images)
    indices = tf.TensorSpec((sampler.k, sampler.batch_size), tf.int64)
    dataset = tf.data.Dataset.from_generator(lambda: sampler, output_signature=indices)
    try:
        for x, y in dataset.map(gather, num_parallel_calls=WORKERS).prefetch(1):
            yield x.numpy(), y.numpy()
    except tf.errors.UnknownError as error:  # its first line is the error of the Python function
        raise UserError(error.message.partition("\n")[0].rpartition("UserError: ")[2]) from error


def gather_from_memory(data: Data) -> Callable[[Any], Any]:
    """A function from index (k, n) to images and labels, in the graph, of a TFDS dataset that is read once."""
    parts = list(tfds().load(NAME, data_dir=prepared(data, "tfrecord"), split="train", download=False).batch(1024))
    images, labels = (tf.concat([part[name] for part in parts], axis=0) for name in ("image", "label"))
    return lambda index: (tf.gather(images, index), tf.gather(labels, index))


def gather_from_file(records: Records) -> Callable[[Any], Any]:
    """The same function of a data source, in Python."""
    return lambda index: tf.numpy_function(records.__getitem__, [index], (tf.uint8, tf.int32), stateful=False)

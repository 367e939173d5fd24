"""tf.data: a graph that maps the index stream to images and prefetches them, in TensorFlow's own threads.

A file of tf.data's is read from its beginning to its end, so it cannot follow an order of ours. What fits into
memory is therefore loaded whole (`tfds.load`), and gathered in the graph; what does not comes out of a data
source, through a function in Python (`tf.numpy_function`), whose lock keeps it to one core.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from typing import Any

with contextlib.suppress(ImportError):  # Linux only
    import triton  # noqa: F401  PyTorch may need it later, and after TensorFlow's LLVM it cannot load its own
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

from compare.data.loaders import WORKERS, Chunk, Order
from compare.data.loaders.records import NAME, Records, prepared, tfds
from compare.data.stream import Data
from compare.errors import UserError

tf.config.set_visible_devices([], "GPU")  # of which it would take all memory, and the track that trains find none


def chunks(images: Data | Records, order: Order) -> Generator[Chunk]:
    """Map, in parallel and in order, and prefetch; `numpy` copies out of TensorFlow's memory."""
    take = out_of_a_file(images) if isinstance(images, Records) else out_of_memory(images)
    numbers = tf.TensorSpec((order.k, order.batch_size), tf.int64)
    dataset = tf.data.Dataset.from_generator(lambda: order, output_signature=numbers)
    try:
        for x, y in dataset.map(take, num_parallel_calls=WORKERS).prefetch(1):
            yield x.numpy(), y.numpy()
    except tf.errors.UnknownError as error:  # what a function in Python raised is the first line
        raise UserError(error.message.partition("\n")[0].rpartition("UserError: ")[2]) from error


def out_of_memory(data: Data) -> Callable[[Any], Any]:
    """index (k, n) -> images and labels, from a TFDS dataset that is read once."""
    parts = list(tfds().load(NAME, data_dir=prepared(data, "tfrecord"), split="train", download=False).batch(1024))
    images, labels = (tf.concat([part[name] for part in parts], axis=0) for name in ("image", "label"))
    return lambda index: (tf.gather(images, index), tf.gather(labels, index))


def out_of_a_file(records: Records) -> Callable[[Any], Any]:
    """The same from a data source."""
    return lambda index: tf.numpy_function(records.__getitem__, [index], (tf.uint8, tf.int32), stateful=False)

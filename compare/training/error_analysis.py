"""The error analysis of a trained network, and filters of its first layer: ``insight`` of a run in results.json.

Computed once, after the last clock has stopped, of the state whose figures are the result:

    classes      their names
    confusion    test images by (label, prediction); left out where there are more than MOST_CLASSES
    mistakes     the misclassified images of the highest probability: index, label, prediction, probability, image
    filters      weights of some units of the first layer, each scaled to -127 .. 127

Images and filters are packed arrays: bytes in base64, with dtype and shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compare.data import Data, eval_batches
from compare.results import pack
from numpy_nn.tree import Tree, leaves

MISTAKES = 12
UNITS = 16
LARGEST = 64  # pixels on a side of an image that is kept
MOST_CLASSES = 100


def analyse(logits: Callable[[np.ndarray], Any], params: Tree, data: Data, *, batch_size: int) -> dict[str, Any]:
    """The error analysis of one network; ``logits`` takes x uint8 (n, h, w, c) to (n, v)."""
    batches = eval_batches(data.test_x, data.test_y, batch_size)
    probabilities = np.concatenate([softmax(np.asarray(logits(x), np.float64))[y >= 0] for x, y in batches])
    found = {"classes": list(data.classes), **errors(probabilities, data)}
    return found | {"filters": first_layer(params, data.test_x.shape[1:])}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (n, v)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def errors(probabilities: np.ndarray, data: Data) -> dict[str, Any]:
    """Confusion counts (v, v) by label and prediction, and the mistakes of the highest predicted probability."""
    labels, predictions, v = data.test_y, probabilities.argmax(axis=1), probabilities.shape[1]
    counts = np.bincount(labels.astype(np.int64) * v + predictions, minlength=v * v).reshape(v, v)
    wrong = np.flatnonzero(predictions != labels)
    confidence = probabilities.max(axis=1)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    step = -(-max(data.test_x.shape[1:3]) // LARGEST)
    mistakes = [
        {
            "index": int(index),
            "label": int(labels[index]),
            "prediction": int(predictions[index]),
            "probability": float(confidence[index]),
            "image": pack(data.test_x[index, ::step, ::step]),
        }
        for index in worst
    ]
    return {"confusion": counts.tolist() if v <= MOST_CLASSES else None, "mistakes": mistakes}


def first_layer(params: Tree, image_shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Weights of evenly chosen units of the layer that sees the image; the same units in every track.

    A convolution's (kh, kw, i, o), a linear layer's (h * w * c, o) over the whole image, or, in recurrent
    networks, its (w * c, o) over a row.
    """
    h, w, c = image_shape
    windows = {h * w * c: (h, w, c), w * c: (1, w, c)}
    for path, leaf in leaves(params).items():
        kernel = np.asarray(leaf, np.float64)
        if not path.endswith("kernel") or not (kernel.ndim == 4 or (kernel.ndim == 2 and len(kernel) in windows)):
            continue
        shape = kernel.shape[:-1] if kernel.ndim == 4 else windows[len(kernel)]
        units = np.unique(np.linspace(0, kernel.shape[-1] - 1, UNITS).round().astype(int))
        filters = np.moveaxis(kernel[..., units], -1, 0).reshape(len(units), *shape)
        largest = np.abs(filters).max(axis=(1, 2, 3), keepdims=True)
        scaled = np.rint(127 * filters / np.where(largest > 0, largest, 1)).astype(np.int8)
        return {"leaf": path, "units": units.tolist(), "values": pack(scaled)}
    return None

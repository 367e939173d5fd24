"""The error analysis of a trained network: ``error_analysis`` of a run in results.json.

Made once, after the last clock has stopped, of the state whose metrics are the result:

    classes         their names
    confusion       test images by (label, prediction); None if there are more than MOST_CLASSES (compare.eval.figures)
    misclassified   the most confident errors: index of the test image, label, prediction, its probability, image
    filters         weights of some units of the first layer, each scaled to -127 .. 127

Images and filters are packed arrays: bytes in base64, with dtype and shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compare.data import Data
from compare.eval.figures import MOST_CLASSES, confusion_counts, image_logits, softmax
from compare.results.arrays import pack
from compare.results.schema import ErrorAnalysis, Filters, Misclassified
from numpy_nn.tree import Tree, leaves

MISCLASSIFIED = 12
UNITS = 16
LARGEST = 64  # pixels on a side of an image that is kept


def error_analysis(logits: Callable[[np.ndarray], Any], params: Tree, data: Data, *, batch_size: int) -> ErrorAnalysis:
    """The error analysis of one network; ``logits`` maps x uint8 (n, h, w, c) to (n, v)."""
    probabilities = softmax(image_logits(logits, data.test_x, data.test_y, batch_size=batch_size))
    confusion, misclassified = errors(probabilities, data)
    return {
        "classes": list(data.classes),
        "confusion": confusion,
        "misclassified": misclassified,
        "filters": first_layer(params, data.test_x.shape[1:]),
    }


def errors(probabilities: np.ndarray, data: Data) -> tuple[list[list[int]] | None, list[Misclassified]]:
    """Confusion counts (v, v) by label and prediction, and the errors made with the greatest confidence."""
    labels, predictions, v = data.test_y, probabilities.argmax(axis=1), probabilities.shape[1]
    counts = confusion_counts(labels, predictions, v)
    wrong = np.flatnonzero(predictions != labels)
    confidence = probabilities.max(axis=1)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISCLASSIFIED]
    step = -(-max(data.test_x.shape[1:3]) // LARGEST)
    misclassified: list[Misclassified] = [
        {
            "index": int(index),
            "label": int(labels[index]),
            "prediction": int(predictions[index]),
            "probability": float(confidence[index]),
            "image": pack(data.test_x[index, ::step, ::step]),
        }
        for index in worst
    ]
    return counts.tolist() if v <= MOST_CLASSES else None, misclassified


def first_layer(params: Tree, image_shape: tuple[int, ...]) -> Filters | None:
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

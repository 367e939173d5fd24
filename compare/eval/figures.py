"""The figures of an evaluation, computed in NumPy from the logits of every image, whichever track gave them.

Expected calibration error: Guo et al., On Calibration of Modern Neural Networks, 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np

from compare.data.stream import eval_batches
from numpy_nn.losses import log_softmax

BINS = 15  # of the confidence, equally wide
MOST_CLASSES = 100  # in a confusion matrix


class ClassFigures(TypedDict):
    """One class; None where nothing was predicted as it, or no image belongs to it."""

    name: str
    precision: float | None
    recall: float | None
    support: int


class Bin(TypedDict):
    """The images whose confidence, the largest probability, is above ``lower`` and at most ``upper``."""

    lower: float
    upper: float
    count: int
    confidence: float | None  # mean
    accuracy: float | None


class Figures(TypedDict):
    """What one track got right and wrong; ``confusion`` by (label, prediction), None above MOST_CLASSES."""

    count: int
    correct: int
    accuracy: float
    loss: float
    classes: list[ClassFigures]
    confusion: list[list[int]] | None
    ece: float
    bins: list[Bin]


def image_logits(logits: Callable[[np.ndarray], Any], x: np.ndarray, y: np.ndarray, *, batch_size: int) -> np.ndarray:
    """Logits of all images x uint8 (n, h, w, c): float64 (n, v); a compiled network sees one shape of batch.

    Of windows of a text (n, t) with labels (n, t), those of every character: float64 (n * t, v).
    """
    return np.concatenate(
        [np.asarray(logits(xs), np.float64)[ys >= 0] for xs, ys in eval_batches(x, y, batch_size=batch_size)]
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits (v,) or (n, v): float64 of the same shape."""
    return np.exp(log_softmax(logits.astype(np.float64)))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p(label), without label smoothing: logits (n, v), labels (n,)."""
    log_p = log_softmax(logits)[np.arange(len(labels)), labels]
    return float((0 - log_p).mean())  # without -0.0


def confusion_counts(labels: np.ndarray, predictions: np.ndarray, v: int) -> np.ndarray:
    """Number of images by (label, prediction): int64 (v, v)."""
    return np.bincount(labels.astype(np.int64) * v + predictions, minlength=v * v).reshape(v, v)


def class_figures(confusion: np.ndarray, names: Sequence[str]) -> list[ClassFigures]:
    """Precision, recall and support of each class, from its counts (v, v)."""
    right, supports, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        {
            "name": name,
            "precision": float(right[k] / predicted[k]) if predicted[k] else None,
            "recall": float(right[k] / supports[k]) if supports[k] else None,
            "support": int(supports[k]),
        }
        for k, name in enumerate(names)
    ]


def calibration(confidence: np.ndarray, right: np.ndarray, *, bins: int = BINS) -> tuple[float, list[Bin]]:
    """Expected calibration error, and its bins: confidence (n,) in 0 .. 1, right bool (n,).

    ECE = Σ count / n · |accuracy - mean confidence|, over bins of equal width.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found: list[Bin] = []
    error = 0.0
    for k in range(bins):
        inside = place == k
        count = int(inside.sum())
        mean, accuracy = (float(confidence[inside].mean()), float(right[inside].mean())) if count else (None, None)
        if mean is not None and accuracy is not None:
            error += count / len(right) * abs(accuracy - mean)
        found.append(
            {"lower": k / bins, "upper": (k + 1) / bins, "count": count, "confidence": mean, "accuracy": accuracy}
        )
    return error, found


def figures(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Figures:
    """Every figure of logits float64 (n, v) for labels (n,); of equal logits the first class is the prediction."""
    probabilities, predictions = softmax(logits), logits.argmax(axis=1)
    right = predictions == labels
    confusion = confusion_counts(labels, predictions, len(names))
    ece, bins = calibration(probabilities.max(axis=1), right)
    return {
        "count": len(labels),
        "correct": int(right.sum()),
        "accuracy": float(right.mean()),
        "loss": cross_entropy(logits, labels),
        "classes": class_figures(confusion, names),
        "confusion": confusion.tolist() if len(names) <= MOST_CLASSES else None,
        "ece": ece,
        "bins": bins,
    }


# --- differences between the tracks -----------------------------------------------------------------------------------


class Answer(TypedDict):
    """A track's prediction for one image, and by how much its logit exceeds the second largest."""

    prediction: str
    margin: float


class Disagreement(TypedDict):
    """An image that the tracks predict differently; ``index`` counts from 0 in the test set."""

    index: int
    label: str
    tracks: dict[str, Answer]


def disagreements(logits: dict[str, np.ndarray], labels: np.ndarray, names: Sequence[str]) -> list[Disagreement]:
    """Every image for which two tracks predict different classes: logits (n, v) by track, labels (n,)."""
    predictions = np.stack([each.argmax(axis=1) for each in logits.values()])
    return [
        {
            "index": int(n),
            "label": names[labels[n]],
            "tracks": {
                track: {"prediction": names[each[n].argmax()], "margin": float(margin(each[n]))}
                for track, each in logits.items()
            },
        }
        for n in np.flatnonzero((predictions != predictions[0]).any(axis=0))
    ]


def margin(logits: np.ndarray) -> float:
    """The largest of the logits (v,) minus the second largest."""
    second, first = np.sort(logits)[-2:]
    return float(first - second)


def largest_difference(logits: dict[str, np.ndarray]) -> float | None:
    """The largest difference of a logit between two tracks; None for a single track."""
    if len(logits) < 2:
        return None
    stacked = np.stack(list(logits.values()))
    return float((stacked.max(axis=0) - stacked.min(axis=0)).max())

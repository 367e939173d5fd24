"""Whether a network has seen anything like a picture: its energy score (Liu et al. 2020, arXiv:2010.03759).

The score is log Σ exp(logits): images like those that a network was trained on get large logits. A network is stored
with a threshold, the score that 99 of 100 images of its validation set exceed. A picture below it gets a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compare.data import Data, eval_batches
from numpy_nn.losses import log_softmax

SHARE = 0.01  # of the validation images have a lower score
IMAGES = 1000  # that it is measured on
KEY = "energy_threshold"  # in the metadata of a network
NOTE = "the picture looks like nothing that this network has seen: the answer is a guess"


def score(logits: np.ndarray) -> np.ndarray:
    """Log Σ exp(logits), (n, v) -> (n,): a logit minus its log softmax, whichever class it is of."""
    logits = np.asarray(logits, np.float64)
    return logits[:, 0] - log_softmax(logits)[:, 0]


def measured(logits: Callable[[np.ndarray], Any], data: Data, *, batch_size: int) -> dict[str, float] | None:
    """The threshold of a network of images, as it is stored; from the test images where none are for validation."""
    if data.train_x.ndim != 4:
        return None
    x, y = (data.val_x, data.val_y) if len(data.val_y) else (data.test_x, data.test_y)
    batches = eval_batches(x[:IMAGES], y[:IMAGES], batch_size)
    scores = np.concatenate([score(np.asarray(logits(images)))[labels >= 0] for images, labels in batches])
    return {"score": float(np.quantile(scores, SHARE)), "share": SHARE, "images": len(scores)}


def stored(meta: Mapping[str, Any]) -> Any:
    """What metadata say of the threshold, earlier versions under another key; None if nothing."""
    return meta.get(KEY, meta.get("usual"))


def read(meta: Mapping[str, Any]) -> float | None:
    """The threshold in metadata; None where there is none."""
    found = stored(meta)
    value = found.get("score") if isinstance(found, Mapping) else None
    usable = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if value is not None and usable else None


def note(logits: np.ndarray, threshold: float | None) -> str:
    """NOTE where the logits (v,) of a picture are below the threshold, else ""."""
    return NOTE if threshold is not None and score(logits[None])[0] < threshold else ""

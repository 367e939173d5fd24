"""The test images of a network's dataset: one at random, and the next that the network misclassifies."""

from __future__ import annotations

import functools

import numpy as np

from compare import data
from compare.config import UNKNOWN
from compare.data import Data
from compare.errors import UserError
from compare.weights.network import Network

BATCH = 250  # images per forward pass of a search for mistakes


@functools.lru_cache(maxsize=2)
def loaded(dataset: str, data_dir: str | None, val_size: int | None, seed: int) -> Data:
    """A dataset, split as it was for the training."""
    return data.load(dataset, data_dir=data_dir, val_size=val_size, seed=seed)


def data_of(network: Network) -> Data:
    """The dataset that a network was trained on; UserError if it is not known, not there, or of other images."""
    config = network.meta.get("config", {})
    if network.dataset == UNKNOWN:
        raise UserError("this network's file does not name the dataset that it was trained on: choose another network")
    found = loaded(network.dataset, config.get("data_dir"), config.get("val_size"), int(config.get("seed", 0)))
    if found.test_x.shape[1:] != tuple(network.input_shape):
        raise UserError(f"the images of {network.dataset} are {found.test_x.shape[1:]}, not {network.input_shape}")
    return found


class LabelledImages:
    """The test images of one network, and which of them it has classified so far."""

    def __init__(self, network: Network, track: str):
        self.network, self.track = network, track
        self.data = data_of(network)
        self.predicted = np.full(len(self.data.test_y), -1)

    def image(self, index: int) -> np.ndarray:
        """A test image, uint8 (h, w, c)."""
        if not 0 <= index < len(self.data.test_x):
            raise UserError(f"invalid test image {index}: expected a number from 0 to {len(self.data.test_x) - 1}")
        return self.data.test_x[index]

    def truth(self, index: int) -> str:
        """The class of a test image."""
        return self.network.classes[int(self.data.test_y[index])]

    def at_random(self) -> int:
        """The index of some test image."""
        return int(np.random.default_rng().integers(len(self.data.test_y)))

    def next_mistake(self, after: int) -> int:
        """The index of the next misclassified image after this one, from the first again after the last."""
        count = len(self.data.test_y)
        order = np.roll(np.arange(count), -(after + 1) % count)
        for start in range(0, count, BATCH):
            indices = order[start : start + BATCH]
            self._classify(indices[self.predicted[indices] < 0])
            wrong = indices[self.predicted[indices] != self.data.test_y[indices]]
            if len(wrong):
                return int(wrong[0])
        raise UserError(f"this network classifies all {count:,} test images correctly")

    def _classify(self, indices: np.ndarray) -> None:
        if len(indices):
            self.predicted[indices] = self.network.logits(self.data.test_x[indices], self.track).argmax(axis=1)

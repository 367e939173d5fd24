"""Evaluate a network on a dataset in several tracks, after checks that its images and classes are the network's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TypedDict

import numpy as np

from compare import data
from compare.config import UNKNOWN
from compare.data import Data
from compare.data.stream import described, digest
from compare.data.text import unit
from compare.errors import UserError
from compare.eval.figures import Disagreement, Figures, disagreements, figures, image_logits, largest_difference
from compare.weights.network import Network, unnamed

BATCH = 500  # images in a batch
LISTED = 5  # classes in a message


class Evaluation(TypedDict):
    """What ``--json`` prints, beside the name of the network."""

    model: str
    dataset: str
    counted: str  # images; of a text, characters or tokens
    test_digest: str  # SHA-256 of the test images and labels
    note: str
    tracks: dict[str, Figures]
    agree: bool  # on the number of correct images
    largest_logit_difference: float | None
    disagreements: list[Disagreement]


def evaluate(network: Network, test: Data, track_names: Sequence[str]) -> Evaluation:
    """The figures of each track on the test images of :func:`test_data`."""
    x, y = test.test_x, test.test_y
    logits = {
        track: image_logits(partial(network.logits, track=track), x, y, batch_size=BATCH) for track in track_names
    }
    y = y.reshape(-1)  # of windows of a text, a label for each character
    found = {track: figures(each, y, test.classes) for track, each in logits.items()}
    return {
        "model": network.model,
        "dataset": test.name,
        "counted": unit(test.name, x.shape[1:]),
        "test_digest": digest(x, test.test_y),
        "note": test.note,
        "tracks": found,
        "agree": len({each["correct"] for each in found.values()}) == 1,
        "largest_logit_difference": largest_difference(logits),
        "disagreements": disagreements(logits, y, test.classes),
    }


def test_data(network: Network, dataset: str | None, data_dir: str | None) -> Data:
    """The dataset, by default that of the network's training, with labels and classes numbered as the network does.

    A folder of pictures is scaled to the network's images. UserError where shapes or classes are others.
    """
    name = dataset or network.dataset
    if name == UNKNOWN:
        raise UserError("the file does not say what the network was trained on: choose a dataset with --dataset")
    shape = network.input_shape
    images = {"image_size": shape[0], "channels": shape[2]} if len(shape) == 3 else {}
    found = data.load(name, data_dir=data_dir, val_size=0, **images)
    if found.test_x.shape[1:] != shape:
        there = described(found.test_x.shape[1:], len(found.classes))
        here = described(shape, len(network.classes))
        raise UserError(f"{found.name} has {there}, and the network takes {here}: choose another dataset")
    return with_classes_of(network, found)


def with_classes_of(network: Network, found: Data) -> Data:
    """The dataset with the network's classes, matched by name; by number, with a note, if one of them has no names."""
    theirs, ours = found.classes, network.classes
    if len(ours) == len(theirs) and (unnamed(ours) or unnamed(theirs)):
        one, other, classes = ("network", "dataset", theirs) if unnamed(ours) else ("dataset", "network", ours)
        note = f"the {one} does not name its classes: they are taken in the order of the {other}'s"
        return dataclasses.replace(found, classes=classes, note="; ".join(filter(None, [found.note, note])))
    if missing := [name for name in theirs if name not in ours]:
        raise UserError(
            f"{found.name} has classes that the network does not know: {_listed(missing)}. The network's are "
            f"{_listed(ours)}. Choose a dataset of its classes, or train it on these: python -m compare.transfer --help"
        )
    numbers = np.array([ours.index(name) for name in theirs], found.test_y.dtype)
    return dataclasses.replace(found, test_y=numbers[found.test_y], train_y=numbers[found.train_y], classes=ours)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more

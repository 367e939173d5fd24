"""How many of the pictures that people take are read, and how many wrongly, with confidence."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from support import pictures

from compare.data import images, load
from compare.predict import load as load_network
from compare.predict import softmax
from compare.weights import energy


class Read(NamedTuple):
    """What a picture shows, the answer (-1: refused), its probability, and whether it looks like nothing seen."""

    kind: str
    digit: int
    answer: int
    probability: float
    strange: bool

    @property
    def confidently_wrong(self) -> bool:
        """Wrong with 90 % or more, and without the note that the picture looks like nothing seen."""
        return self.answer != self.digit and self.probability >= 0.9 and not self.strange


def read(drawn: Iterable[tuple[str, int, Image.Image]]) -> list[Read]:
    """The answers of the CNN that ships, each picture read from a file's content."""
    predictor, found = load_network(), []
    for kind, digit, image in drawn:
        file = io.BytesIO()
        image.save(file, "PNG")
        try:
            seen = predictor.look(images.open_image(file.getvalue()))
        except images.ImageError:  # "shows no digit"
            found.append(Read(kind, digit, -1, 0.0, True))
            continue
        logits = predictor.network.logits(seen.pixels[None])[0]
        p = softmax(logits)
        strange = energy.NOTE in predictor.notes(seen, logits)
        found.append(Read(kind, digit, int(p.argmax()), float(p.max()), strange))
    return found


def test_one_picture_of_every_kind_is_read() -> None:
    kinds = [(kind, k % 10) for k, kind in enumerate(pictures.KINDS) if kind != "printed"]
    found = read((kind, digit, pictures.draw(kind, digit, 0)) for kind, digit in kinds)
    wrong = [each for each in found if each.answer != each.digit]
    assert len(wrong) <= 1, wrong  # 0
    assert not [each for each in found if each.confidently_wrong]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_less_than_one_picture_in_a_hundred_is_read_wrongly_with_confidence() -> None:
    found = read(pictures.every(2))
    assert len(found) == 20 * len(pictures.KINDS) >= 400
    right = np.mean([each.answer == each.digit for each in found])
    sure = np.mean([each.confidently_wrong for each in found])
    report = [each for each in found if each.answer != each.digit]
    assert right >= 0.97, report
    assert sure < 0.01, report


def test_what_is_no_digit_gets_a_note_and_what_is_one_does_not() -> None:
    """The note of one in a hundred images like those of the training is what it is calibrated to."""
    network = load_network().network
    logits = np.concatenate([network.logits(load("mnist").test_x[at : at + 500]) for at in range(0, 2000, 500)])
    noted = np.mean([bool(energy.note(each, network.energy_threshold)) for each in logits])
    assert 0.005 < noted < 0.02
    found = read(("strange", -1, pictures.strange(sample)) for sample in range(40))
    assert np.mean([each.strange for each in found]) > 0.6

"""Classify pictures with a trained network.

    python -m compare.predict seven.png
    python -m compare.predict *.jpg --checkpoint runs/first/checkpoints/cnn-mnist-jax-seed0 --tracks all

The same from Python:

    from compare.predict import load, load_image

    network = load()
    image = load_image("seven.png")
    print(network(image))
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from compare import cli, tracks
from compare.cli import command_line
from compare.data import digits, images
from compare.errors import UserError
from compare.weights.network import Network
from compare.weights.open import open_network

SHIPPED = Path(__file__).resolve().parent.parent / "checkpoints" / "shipped"
DEFAULT = SHIPPED / "cnn-mnist.npz"

Answer = list[tuple[str, float]]  # classes and their probabilities, the likeliest first


class Predictor:
    """A network that takes pictures of any size and answers in names and probabilities."""

    def __init__(self, network: Network):
        self.network = network

    def __call__(self, image: Image.Image, *, track: str = "numpy") -> Answer:
        """Every class with its probability, the likeliest first."""
        return ranked(self.probabilities(image, track=track), self.network.classes)

    def probabilities(self, image: Image.Image, *, track: str = "numpy") -> np.ndarray:
        """Softmax of the logits, float64 (v,)."""
        logits = self.network.logits(self.prepare(image)[None], track)[0].astype(np.float64)
        exponentials = np.exp(logits - logits.max())
        return exponentials / exponentials.sum()

    def prepare(self, image: Image.Image) -> np.ndarray:
        """The picture as the network's dataset has it, uint8 (h, w, c): see ``digits`` and ``images``."""
        h, w, c = self.network.input_shape
        if self.network.dataset == "mnist":
            return digits.to_digit(image)
        if h != w:
            raise UserError(f"this network sees images of {h} x {w}; only square ones are cut out of pictures")
        return images.to_square(image, size=h, channels=c)


def load(path: str | Path = DEFAULT) -> Predictor:
    """A network from a checkpoint folder or an exported file; the CNN that ships, if nothing is said."""
    return Predictor(open_network(Path(path)))


def load_image(path: str | Path) -> Image.Image:
    """A picture from a PNG or JPEG file (or GIF, WEBP, BMP, PPM), turned upright."""
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        return images.open_image(Path(path))
    except images.ImageError as error:
        raise images.ImageError(f"{path}: {error}") from error


def ranked(probabilities: np.ndarray, classes: Sequence[str]) -> Answer:
    """Classes and probabilities (v,), the likeliest first."""
    order = np.argsort(-probabilities, kind="stable")
    return [(classes[k], float(probabilities[k])) for k in order]


# --- command line -----------------------------------------------------------------------------------------------------


def tell(predictor: Predictor, path: Path, track_names: Sequence[str], top: int) -> str:
    """The lines to print for one picture."""
    image = load_image(path)
    try:
        answers = {name: predictor.probabilities(image, track=name) for name in track_names}
    except images.ImageError as error:
        raise images.ImageError(f"{path} {error}") from error
    lines = [cli.shown(path)]
    for name, probabilities in answers.items():
        best = ranked(probabilities, predictor.network.classes)[:top]
        lines.append(
            f"  {name:6}" + "".join(f"  {label}  {probability:7.3%}  " for label, probability in best).rstrip()
        )
    if len(answers) > 1:
        gap = max(float(np.abs(a - b).max()) for a, b in itertools.combinations(answers.values(), 2))
        lines.append(f"  largest difference of a probability between the tracks: {gap:.1e}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("predict", __doc__, what="pictures")
    options.add_argument("images", nargs="+", type=cli.path, metavar="IMAGE", help="PNG or JPEG, any size and colours")
    pictures = cli.group(options, "pictures")
    pictures.add_argument(
        "--checkpoint", type=cli.path, default=DEFAULT, metavar="PATH",
        help="checkpoint folder or exported file (default: the CNN that ships)",
    )  # fmt: skip
    cli.add_tracks(options, where="pictures", default=["numpy"], extra=["all"])
    pictures.add_argument("--top", type=cli.number(int), default=3, metavar="N", help="classes to print (default: 3)")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every picture was answered, 2 if a file or an argument is wrong; the others are answered still."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    names = list(tracks.TRACKS) if "all" in options.tracks else options.tracks
    status = 0
    predictor = load(options.checkpoint)
    for path in options.images:
        try:
            print(tell(predictor, path, names, options.top))
        except UserError as error:
            status = cli.report(error)
    return status


if __name__ == "__main__":
    sys.exit(main())

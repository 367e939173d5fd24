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
import io
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from compare import cli, networks
from compare.cli import SHIPPED, command_line
from compare.data import digits, images, pages
from compare.errors import UserError
from compare.eval.figures import softmax
from compare.weights import energy
from compare.weights.network import Network
from compare.weights.open import open_network

DEFAULT = SHIPPED / "cnn-mnist.npz"

Answer = list[tuple[str, float]]  # classes and their probabilities, the likeliest first


class Seen(NamedTuple):
    """What a network sees of a picture, uint8 (h, w, c), and a note on what was done that may be doubted."""

    pixels: np.ndarray
    note: str = ""


class Predictor:
    """A network that takes pictures of any size and answers in names and probabilities."""

    def __init__(self, network: Network):
        if len(network.input_shape) != 3:
            raise UserError(f"this {network.model} continues texts and takes no pictures: choose another checkpoint")
        self.network = network

    def __call__(self, image: Image.Image, *, track: str = "numpy") -> Answer:
        """Every class with its probability, the likeliest first."""
        return ranked(self.probabilities(image, track=track), self.network.classes)

    def probabilities(self, image: Image.Image, *, track: str = "numpy") -> np.ndarray:
        """Softmax of the logits, float64 (v,)."""
        return self.probabilities_of(self.prepare(image), track)

    def probabilities_of(self, x: np.ndarray, track: str = "numpy") -> np.ndarray:
        """The same for an image as the dataset has it, uint8 (h, w, c)."""
        return softmax(self.network.logits(x[None], track)[0])

    def prepare(self, image: Image.Image) -> np.ndarray:
        """The picture as the network's dataset has it, uint8 (h, w, c)."""
        return self.look(image).pixels

    def look(self, image: Image.Image) -> Seen:
        """What the network sees of a picture: see ``compare.data.digits`` and ``compare.data.images``."""
        h, w, c = self.network.input_shape
        preparation = self.network.preparation
        if preparation.how == "digit" and (h, w, c) == (28, 28, 1):
            digit = digits.find_digit(image)
            return Seen(digit.pixels, digit.note)
        if h != w:
            raise UserError(f"this network sees images of {h} x {w}; only square ones are cut out of pictures")
        pixels = images.to_square(image, size=h, channels=c)
        if preparation.ground == "dark" and np.median(pages.border(pixels)) > 127:
            return Seen(255 - pixels, "the picture has a light background: inverted, as this network saw light on dark")
        if not preparation.known:
            return Seen(pixels, "how this network's pictures were prepared is not stored: took the centred square")
        return Seen(pixels)

    def notes(self, seen: Seen, logits: np.ndarray) -> list[str]:
        """What makes an answer doubtful: how the picture was prepared, and logits (v,) unlike any of the training."""
        return list(filter(None, [seen.note, energy.note(logits, self.network.energy_threshold)]))


def load(path: str | Path = DEFAULT, network: Path | None = None) -> Predictor:
    """A network from a checkpoint folder or an exported file; the CNN that ships, if nothing is said.

    ``network`` is the file of a network of your own, which the checkpoint's was trained with.
    """
    return Predictor(open_network(Path(path), network))


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


def classified(predictor: Predictor, path: Path, track_names: Sequence[str]) -> tuple[Seen, dict[str, np.ndarray]]:
    """What the network sees of the picture in a file, and its logits (v,) by track; an error names the file."""
    image = load_image(path)
    try:
        seen = predictor.look(image)
    except images.ImageError as error:
        raise images.ImageError(f"{path} {error}") from error
    return seen, {name: predictor.network.logits(seen.pixels[None], name)[0] for name in track_names}


def answer(predictor: Predictor, path: Path, track_names: Sequence[str]) -> dict[str, Any]:
    """The probability of every class by track, for a program; ``note`` says what makes the answer doubtful."""
    seen, logits = classified(predictor, path, track_names)
    classes = predictor.network.classes
    return {
        "image": cli.shown(path),
        "tracks": {name: dict(zip(classes, softmax(each).tolist(), strict=True)) for name, each in logits.items()},
        "note": "; ".join(predictor.notes(seen, next(iter(logits.values())))),
    }


def tell(predictor: Predictor, path: Path, track_names: Sequence[str], top: int, *, show: bool = False) -> str:
    """The lines to print for one picture; ``show`` writes what the network saw as a PNG file."""
    seen, logits = classified(predictor, path, track_names)
    answers = {name: softmax(each) for name, each in logits.items()}
    lines = [cli.shown(path)]
    for name, probabilities in answers.items():
        best = ranked(probabilities, predictor.network.classes)[:top]
        lines.append(
            f"  {name:6}" + "".join(f"  {label}  {probability:7.3%}  " for label, probability in best).rstrip()
        )
    if len(answers) > 1:
        gap = max(float(np.abs(a - b).max()) for a, b in itertools.combinations(answers.values(), 2))
        lines.append(f"  largest difference of a probability between the tracks: {gap:.1e}")
    if notes := predictor.notes(seen, logits[track_names[0]]):
        lines.append(f"  note: {'; '.join(notes)}" + ("" if show else " (--show writes the network's input)"))
    if show:
        lines.append(f"  the network's input: {write_seen(seen.pixels, path)}")
    return "\n".join(lines)


def write_seen(pixels: np.ndarray, picture: Path) -> Path:
    """Write what a network saw, enlarged, into the current folder, under a name that is free."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    scale = max(280 // image.width, 1)
    content = io.BytesIO()
    image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST).save(content, "PNG")
    for number in itertools.count(1):
        path = Path(f"{picture.stem}.seen{'' if number == 1 else f'-{number}'}.png")
        try:
            with path.open("xb") as file:
                file.write(content.getvalue())
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    raise AssertionError("some number is free")


def pictures(paths: Sequence[Path]) -> list[Path]:
    """The files among them, and the pictures in the folders among them."""
    found = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            seen = (each for each in path.iterdir() if not each.name.startswith("."))  # macOS writes ._NAME beside NAME
            inside = sorted(each for each in seen if each.suffix.lower() in images.suffixes())
        if not inside:
            raise UserError(f"{path}: this folder holds no pictures")
        found += inside
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("predict", __doc__, what="pictures")
    options.add_argument("images", nargs="+", type=cli.path, metavar="IMAGE", help="picture, or a folder of pictures")
    pictures = cli.group(options, "pictures")
    pictures.add_argument(
        "--checkpoint", type=cli.network, default=DEFAULT, metavar="PATH",
        help=f"{cli.NETWORK} (default: cnn-mnist)",
    )  # fmt: skip
    cli.add_network(options, where="pictures", what="the network of your own that the checkpoint holds")
    cli.add_tracks(options, where="pictures", default=["numpy"], extra=["all"])
    pictures.add_argument("--top", type=cli.number(int), default=3, metavar="N", help="classes to print (default: 3)")
    pictures.add_argument("--show", action="store_true", help="write the network's input as NAME.seen.png")
    cli.add_json(options, "the probability of every class", where="pictures")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every picture was answered, 2 if a file or an argument is wrong; the others are answered still."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    status, answers = 0, []
    predictor = load(options.checkpoint, options.network)
    names = networks.chosen(predictor.network.model, options.tracks)
    for path in pictures(options.images):
        try:
            if options.json:
                answers.append(answer(predictor, path, names))
            else:
                print(tell(predictor, path, names, options.top, show=options.show))
        except UserError as error:
            status = cli.report(error)
    with cli.figures(options.json) as show:
        show(answers, lambda: None)
    return status


if __name__ == "__main__":
    sys.exit(main())

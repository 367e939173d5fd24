"""The playground's networks, and the predictions of each track for a picture."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from compare import cli, networks
from compare.checkpoint import store
from compare.data import images
from compare.errors import UserError
from compare.eval.figures import softmax
from compare.play import steps, units
from compare.play.activations import activations, scaled
from compare.play.gradients import LARGEST_STEP, adversarial_step, gap, pixel_gradient
from compare.play.labelled import LabelledImages
from compare.play.training import MOST_STEPS, TrainingHere
from compare.predict import DEFAULT, Predictor, Seen, load
from compare.report.style import KNOWN, NAMES
from compare.results.arrays import pack
from compare.weights import energy
from compare.weights.network import Network
from numpy_nn.tree import count

RUNS = Path("runs")
IN_MEMORY = 4  # most recently used networks


@dataclass(frozen=True)
class Disturbance:
    """Noise, shift and rotation, applied to the network's input."""

    noise: float = 0.0  # standard deviation, of pixels in 0 .. 1
    right: float = 0.0  # whole pixels
    down: float = 0.0
    turn: float = 0.0  # degrees, clockwise

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Rotate about the centre, shift, and add noise of a fixed seed: uint8 (h, w, c) -> uint8 (h, w, c)."""
        image = Image.fromarray(x.squeeze(axis=2) if x.shape[2] == 1 else x)
        moved = image.rotate(-self.turn, Image.Resampling.BILINEAR, translate=(round(self.right), round(self.down)))
        noise = np.random.default_rng(0).standard_normal(x.shape, np.float32)
        pixels = np.asarray(moved).reshape(x.shape) + 255 * self.noise * noise
        return pixels.clip(0, 255).round().astype(np.uint8)


@dataclass(frozen=True)
class Question:
    """A picture, and what to show of a network's answer."""

    content: bytes = b""  # of an image file
    digit: int | None = None  # or else the index of a test image
    disturbance: Disturbance = Disturbance()
    chosen: int | None = None  # index of the class whose logit is differentiated
    adversarial: bool = False  # a step after the disturbance, towards the chosen class if there is one
    step: int | None = None  # of the forward and the backward pass, to be shown


class Playground:
    """Networks by name, and the tracks that run them; only ``listing`` and the training's progress are thread-safe."""

    def __init__(self, tracks: Sequence[str], given: Path | None = None, network: Path | None = None):
        self._given, self._file = given or DEFAULT, network
        self._loaded = functools.lru_cache(maxsize=IN_MEMORY)(self._load)
        self._labelled: dict[str, LabelledImages] = {}
        self.turn = threading.Lock()  # held by whoever computes
        self.training: TrainingHere | None = None  # the last one
        self.here: dict[str, TrainingHere] = {}  # the finished ones, by the names of their networks
        first = self.predictor(self.chosen).network  # so that a bad checkpoint fails here, not in the browser
        asked = list(dict.fromkeys(tracks))
        self.tracks = networks.available(first.model, asked, asked=asked != list(cli.TRACKS))

    @property
    def chosen(self) -> str:
        """The name of the network given on the command line."""
        known = {path.resolve(): name for name, path in trained().items()}
        return known.get(self._given.resolve(), f"given/{self._given.name}")

    def listing(self) -> dict[str, Any]:
        """Return the tracks, the networks that exist now, and the one to start with."""
        tracks = [{"id": track, "name": NAMES[track], "color": KNOWN[track].color} for track in self.tracks]
        return {
            "tracks": tracks,
            "networks": list(dict.fromkeys([self.chosen, *trained(), *self.here])),
            "chosen": self.chosen,
            "here": {name: training.origin for name, training in self.here.items()},
        }

    def predictor(self, name: str) -> Predictor:
        """The network of this name; UserError if there is none."""
        if name in self.here:
            network = self.here[name].network
            assert network
            return Predictor(network)
        return self._loaded(name)

    def labelled(self, name: str) -> LabelledImages:
        """The test images of a network; UserError if its dataset is not known."""
        network = self.predictor(name).network
        if name not in self._labelled or self._labelled[name].network is not network:
            self._labelled[name] = LabelledImages(network, self.tracks[0])
        return self._labelled[name]

    def _load(self, name: str) -> Predictor:
        path = {self.chosen: self._given, **trained()}.get(name)
        if path is None:
            raise UserError(f"unknown network {name!r}: reload the page to update its list")
        predictor = load(path, self._file if name == self.chosen else None)
        h, w, c = predictor.network.input_shape
        if h != w or c not in (1, 3):
            raise UserError(
                f"{name} takes images of {h} x {w} x {c}: the playground supports only square images, grey or in colour"
            )
        return predictor

    def warm(self, name: str, track: str) -> dict[str, Any]:
        """Compile a network in one track; return a description of the network and the time in seconds."""
        self.require_loaded(track)
        start = time.perf_counter()
        network = self.predictor(name).network
        network.logits(np.zeros((1, *network.input_shape), np.uint8), track)
        return {
            "seconds": time.perf_counter() - start,
            "model": network.model,
            "dataset": network.dataset,
            "parameters": count(network.params),
            "input": network.input_shape,
        }

    def require_loaded(self, track: str) -> None:
        """Raise UserError unless the track is one of this playground's."""
        if track not in self.tracks:
            raise UserError(f"track {track!r} is not loaded: expected {', '.join(self.tracks)}")

    def answer(self, name: str, question: Question) -> dict[str, Any]:
        """Return each track's probabilities, the activations of every layer, and the gradients of a chosen logit."""
        predictor, chosen = self.predictor(name), question.chosen
        seen = self.seen(name, question)
        classes = predictor.network.classes
        if chosen is not None and not 0 <= chosen < len(classes):
            raise UserError(f"invalid class {chosen}: expected a number from 0 to {len(classes) - 1}")
        x, notes = question.disturbance(seen.pixels), []
        if question.adversarial:
            x, size = adversarial_step(predictor.network, x, self.tracks[0], chosen)
            notes = [
                f"no adversarial step of up to {LARGEST_STEP} of 255 grey levels changes the prediction"
                if size is None
                else f"an adversarial step of {size} of 255 grey levels per pixel changed the prediction"
            ]
        logits, answers = {}, {}
        for track in self.tracks:
            if track not in predictor.network.states:
                predictor.network.logits(x[None], track)  # compiles, which is no part of the time
            start = time.perf_counter()
            logits[track] = predictor.network.logits(x[None], track).astype(np.float64)
            milliseconds = 1000 * (time.perf_counter() - start)
            answers[track] = {"probabilities": softmax(logits[track])[0].tolist(), "ms": milliseconds}
        first = logits[self.tracks[0]][0]
        return {
            "classes": classes,
            "notes": notes + predictor.notes(seen, first),
            "truth": None if question.digit is None else self.labelled(name).truth(question.digit),
            "tracks": answers,
            "gap": gap(logits),
            "energy": {"score": float(energy.score(first[None])[0]), "threshold": predictor.network.energy_threshold},
            "seen": pack(x),
            **self.layers(predictor.network, x, chosen),
            "step": self.step(predictor.network, x, question, int(first.argmax())),
        }

    def seen(self, name: str, question: Question) -> Seen:
        """What the network sees of the question's picture; a test image is left as it is."""
        if question.digit is not None:
            return Seen(self.labelled(name).image(question.digit))
        try:
            return self.predictor(name).look(images.open_image(question.content))
        except images.ImageError as error:
            if isinstance(error.__cause__, UnidentifiedImageError):
                raise UserError("the picture is not a readable image: upload a PNG or JPEG file") from error
            raise UserError(f"the picture {error}") from error

    def step(self, network: Network, x: np.ndarray, question: Question, predicted: int) -> dict[str, Any] | None:
        """Return the step that was asked for, of the logit of the chosen class or else of the predicted one."""
        if question.step is None or not has_numpy(network):
            return None
        chosen = predicted if question.chosen is None else question.chosen
        return steps.described(network, x, chosen, question.step, self.tracks)

    def digit(self, name: str, mistake: bool, after: int) -> dict[str, Any]:
        """Return a test image: one at random, or the next that the first track misclassifies."""
        labelled = self.labelled(name)
        index = labelled.next_mistake(after) if mistake else labelled.at_random()
        return {"index": index, "of": len(labelled.data.test_y), "seen": pack(labelled.image(index))}

    def unit(self, name: str, layer: int, at: tuple[int, int, int]) -> dict[str, Any]:
        """Return the weights and the receptive field of a unit: see ``compare.play.units``."""
        return units.unit(self.predictor(name).network, layer, at)

    def train(self, name: str, track: str, count: int) -> dict[str, Any]:
        """Train a network from the start in a thread of its own; UserError while another one trains."""
        if self.training and self.training.running:
            raise UserError(f"{self.training.name} is training: wait for its end, or stop it")
        if not 1 <= count <= MOST_STEPS:
            raise UserError(f"invalid steps {count}: expected a number from 1 to {MOST_STEPS}")
        self.require_loaded(track)
        origin = self.here[name].origin if name in self.here else name
        training = TrainingHere(origin, track, count, self.turn, self._trained)
        training.start(self.predictor(origin).network)
        self.training = training
        return training.to_json()

    def _trained(self, training: TrainingHere) -> None:
        self.here[training.name] = training

    def layers(self, network: Network, x: np.ndarray, chosen: int | None) -> dict[str, Any]:
        """Return the activations of every layer and, of a chosen class's logit, the gradients."""
        dlogits = None if chosen is None else np.eye(len(network.classes), dtype=np.float32)[[chosen]]
        return {
            "layers": activations(network, x, dlogits) if has_numpy(network) else [],
            "saliency": None if dlogits is None else {"class": chosen, **self.saliency(network, x, dlogits)},
        }

    def saliency(self, network: Network, x: np.ndarray, dlogits: np.ndarray) -> dict[str, Any]:
        """Return d logit / d pixel as the first track has it, summed over the colours, and the tracks' ``gap``."""
        gradients = {track: pixel_gradient(network, x[None], dlogits, track) for track in self.tracks}
        total = gradients[self.tracks[0]].sum(axis=3)  # (1, h, w)
        largest = float(np.abs(total).max())
        return {"map": pack(scaled(total, largest)), "largest": largest, "gap": gap(gradients)}


def trained() -> dict[str, Path]:
    """Return the shipped networks and those of the comparisons in runs/, by the name shown on the page."""
    shipped = {f"shipped/{path.stem}": path for path in sorted(cli.SHIPPED.glob("*.npz"))}
    runs = {f"{path.parts[-3]}/{path.name}": path for path in sorted(RUNS.glob("*/checkpoints/*"))}
    return shipped | {name: path for name, path in runs.items() if store.steps(path)}


def has_numpy(network: Network) -> bool:
    """Whether the network exists in NumPy: a file of one's own may lack that class."""
    return "numpy" in networks.available(network.model, cli.TRACKS, asked=False)

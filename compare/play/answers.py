"""The playground's networks, and the predictions of each track for a picture."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from compare import cli
from compare.checkpoint import store
from compare.data import images
from compare.errors import UserError
from compare.eval.figures import softmax
from compare.play.activations import activations, scaled
from compare.play.gradients import LARGEST_STEP, adversarial_step, pixel_gradient
from compare.predict import DEFAULT, Predictor, load
from compare.report.style import KNOWN, NAMES
from compare.results.arrays import pack
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


class Playground:
    """Networks by name, and the tracks that run them; only ``listing`` is thread-safe."""

    def __init__(self, tracks: Sequence[str], given: Path | None = None):
        self.tracks = list(dict.fromkeys(tracks))
        self._given = given or DEFAULT
        self.predictor = functools.lru_cache(maxsize=IN_MEMORY)(self._predictor)
        self.predictor(self.chosen)  # so that a bad checkpoint fails here, not in the browser

    @property
    def chosen(self) -> str:
        """The name of the network given on the command line."""
        known = {path.resolve(): name for name, path in trained().items()}
        return known.get(self._given.resolve(), f"given/{self._given.name}")

    def listing(self) -> dict[str, Any]:
        """Return the tracks, the networks that exist now, and the one to start with."""
        tracks = [{"id": track, "name": NAMES[track], "color": KNOWN[track].color} for track in self.tracks]
        return {"tracks": tracks, "networks": list(dict.fromkeys([self.chosen, *trained()])), "chosen": self.chosen}

    def _predictor(self, name: str) -> Predictor:
        path = {self.chosen: self._given, **trained()}.get(name)
        if path is None:
            raise UserError(f"unknown network {name!r}: reload the page to update its list")
        predictor = load(path)
        h, w, c = predictor.network.input_shape
        if h != w or c not in (1, 3):
            raise UserError(
                f"{name} takes images of {h} x {w} x {c}: the playground supports only square images, grey or in colour"
            )
        return predictor

    def warm(self, name: str, track: str) -> dict[str, Any]:
        """Compile a network in one track; return a description of the network and the time in seconds."""
        if track not in self.tracks:
            raise UserError(f"track {track!r} is not loaded: expected {', '.join(self.tracks)}")
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

    def answer(
        self,
        name: str,
        content: bytes,
        disturbance: Disturbance,
        *,
        chosen: int | None = None,
        adversarial: bool = False,
    ) -> dict[str, Any]:
        """Return each track's probabilities for the picture in an image file, and the activations of every layer.

        With the index of a ``chosen`` class, add the gradients of its logit. An ``adversarial`` step changes the
        picture after the disturbance, towards the chosen class if there is one.
        """
        predictor = self.predictor(name)
        try:
            seen = predictor.look(images.open_image(content))
        except images.ImageError as error:
            if isinstance(error.__cause__, UnidentifiedImageError):
                raise UserError("the picture is not a readable image: upload a PNG or JPEG file") from error
            raise UserError(f"the picture {error}") from error
        if chosen is not None and not 0 <= chosen < len(predictor.network.classes):
            raise UserError(f"invalid class {chosen}: expected a number from 0 to {len(predictor.network.classes) - 1}")
        x, notes = disturbance(seen.pixels), []
        if adversarial:
            x, step = adversarial_step(predictor.network, x, self.tracks[0], chosen)
            notes = [
                f"no adversarial step of up to {LARGEST_STEP} of 255 grey levels changes the prediction"
                if step is None
                else f"an adversarial step of {step} of 255 grey levels per pixel changed the prediction"
            ]
        logits, answers = {}, {}
        for track in self.tracks:
            if track not in predictor.network.states:
                predictor.network.logits(x[None], track)  # compiles, which is no part of the time
            start = time.perf_counter()
            logits[track] = predictor.network.logits(x[None], track).astype(np.float64)
            milliseconds = 1000 * (time.perf_counter() - start)
            answers[track] = {"probabilities": softmax(logits[track])[0].tolist(), "ms": milliseconds}
        return {
            "classes": predictor.network.classes,
            "notes": notes + predictor.notes(seen, logits[self.tracks[0]][0]),
            "tracks": answers,
            "gap": gap(logits),
            "seen": pack(x),
            **self.layers(predictor.network, x, chosen),
        }

    def layers(self, network: Network, x: np.ndarray, chosen: int | None) -> dict[str, Any]:
        """Return the activations of every layer and, of a chosen class's logit, the gradients."""
        if chosen is None:
            return {"layers": activations(network, x), "saliency": None}
        dlogits = np.eye(len(network.classes), dtype=np.float32)[[chosen]]
        saliency = {"class": chosen, **self.saliency(network, x, dlogits)}
        return {"layers": activations(network, x, dlogits), "saliency": saliency}

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


def gap(arrays: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """Return the largest difference between two tracks' arrays, the two tracks, and the largest absolute value."""
    pairs = list(itertools.combinations(arrays, 2))
    if not pairs:
        return None
    far = {pair: float(np.abs(arrays[pair[0]] - arrays[pair[1]]).max()) for pair in pairs}
    a, b = max(far, key=lambda pair: far[pair])
    return {"largest": far[a, b], "a": a, "b": b, "of": max(float(np.abs(each).max()) for each in arrays.values())}

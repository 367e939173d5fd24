"""Augmentation of a whole chunk of steps at once, in NumPy, the same for every track.

An augmentation is named in a short form, and several apply in the order given:

    crop:PIXELS             pad with black on every side, cut out a random window of the old size
    flip                    mirror left and right, every second image on average
    affine:DEGREES:PIXELS   rotate by up to ±DEGREES about the centre and move by up to ±PIXELS along
                            each axis, in one bilinear resampling; black comes in from outside
    cutout:PIXELS           blacken a square around a random centre, cut off at the border
                            (DeVries and Taylor 2017, arXiv 1708.04552)
    mixup:ALPHA             x = λ x_a + (1 - λ) x_b, y = λ y_a + (1 - λ) y_b with one λ ~ Beta(ALPHA, ALPHA)
                            per batch and b a permutation of a (Zhang et al. 2018, arXiv 1710.09412)

The random numbers of a step are a pure function of (seed, step), drawn row by row: an
augmentation that is appended leaves those before it as they were. Images stay uint8. Labels stay
class numbers, except that mixup turns them into what they then are, distributions over the
classes: y float32 (k, n, v). Cross-entropy is linear in its target, so this is the published loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from compare.data.seeds import AUGMENT, MIXUP, generator
from compare.errors import UserError

BLOCK = 64  # images that affine resamples at a time: its temporaries stay in the cache


def augment(
    x: np.ndarray, y: np.ndarray, specs: Sequence[str], *, seed: int, step: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (k, n, h, w, c) and labels int32 (k, n) of the steps step .. step + k - 1, augmented.

    `x` may be overwritten. With mixup the labels become float32 (k, n, v), v = `classes`.
    """
    k, n, *image = x.shape
    steps = parse(specs)
    draws = sum(known.draws for known, _ in steps)
    u = np.concatenate([generator(AUGMENT, seed, step + i).random((draws, n)) for i in range(k)], axis=1)
    for known, numbers in steps:
        if known.apply is None:
            x, y = mixup(x, y, *numbers, seed=seed, step=step, classes=classes)
        else:
            x = known.apply(x.reshape(k * n, *image), u[: known.draws], *numbers).reshape(k, n, *image)
            u = u[known.draws :]
    return x, y


# Each takes images x (m, h, w, c), independent uniform random numbers u (draws, m) in [0, 1), and its own numbers.


def crop(x: np.ndarray, u: np.ndarray, pixels: float) -> np.ndarray:
    """A window of the old size out of the image with a black frame of `pixels`."""
    m, h, w, c = x.shape
    frame = _whole("crop", pixels, min(h, w))
    padded = np.zeros((m, h + 2 * frame, w + 2 * frame, c), np.uint8)
    padded[:, frame : frame + h, frame : frame + w] = x
    top, left = (u * (2 * frame + 1)).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w, c), axis=(1, 2, 3))[:, :, :, 0]
    return windows[np.arange(m), top, left]


def flip(x: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Left and right exchanged where u < 1/2."""
    mirrored = u[0] < 0.5
    x[mirrored] = x[mirrored, :, ::-1]
    return x


def affine(x: np.ndarray, u: np.ndarray, degrees: float, pixels: float) -> np.ndarray:
    """Rotated counter-clockwise and moved: at p appears what was at R(-angle) (p - centre - shift) + centre."""
    _, h, w, _ = x.shape
    reach = np.array([[np.radians(degrees)], [pixels], [pixels]])
    angle, down, right = ((2 * u - 1) * reach).astype(np.float32)
    out = np.empty_like(x)
    for start in range(0, len(x), BLOCK):
        block = slice(start, start + BLOCK)
        cos, sin = np.cos(angle[block, None]), np.sin(angle[block, None])
        i = np.arange(h, dtype=np.float32) - (h - 1) / 2 - down[block, None]
        j = np.arange(w, dtype=np.float32) - (w - 1) / 2 - right[block, None]
        rows = (cos * i)[:, :, None] + (sin * j)[:, None, :] + np.float32((h - 1) / 2)
        cols = (cos * j)[:, None, :] - (sin * i)[:, :, None] + np.float32((w - 1) / 2)
        out[block] = _bilinear(x[block], rows, cols)
    return out


def cutout(x: np.ndarray, u: np.ndarray, pixels: float) -> np.ndarray:
    """A black square of `pixels` on each side around a random pixel."""
    _, h, w, _ = x.shape
    side = _whole("cutout", pixels, min(h, w))
    top, left = (u * [[h], [w]]).astype(np.int64) - side // 2
    i, j = np.arange(h) - top[:, None], np.arange(w) - left[:, None]
    x[((i >= 0) & (i < side))[:, :, None] & ((j >= 0) & (j < side))[:, None, :]] = 0
    return x


def mixup(
    x: np.ndarray, y: np.ndarray, alpha: float, *, seed: int, step: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images and of label distributions; λ is rounded to 1/256, for images and labels alike."""
    y = np.eye(classes, dtype=np.float32)[y]
    for i in range(len(x)):
        rng = generator(MIXUP, seed, step + i)
        weight, other = round(256 * rng.beta(alpha, alpha)), rng.permutation(x.shape[1])
        mixed = x[i] * np.uint16(weight) + x[i, other] * np.uint16(256 - weight)  # at most 255 * 256: no overflow
        x[i] = (mixed + np.uint16(128)) >> 8
        y[i] = (y[i] * weight + y[i, other] * (256 - weight)) / 256
    return x, y


def _bilinear(x: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The images x (m, h, w, c) at the real coordinates `rows`, `cols` (m, h, w); black outside."""
    m, h, w, c = x.shape
    padded = np.zeros((m, h + 2, w + 2, c), np.uint8)
    padded[:, 1:-1, 1:-1] = x
    rows, cols = np.clip(rows + 1, 0, h + 0.999), np.clip(cols + 1, 0, w + 0.999)
    top, left = np.floor(rows), np.floor(cols)
    down, right = (rows - top)[..., None], (cols - left)[..., None]
    corner = (np.arange(m, dtype=np.int32)[:, None, None] * (h + 2) + top.astype(np.int32)) * (w + 2)
    corner += left.astype(np.int32)

    def at(offset: int) -> np.ndarray:
        return padded.reshape(-1, c).take(corner + offset, axis=0).astype(np.float32)

    upper, lower = at(0), at(w + 2)
    upper += right * (at(1) - upper)
    lower += right * (at(w + 3) - lower)
    upper += down * (lower - upper)
    return (upper + 0.5).astype(np.uint8)


def _whole(name: str, pixels: float, side: int) -> int:
    if pixels > side:
        raise UserError(f"augmentation {name}:{pixels:g} does not fit images of {side} pixels: choose 1 to {side}")
    return int(pixels)


class Known(NamedTuple):
    """An augmentation as it is spelled, what it draws per image, and what its numbers must be."""

    form: str
    apply: Callable[..., np.ndarray] | None  # None: mixup, which changes labels too
    draws: int = 0
    least: float = 0.0
    whole: bool = False


KNOWN = {
    known.form.split(":")[0]: known
    for known in (
        Known("crop:PIXELS", crop, draws=2, least=1, whole=True),
        Known("flip", flip, draws=1),
        Known("affine:DEGREES:PIXELS", affine, draws=3),
        Known("cutout:PIXELS", cutout, draws=2, least=1, whole=True),
        Known("mixup:ALPHA", None, least=0.01),
    )
}


def parse(specs: Sequence[str]) -> list[tuple[Known, tuple[float, ...]]]:
    """Each augmentation of `specs` with its numbers; a UserError names the one that cannot be."""
    steps = []
    for position, spec in enumerate(specs):
        name, *words = spec.split(":")
        if name not in KNOWN:
            raise UserError(f"unknown augmentation {spec!r}: choose from {_forms()}")
        known = KNOWN[name]
        try:
            numbers = tuple(float(word) for word in words)
        except ValueError:
            numbers = ()
        fits = all(known.least <= number < 1e6 and (number == int(number) or not known.whole) for number in numbers)
        if len(numbers) != known.form.count(":") or len(words) != len(numbers) or not fits:
            kind = "whole numbers" if known.whole else "numbers"
            raise UserError(f"augmentation {spec!r}: write {known.form} with {kind} of at least {known.least:g}")
        if known.apply is None and position != len(specs) - 1:
            raise UserError(
                f"augmentation {spec!r} mixes two images, and those after it would treat them as one: put it last"
            )
        steps.append((known, numbers))
    return steps


def _forms() -> str:
    return ", ".join(known.form for known in KNOWN.values())

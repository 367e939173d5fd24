"""A picture of one digit -> 28 x 28, light on black, as MNIST's images were made.

The background is found in up to four steps, each of which is named in ``Digit.note`` where it was needed: what lies
around a page or card is cut off (``pages.py``); the background is the median colour of the border; where light falls
unevenly, it is a smooth surface through the border's colours; the rules of lined or squared paper are removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from compare.data import pages
from compare.data.images import ImageError
from compare.data.pages import FAINT, border

SIDE, BOX = 28, 20  # of MNIST: the image, and the box that the digit was fitted into
WORKING_SIDE = 1024  # pixels of a larger picture are averaged before anything is looked for in it
UNEVEN = 8  # of 255: how far a tenth of the border may be from its median colour on an evenly lit page
SURFACE_SIDE = 64  # pixels a side that the background's surface is fitted to
FRAMES = 3  # cards on cards, frames in frames
RULES = 1.15  # ink is more than this many times the faint rules of a paper, which reach its border


@dataclass(frozen=True)
class Digit:
    """What a network of digits sees: ``pixels`` uint8 (28, 28, 1), and what was done that a user may doubt."""

    pixels: np.ndarray
    note: str = ""


def find_digit(image: Image.Image) -> Digit:
    """One digit in any colours on any plain background, as MNIST has its digits.

    Those are fitted into a box of 20 x 20 pixels, keeping their proportions, antialiased, and set into
    28 x 28 so that the centre of mass of the ink lies in the middle (LeCun, Cortes & Burges, "The MNIST
    database of handwritten digits").

    A test image of MNIST itself comes out as it was, its brightest pixel made 255.
    """
    strokes, note = ink(image)
    digit = trimmed(strokes, faintest=1)
    if max(digit.size) != BOX:  # else somebody has done all this before us, and its edges count
        digit = trimmed(pages.cleaned(strokes), faintest=FAINT)
    scale = BOX / max(digit.size)
    w, h = (max(round(scale * side), 1) for side in digit.size)
    digit = digit.resize((w, h), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    pixels = np.asarray(digit, np.float32)
    pixels *= 255 / pixels.max()  # thin lines became pale
    field = np.zeros((SIDE, SIDE, 1), np.uint8)
    top, left = (corner(pixels.sum(axis=axis)) for axis in (1, 0))
    field[top : top + h, left : left + w, 0] = pixels.round()
    return Digit(field, note)


def trimmed(strokes: np.ndarray, *, faintest: int) -> Image.Image:
    """The smallest rectangle that holds all ink (h, w) of at least ``faintest``."""
    place = extent(strokes >= faintest)
    if place is None:
        raise ImageError("shows no digit: nothing in it stands out from its border")
    return Image.fromarray(strokes[place])


def extent(mask: np.ndarray) -> tuple[slice, slice] | None:
    """The smallest rectangle with everything that is true in (h, w), None if nothing is."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else None


def ink(image: Image.Image) -> tuple[np.ndarray, str]:
    """How far each pixel is from the background, 0 to 255, uint8 (h, w), and a note on what was taken for it."""
    if factor := min(image.size) // WORKING_SIDE:
        image = image.reduce(factor)
    notes = []
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"))
        if np.median(border(alpha)) < 128 and not is_card(image):
            return alpha, ""
        image = opaque(image, alpha)
        if np.median(border(alpha)) < 128:
            notes.append("the transparent margin was cut off")
    image = image.convert("RGB")
    for _ in range(FRAMES):
        found = pages.find_page(image)
        if found is None:
            break
        corners, outside = found
        notes.append(f"the {colour_name(outside)} margin around a page or card was cut off")
        image = pages.cut(image, corners)
    pixels = np.asarray(image).astype(np.int32)
    strokes, uneven = contrast(pixels)
    if uneven:
        notes.append("uneven light was evened out")
    plain = pages.unruled(strokes)
    if plain is not strokes:
        notes.append("lines from border to border were removed")
    name = colour_name(ground_of(pixels))
    if notes or (plain >= FAINT).mean() > 0.4:
        notes.append(f"{name} was taken for the background")
    return plain, "; ".join(notes)


def contrast(pixels: np.ndarray) -> tuple[np.ndarray, bool]:
    """Distance of each pixel (h, w, 3) from the background, uint8 (h, w), and whether the light was uneven.

    Unevenness that nine in ten border pixels show belongs to the background.
    """
    distance = np.abs(pixels - ground_of(pixels)).max(axis=2)
    floor = np.percentile(border(distance), 90)
    uneven = False
    if floor > UNEVEN and min(pixels.shape[:2]) >= 8:
        background = surface(pixels)
        reach = np.maximum(background, 255 - background).max(axis=2)  # the same ink is further from lighter paper
        surfaced = np.abs(pixels - background).max(axis=2) * (reach.max() / reach)
        if (lower := np.percentile(border(surfaced), 90)) < floor / 2:
            distance, floor, uneven = surfaced, lower, True
    edge, strong = RULES * np.percentile(border(distance), 99.5), np.percentile(distance, 99.5)
    ruled = FAINT < edge < strong / 2 and min(pixels.shape[:2]) >= pages.SMALLEST
    level = min(int(max(floor, edge) if ruled else floor), 254)
    strokes = (distance.astype(np.int32) - level).clip(0) * 255 // (255 - level)
    return strokes.clip(0, 255).astype(np.uint8), uneven


def surface(pixels: np.ndarray) -> np.ndarray:
    """The background of an unevenly lit page (h, w, 3): a quadratic surface of each colour, fitted without the ink.

    It begins with the border, which is background, and takes in, a few times, all pixels near the last fit.
    """
    h, w = pixels.shape[:2]
    rows, columns = (np.linspace(0, side - 1, min(side, SURFACE_SIDE)).round().astype(int) for side in (h, w))
    sample = pixels[np.ix_(rows, columns)].astype(np.float64)
    terms = quadratic(rows / h, columns / w)
    chosen = np.zeros(sample.shape[:2], bool)
    chosen[[0, -1]] = chosen[:, [0, -1]] = True
    for _ in range(8):
        weights = np.linalg.lstsq(terms[chosen], sample[chosen], rcond=None)[0]
        residual = np.abs(sample - terms @ weights).max(axis=2)
        chosen = residual <= max(2 * float(np.median(residual[chosen])), 4.0)
    return quadratic(np.arange(h) / h, np.arange(w) / w) @ weights


def quadratic(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1, x, y, x², xy, y² on a grid: (h, w, 6)."""
    y, x = np.meshgrid(y, x, indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


# --- transparency -----------------------------------------------------------------------------------------------------


def is_card(image: Image.Image) -> bool:
    """Whether what is opaque of an RGBA picture is a page with ink on it, rather than the ink."""
    pixels = np.asarray(image)
    place = extent(pixels[..., 3] >= 128)
    if place is None:
        return False
    inside = pixels[place]
    solid = inside[..., 3] >= 250
    if solid.mean() < 0.6:
        return False
    colours = inside[..., :3][solid].astype(np.int32)
    return bool((np.abs(colours - np.median(colours, axis=0)).max(axis=1) > 3 * FAINT).mean() > 0.005)


def opaque(image: Image.Image, alpha: np.ndarray) -> Image.Image:
    """An RGBA picture cut to what is opaque, on the colour of its opaque border."""
    place = extent(alpha >= 128)
    if place is None:
        return image.convert("RGB")
    image = image.crop((place[1].start, place[0].start, place[1].stop, place[0].stop))
    seen = border(np.asarray(image.getchannel("A"))) >= 250
    colours = border(np.asarray(image.convert("RGB")))
    ground = np.median(colours[seen] if seen.any() else colours, axis=0).astype(int).tolist()
    return Image.alpha_composite(Image.new("RGBA", image.size, tuple(ground)), image).convert("RGB")


# --- parts ------------------------------------------------------------------------------------------------------------


def ground_of(pixels: np.ndarray) -> np.ndarray:
    """The median colour of the border of (h, w, 3): int (3,)."""
    return np.median(border(pixels), axis=0).astype(np.int32)


def colour_name(rgb: np.ndarray) -> str:
    """A grey by its name, any other colour as #rrggbb."""
    if np.ptp(rgb) > 24:
        return "#" + "".join(f"{int(value):02x}" for value in rgb)
    level = float(rgb.mean())
    return "black" if level < 48 else "dark grey" if level < 112 else "light grey" if level < 208 else "white"


def corner(sums: np.ndarray) -> int:
    """Where a row of column sums begins so that its centre of mass comes to the middle; it stays inside the field."""
    centre = np.average(np.arange(len(sums)), weights=sums)
    return int(np.clip(round(SIDE / 2 - centre), 0, SIDE - len(sums)))

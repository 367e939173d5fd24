"""Pictures from anywhere, and how they become what a network was trained on.

``open_image``   a file or its content -> upright, 8 bits per channel; what is broken or lies about its size is refused
``to_digit``     a picture of one digit -> 28 x 28, light on black, as MNIST's were made
``to_square``    any picture -> its largest centred square, scaled
"""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps

from compare.errors import UserError

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # with at most 8 bits per channel

SIDE, BOX = 28, 20  # of MNIST: the image, and the box that the digit was fitted into
WORKING_SIDE = 1024  # pixels of a larger picture are averaged before anything is looked for in it
FAINT = 24  # of 255: where the ink is less, the digit has ended


class ImageError(UserError):
    """A file that is no picture, or a picture without anything to see."""


def open_image(source: Path | bytes) -> Image.Image:
    """The picture in a file or its content, turned upright (EXIF), of kind L, RGB or RGBA; of an animation the first.

    Of 16 bits per pixel the upper 8 are kept. Raises ImageError with what is wrong; the caller knows what
    the file was wanted for, and names it.
    """
    try:
        if isinstance(source, bytes):
            file: Path | io.BytesIO = io.BytesIO(source)
            size = len(source)
        else:
            file, size = source, source.stat().st_size
        with Image.open(file, formats=tuple(set(FORMATS.values()))) as image:
            limit = min(PIXEL_LIMIT, PIXELS_PER_BYTE * size)
            if image.width * image.height > limit:
                raise ImageError(f"claims {image.width} x {image.height} pixels, more than the {limit:,} it may have")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if upright.mode not in MODES:
                raise ImageError(f"has pixels of the kind {upright.mode}; convert it to 8 bits per channel")
            if "A" in upright.mode or "transparency" in upright.info:
                return upright.convert("RGBA")
            return upright.convert("L" if upright.mode in ("1", "L") else "RGB")
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like on a broken file
        raise ImageError(f"is not a readable image ({error})") from error


def to_square(image: Image.Image, *, size: int, channels: int) -> np.ndarray:
    """The largest centred square, scaled (bilinear, antialiased): uint8 (size, size, c).

    Three channels are colour (grey pictures get three equal ones), one is grey (ITU-R 601 luma of
    colour pictures); transparent pixels become black.
    """
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("RGB" if channels == 3 else "L").crop((left, top, left + side, top + side))
    scaled = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(scaled).reshape(size, size, channels)


# --- digits -----------------------------------------------------------------------------------------------------------


def to_digit(image: Image.Image) -> np.ndarray:
    """One digit in whatever colours on whatever plain ground, as MNIST has its digits: uint8 (28, 28, 1).

    Those are fitted into a box of 20 x 20 pixels, keeping their proportions, antialiased, and set into
    28 x 28 so that the centre of mass of the ink lies in the middle (LeCun, Cortes & Burges, "The MNIST
    database of handwritten digits").

    A test image of MNIST itself comes out as it was, its brightest pixel made 255.
    """
    strokes = ink(image)
    digit = trimmed(strokes, faintest=1)
    if max(digit.size) != BOX:  # else somebody has done all this before us, and its edges count
        digit = trimmed(strokes, faintest=FAINT)
    scale = BOX / max(digit.size)
    w, h = (max(round(scale * side), 1) for side in digit.size)
    digit = digit.resize((w, h), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    pixels = np.asarray(digit, np.float32)
    pixels *= 255 / pixels.max()  # thin lines became pale
    field = np.zeros((SIDE, SIDE, 1), np.uint8)
    top, left = (corner(pixels.sum(axis=axis)) for axis in (1, 0))
    field[top : top + h, left : left + w, 0] = pixels.round()
    return field


def trimmed(strokes: np.ndarray, *, faintest: int) -> Image.Image:
    """The smallest rectangle that holds all ink (h, w) of at least ``faintest``."""
    rows, columns = (np.flatnonzero((strokes >= faintest).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise ImageError("shows no digit: all of it has the colour of the border")
    return Image.fromarray(strokes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def ink(image: Image.Image) -> np.ndarray:
    """How far each pixel is from the background, 0 to 255: uint8 (h, w).

    The background is the median colour of the border, whether light or dark; where the border is
    transparent, it is what is transparent. Unevenness that nine in ten border pixels show is background too.
    """
    if factor := min(image.size) // WORKING_SIDE:
        image = image.reduce(factor)
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"))
        if np.median(border(alpha)) < 128:
            return alpha
        ground = median_colour(image.convert("RGB"), border(alpha) >= 128)
        image = Image.alpha_composite(Image.new("RGBA", image.size, ground), image)
    image = image.convert("RGB")
    differences = ImageChops.difference(image, Image.new("RGB", image.size, median_colour(image)))
    distance = np.asarray(functools.reduce(ImageChops.lighter, differences.split()), np.int32)  # of any channel
    floor = min(int(np.percentile(border(distance), 90)), 254)
    return ((distance - floor).clip(0) * 255 // (255 - floor)).astype(np.uint8)


def border(pixels: np.ndarray) -> np.ndarray:
    """The outermost pixels of (h, w) or (h, w, c), in a row: (n,) or (n, c)."""
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


def median_colour(image: Image.Image, where: np.ndarray | slice = slice(None)) -> tuple[int, ...]:
    """Of the border pixels of an RGB picture, those of ``where``."""
    return tuple(int(value) for value in np.median(border(np.asarray(image))[where], axis=0))


def corner(sums: np.ndarray) -> int:
    """Where a row of column sums begins so that its centre of mass comes to the middle; it stays inside the field."""
    centre = np.average(np.arange(len(sums)), weights=sums)
    return int(np.clip(round(SIDE / 2 - centre), 0, SIDE - len(sums)))


FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP",
    ".ppm": "PPM", ".pgm": "PPM",
}  # fmt: skip


PIXEL_LIMIT = 40_000_000


PIXELS_PER_BYTE = 10_000  # flat PNGs reach 8,000: a header that claims more is lying, and is given no memory

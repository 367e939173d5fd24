"""Pictures from anywhere, as a network that was trained on photos or small images sees them.

``open_image``   a file or its content -> upright, 8 bits per channel; broken and oversized files are refused
``to_square``    any picture -> its largest centred square, scaled

How a picture becomes a digit of MNIST is in ``digits.py``.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from compare.errors import UserError

PIXEL_LIMIT = 40_000_000  # JPEGs with more are read at a half, a quarter or an eighth of their size
PIXELS_PER_BYTE = 10_000  # flat PNGs reach 8,000; a header that claims more gets no memory
HARMLESS = 4_000_000  # pixels that any file may have
BYTE_LIMIT = 256 << 20
NOT_READ = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}  # programs, Windows only, and formats without a decoder
COMMON = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".gif": "GIF", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}
GREY_DEPTHS = (8, 10, 12, 14, 16, 32)  # bits that cameras and scanners use of a deep grey pixel
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what makes it upright
ORIENTATION = 0x0112


class ImageError(UserError):
    """A file that is no picture, or a picture without anything to see."""


@cache
def suffixes() -> dict[str, str]:
    """File suffix -> format of everything that the installed Pillow decodes."""
    known = {suffix: form for suffix, form in Image.registered_extensions().items() if form in Image.OPEN}
    return COMMON | {suffix: form for suffix, form in known.items() if form not in NOT_READ}


def open_image(source: Path | bytes) -> Image.Image:
    """The picture in a file or its content: upright (EXIF), mode L, RGB or RGBA; the first of an animation.

    Deep greys are scaled by the bits that they use (8, 10, 12, 14 or 16). Raises ImageError with the reason; the
    caller names the file.
    """
    raw = source if isinstance(source, bytes) else _content(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fields that are not used here
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(_without_text(raw)), formats=sorted(set(suffixes().values()))) as image:
                _bound(image, len(raw))
                image.load()
                return _plain(_upright(image))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, or claims so: scale it down below "
            f"{PIXEL_LIMIT // 10**6} megapixels"
        ) from error
    except Exception as error:  # Pillow's decoders raise what they like on a broken file
        if raw[4:8] == b"ftyp" and raw[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
            raise ImageError("is a HEIC photo, which cannot be read here: save it as a JPEG file") from error
        problem = "of no known format" if isinstance(error, UnidentifiedImageError) else error
        problem = problem if raw else "it is empty"
        raise ImageError(f"is not a readable image ({problem}): give it as a PNG or JPEG file") from error


def _content(path: Path) -> bytes:
    if path.is_file() and path.stat().st_size > BYTE_LIMIT:
        raise ImageError(f"has more than {BYTE_LIMIT >> 20} MB: scale it down")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror or error})") from error


def _without_text(raw: bytes) -> bytes:
    """A PNG without its texts and colour profile, whose size Pillow limits; any other content unchanged."""
    if not raw.startswith(b"\x89PNG\r\n\x1a\n"):
        return raw
    return raw[:8] + b"".join(chunk for kind, chunk in _chunks(raw) if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"))


def _chunks(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and bytes of each chunk of a PNG; the last may be cut short."""
    at = 8
    while at < len(raw):
        length = struct.unpack(">I", raw[at : at + 4].ljust(4, b"\0"))[0]
        yield raw[at + 4 : at + 8], raw[at : at + 12 + length]
        at += 12 + length


def _bound(image: Image.Image, size: int) -> None:
    """Refuse what claims or needs too much memory; have a large JPEG decoded at a smaller scale."""
    width, height = image.size
    believed = max(PIXELS_PER_BYTE * size, HARMLESS)
    if width * height > believed:
        raise ImageError(
            f"claims {width} x {height} pixels, more than the {believed:,} it may have with {size:,} bytes"
        )
    scale = next((scale for scale in (1, 2, 4, 8) if width * height <= PIXEL_LIMIT * scale**2), 8)
    if scale > 1:
        image.draft(None, (width // scale, height // scale))  # does nothing to formats other than JPEG
    if image.width * image.height > 1.01 * PIXEL_LIMIT:
        raise ImageError(f"has {width} x {height} pixels: scale it down below {PIXEL_LIMIT // 10**6} megapixels")


def _upright(image: Image.Image) -> Image.Image:
    """Turned and mirrored as EXIF says. Nothing is written back: other fields of it may be broken."""
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # no readable EXIF, no orientation
        return image
    return image.transpose(TURNED[orientation]) if orientation in TURNED else image


def _plain(image: Image.Image) -> Image.Image:
    """Mode L, RGB or RGBA."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(eight_bits(np.asarray(image)))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def eight_bits(grey: np.ndarray) -> np.ndarray:
    """Deep grey pixels (h, w), integers or floats in 0 .. 1, as uint8 by the smallest usual depth that holds them."""
    largest = float(grey.max())
    if not np.isfinite(grey).all() or grey.min() < 0:
        raise ImageError("has pixels that are negative or not finite: save it with 8 bits per channel")
    if grey.dtype.kind == "f" and largest <= 1:
        return (grey * 255).round().astype(np.uint8)
    depth = next((depth for depth in GREY_DEPTHS if largest < 2**depth), None)
    if depth is None:
        raise ImageError("has pixels of more than 32 bits: save it with 8 bits per channel")
    return (grey.astype(np.uint32) >> (depth - 8)).astype(np.uint8)


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

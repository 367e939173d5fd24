"""Pictures from anywhere: what MNIST's own images go through unchanged, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

from compare import data
from compare.data import images
from compare.data.digits import find_digit
from compare.data.images import ImageError, open_image, to_square
from compare.data.pages import find_page
from compare.predict import load_image


def to_digit(image: Image.Image) -> np.ndarray:
    """What a network of digits sees, without the note."""
    return find_digit(image).pixels


def drawn(
    size: tuple[int, int], box: tuple[int, int, int, int], ink: str = "black", paper: str = "white"
) -> Image.Image:
    image = Image.new("RGB", size, paper)
    ImageDraw.Draw(image).rectangle(box, ink)
    return image


# --- digits -----------------------------------------------------------------------------------------------------------


def test_mnist_images_pass_unchanged() -> None:
    test_x = data.load("mnist").test_x[:500]
    digits = np.stack([to_digit(Image.fromarray(x[..., 0])) for x in test_x])
    brightest = test_x.max(axis=(1, 2, 3), keepdims=True)  # 254 or 255: it becomes 255
    np.testing.assert_array_equal(digits, (test_x * (255 / brightest)).round())


def test_longer_side_becomes_20_pixels_and_centre_of_mass_is_centred() -> None:
    digit = to_digit(drawn((300, 200), (220, 10, 259, 169)))  # 40 x 160, in a corner
    rows, columns = (np.flatnonzero(digit[..., 0].any(axis=axis)) for axis in (1, 0))
    assert (len(rows), len(columns)) == (20, 5)
    assert digit.shape == (28, 28, 1)
    assert np.average(np.arange(28), weights=digit.sum(axis=(1, 2))) == pytest.approx(14, abs=0.51)
    lopsided = drawn((300, 300), (20, 20, 279, 40))
    ImageDraw.Draw(lopsided).rectangle((200, 20, 230, 279), "black")  # a square 7
    field = to_digit(lopsided)[..., 0].astype(float)
    assert 13.5 <= np.average(np.arange(28), weights=field.sum(axis=0)) <= 14.5


def test_edges_are_antialiased() -> None:
    image = Image.new("L", (400, 400), 255)
    ImageDraw.Draw(image).ellipse((50, 50, 350, 330), outline=0, width=40)
    assert len(np.unique(to_digit(image))) > 20


@pytest.mark.parametrize(("ink", "paper"), [("black", "white"), ("white", "black"), ("#ff0000", "#008200")])
def test_digit_of_any_ink_and_paper_colour(ink: str, paper: str) -> None:
    """The last pair has one luma: as grey there would be nothing to see."""
    expected = to_digit(drawn((100, 100), (40, 20, 60, 80)))
    np.testing.assert_array_equal(to_digit(drawn((100, 100), (40, 20, 60, 80), ink, paper)), expected)


@pytest.mark.parametrize("ink", ["black", "white"])
def test_digit_on_a_transparent_background(ink: str) -> None:
    image = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((40, 20, 60, 80), ink)
    np.testing.assert_array_equal(to_digit(image), to_digit(drawn((100, 100), (40, 20, 60, 80))))


def test_card_with_transparent_corners() -> None:
    image = drawn((100, 100), (40, 20, 60, 80)).convert("RGBA")
    for corner in [(0, 0, 5, 5), (94, 94, 99, 99)]:
        ImageDraw.Draw(image).rectangle(corner, (0, 0, 0, 0))
    np.testing.assert_array_equal(to_digit(image), to_digit(drawn((100, 100), (40, 20, 60, 80))))


def test_uneven_background_is_ignored(rng: np.random.Generator) -> None:
    clean = drawn((200, 200), (80, 40, 119, 159))
    noisy = np.asarray(clean, float) - np.linspace(0, 25, 200)[:, None, None] + rng.normal(0, 2, (200, 200, 3))
    digit = to_digit(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    assert np.abs(digit.astype(int) - to_digit(clean)).mean() < 2  # 0.6


@pytest.mark.parametrize("colour", ["white", "black", "#7f7f7f"])
def test_blank_picture_is_refused(colour: str) -> None:
    with pytest.raises(ImageError, match="shows no digit"):
        to_digit(Image.new("RGB", (40, 40), colour))


def cornered(size: tuple[int, int]) -> Image.Image:
    """White in the upper left ninth of a black picture."""
    image = Image.new("L", size)
    image.paste(255, (0, 0, max(size[0] // 3, 1), max(size[1] // 3, 1)))
    return image


@pytest.mark.parametrize("size", [(3, 3), (5, 400), (3000, 40), (2500, 2500)])
def test_digit_of_any_picture_size_fills_the_range(size: tuple[int, int]) -> None:
    assert to_digit(cornered(size)).max() == 255


@pytest.mark.parametrize("size", [(1, 2), (2, 1)])
def test_two_pixels_are_refused(size: tuple[int, int]) -> None:
    """Neither can be called the background."""
    with pytest.raises(ImageError, match="shows no digit"):
        to_digit(cornered(size))


# --- backgrounds ------------------------------------------------------------------------------------------------------


def seven(side: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A drawn seven as a share of ink (h, w), and what a network sees of it in black on white."""
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    unit = side // 8
    pen.line([(3 * unit, 2 * unit), (5.6 * unit, 2 * unit), (4 * unit, 6.2 * unit)], 255, unit // 2, joint="curve")
    return np.asarray(image) / 255, to_digit(ImageOps.invert(image))


def page(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def difference(digit: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(digit.astype(int) - expected).mean())


@pytest.mark.parametrize("light", ["vignette", "from the left"])
def test_uneven_light_is_evened_out_with_a_note(light: str, rng: np.random.Generator) -> None:
    ink, expected = seven()
    y, x = np.mgrid[-1:1:400j, -1:1:400j]
    paper = 225 - 85 * (x * x + y * y) / 2 if light == "vignette" else 190 + 50 * x
    found = find_digit(page(paper * (1 - ink) + 40 * ink + rng.normal(0, 2, ink.shape)))
    assert difference(found.pixels, expected) < 4  # 1.5; 60 of what a median colour leaves
    assert "uneven light was evened out" in found.note


@pytest.mark.parametrize("edges", [(12, 12, 12, 12), (20, 3, 9, 5)])
def test_frame_of_a_scanner_is_cut_off_with_a_note(edges: tuple[int, ...]) -> None:
    ink, expected = seven()
    pixels = 255 - 255 * ink
    top, bottom, left, right = edges
    pixels[:top], pixels[-bottom:], pixels[:, :left], pixels[:, -right:] = 0, 0, 0, 0
    found = find_digit(page(pixels))
    assert difference(found.pixels, expected) < 4
    assert "the black margin around a page or card was cut off" in found.note
    assert "white was taken for the background" in found.note


@pytest.mark.parametrize("margin", [(0, 0, 0, 0), (120, 120, 120, 255), (0, 40, 90, 255)])
def test_digit_on_a_card_is_read(margin: tuple[int, ...]) -> None:
    ink, expected = seven()
    card = Image.new("RGBA", (500, 560), margin)
    card.paste(page(255 - 255 * ink).convert("RGBA"), (40, 90))
    found = find_digit(card)
    assert difference(found.pixels, expected) < 4
    assert "was cut off" in found.note


@pytest.mark.parametrize("size", [(64, 8000), (8000, 64), (65, 66)])
@pytest.mark.parametrize("edge", [1, 3])
def test_frame_of_a_picture_of_any_shape_is_no_error(size: tuple[int, int], edge: int) -> None:
    image = Image.new("L", size, 0)
    image.paste(255, (edge, edge, size[0] - edge, size[1] - edge))
    image.paste(60, (size[0] // 2 - 8, size[1] // 2 - 12, size[0] // 2 + 8, size[1] // 2 + 12))
    assert find_digit(image).pixels.max() == 255


@pytest.mark.parametrize("turn", [-40, -14, 0, 9, 31])
def test_turned_card_is_straightened(turn: float) -> None:
    ink, expected = seven()
    card = Image.merge("RGBA", (*[page(255 - 255 * ink)] * 3, Image.new("L", (400, 400), 255)))
    table = Image.new("RGBA", (620, 620), (90, 60, 40, 255))
    turned = card.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    table.alpha_composite(turned, ((620 - turned.width) // 2, (620 - turned.height) // 2))
    found = find_digit(table.convert("RGB"))
    assert "the dark grey margin around a page or card was cut off" in found.note.replace("#5a3c28", "dark grey")
    shifted = [np.roll(found.pixels, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert min(difference(each, expected) for each in shifted) < 8


def test_edge_of_a_shadow_is_no_edge_of_a_page() -> None:
    ink, _ = seven()
    x = np.linspace(-1, 1, 400)
    shade = 1 - 0.4 / (1 + np.exp(-9 * x))
    assert find_page(page((235 * (1 - ink) + 30 * ink) * shade).convert("RGB")) is None


def test_rectangular_zero_is_no_card() -> None:
    zero = drawn((200, 200), (60, 40, 140, 160))
    ImageDraw.Draw(zero).rectangle((80, 60, 120, 140), "white")
    found = find_digit(zero)
    assert found.note == ""
    assert found.pixels[14, 14] < 40


def test_plain_picture_has_no_note() -> None:
    ink, _ = seven()
    assert find_digit(page(255 - 255 * ink)).note == ""
    assert find_digit(page(255 * ink)).note == ""


# --- files ------------------------------------------------------------------------------------------------------------


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: 90° clockwise makes it upright
    drawn((40, 20), (0, 0, 9, 19)).save(tmp_path / "x.jpg", exif=exif, quality=95)
    upright = open_image(tmp_path / "x.jpg")
    assert upright.size == (20, 40)
    assert np.asarray(upright.convert("L"))[:8].max() < 100  # what was left is above


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_pixel_mode_gives_the_same_digit(mode: str, tmp_path: Path) -> None:
    image = drawn((60, 60), (20, 10, 30, 50))
    expected = to_digit(image)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    (image if mode == "I;16" else image.convert(mode)).save(path)
    difference = np.abs(to_digit(load_image(path)).astype(int) - expected)
    assert difference.mean() < 5 if mode == "CMYK" else not difference.any()


def test_centred_square_is_cropped_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    assert (to_square(Image.fromarray(wide), size=2, channels=3) == 200).all()
    assert to_square(Image.fromarray(wide), size=6, channels=1).shape == (6, 6, 1)


def png_that_claims(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    raw = bytearray(file.getvalue())
    raw[16:24] = struct.pack(">2I", width, height)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return bytes(raw)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not a readable image .*give it as a PNG or JPEG file"),
        (b"GIF89a, or so it says", "is not a readable image .*give it as a PNG or JPEG file"),
        (png_that_claims(9, 9), "is not a readable image .*give it as a PNG or JPEG file"),
        (
            png_that_claims(50_000, 50_000),
            "has more than [0-9,]+ pixels, or claims so: scale it down below 40",
        ),
        (png_that_claims(6_000, 6_000), "claims 6000 x 6000 pixels, more than the 4,000,000 it may have with 69 bytes"),
    ],
)
def test_unreadable_picture_is_refused_by_name(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"x\.png: {problem}"):
        load_image(path)


def test_damaged_pictures_raise_image_error_only(rng: np.random.Generator, tmp_path: Path) -> None:
    for name in ("x.png", "x.jpg", "x.gif", "x.webp"):
        refused = 0
        file = io.BytesIO()
        drawn((50, 50), (20, 10, 30, 40)).save(file, "JPEG" if name == "x.jpg" else name[2:])
        path = tmp_path / name
        for _ in range(60):
            raw = bytearray(file.getvalue())[: rng.integers(1, len(file.getvalue()) + 1)]
            for at in rng.integers(0, len(raw), 3):
                raw[at] = rng.integers(256)
            path.write_bytes(raw)
            try:
                to_digit(load_image(path))
            except ImageError:
                refused += 1
        assert refused > 30, name


# --- pictures that Pillow can read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["12 bits in 16", "16-bit PGM", "float TIFF", "3 MB of text", "broken EXIF"])
def test_readable_picture_is_not_refused(kind: str, tmp_path: Path) -> None:
    ink, expected = seven(120)
    grey = np.asarray(page(255 - 255 * ink))
    path = tmp_path / {"16-bit PGM": "x.pgm", "float TIFF": "x.tif", "broken EXIF": "x.jpg"}.get(kind, "x.png")
    if kind == "12 bits in 16":
        Image.fromarray(grey.astype(np.uint16) * 16).save(path)
    elif kind == "16-bit PGM":
        path.write_bytes(b"P5 120 120 65535\n" + (grey.astype(">u2") * 257).tobytes())
    elif kind == "float TIFF":
        Image.fromarray((grey / 255).astype(np.float32)).save(path)
    elif kind == "broken EXIF":
        Image.fromarray(grey).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff", quality=100)
    else:
        text = PngImagePlugin.PngInfo()
        text.add_text("prompt", "x" * 3_000_000, zip=True)
        Image.fromarray(grey).save(path, pnginfo=text)
    assert difference(to_digit(load_image(path)), expected) < 2


def test_large_jpeg_is_read_reduced_and_a_large_png_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "PIXEL_LIMIT", 1_000_000)
    photo = drawn((3000, 2000), (1000, 400, 2000, 1600))
    photo.save(tmp_path / "x.jpg")
    assert load_image(tmp_path / "x.jpg").size == (750, 500)
    photo.save(tmp_path / "x.png")
    with pytest.raises(ImageError, match=r"x\.png: has 3000 x 2000 pixels: scale it down below 1 megapixels"):
        load_image(tmp_path / "x.png")


def test_heic_photo_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(ImageError, match=r"x\.jpg: is a HEIC photo, .*save it as a JPEG"):
        load_image(tmp_path / "x.jpg")

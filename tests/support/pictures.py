"""Pictures of digits as people take them: phones, scanners, screenshots, pens, papers, cards, uneven light.

    PYTHONPATH=.:tests python -m support.pictures OUT      writes them all as files, to look at

The ink is handwriting of MNIST's test images, enlarged, or digits drawn with pens of several widths.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from support.ink import SIDE, Ink, Rng, inked

# --- papers, light and cameras ----------------------------------------------------------------------------------------


def paint(ground: np.ndarray | tuple[float, ...], ink: Ink, colour: tuple[float, ...]) -> np.ndarray:
    """Pixels (h, w, 3), float."""
    share = ink[..., None]
    return np.asarray(ground, np.float64) * (1 - share) + np.array(colour, np.float64) * share


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates from -1 to 1."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    return y, x


def camera(pixels: np.ndarray, rng: Rng, *, noise: float = 3, blur: float = 0.8) -> Image.Image:
    """As a phone saves it: a little blurred, noisy, JPEG."""
    image = picture(pixels).filter(ImageFilter.GaussianBlur(blur))
    noisy = np.asarray(image, np.float64) + rng.normal(0, noise, pixels.shape)
    file = io.BytesIO()
    picture(noisy).save(file, "JPEG", quality=80)
    return Image.open(file)


def light(rng: Rng, *, depth: float = 0.45) -> np.ndarray:
    """How bright each place is (h, w, 1): a lamp on one side and darker corners."""
    y, x = grid()
    angle = rng.uniform(0, 2 * np.pi)
    lamp = 0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y) / 1.42
    return (1 - depth * lamp - 0.15 * (x * x + y * y))[..., None]


def rules(rng: Rng, *, across: bool, every: int, width: int = 2, tilt: float = 0.0) -> Ink:
    """The lines of lined paper, or with ``across`` of squared paper, as a share of their ink."""
    image = Image.new("L", (2 * SIDE, 2 * SIDE))
    draw = ImageDraw.Draw(image)
    for at in range(int(rng.integers(every)), 2 * SIDE, every):
        draw.line((0, at, 2 * SIDE, at), 255, width)
        if across:
            draw.line((at, 0, at, 2 * SIDE), 255, width)
    turned = image.rotate(tilt, Image.Resampling.BICUBIC)
    return np.asarray(turned, np.float64)[SIDE // 2 : -SIDE // 2, SIDE // 2 : -SIDE // 2] / 255


def wood(size: tuple[int, int], rng: Rng) -> np.ndarray:
    """A table (h, w, 3)."""
    h, w = size
    grain = np.cumsum(rng.normal(0, 3, h))[:, None] + rng.normal(0, 6, (h, w))
    return np.array([120, 82, 50]) + (grain - grain.mean())[..., None].clip(-30, 30) * [1, 0.8, 0.6]


def laid(card: np.ndarray, table: np.ndarray, *, turn: float) -> np.ndarray:
    """A card (h, w, 3) laid on a table (h, w, 3), turned by degrees."""
    h, w = card.shape[:2]
    opaque = Image.merge("RGBA", (*picture(card).split(), Image.new("L", (w, h), 255)))
    turned = opaque.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    whole = picture(table).convert("RGBA")
    whole.alpha_composite(turned, ((whole.width - turned.width) // 2, (whole.height - turned.height) // 2))
    return np.asarray(whole.convert("RGB"), np.float64)


Kind = Callable[[Ink, Rng], Image.Image]


def lined(ink: Ink, rng: Rng) -> Image.Image:
    page = paint((246, 245, 240), rules(rng, across=False, every=int(rng.integers(34, 60))), (150, 180, 215))
    return camera(paint(page, ink, (35, 40, 95)) * light(rng, depth=0.2), rng)


def squared(ink: Ink, rng: Rng) -> Image.Image:
    page = paint((248, 248, 244), rules(rng, across=True, every=int(rng.integers(24, 44))), (165, 190, 210))
    return camera(paint(page, ink, (40, 40, 45)), rng)


def lined_askew(ink: Ink, rng: Rng) -> Image.Image:
    tilt = rng.uniform(2, 9) * rng.choice([-1, 1])
    page = paint((240, 238, 228), rules(rng, across=False, every=int(rng.integers(34, 60)), tilt=tilt), (140, 165, 200))
    return camera(paint(page, ink, (30, 50, 140)) * light(rng, depth=0.3), rng)


def margin_line(ink: Ink, rng: Rng) -> Image.Image:
    page = paint((250, 249, 246), rules(rng, across=False, every=48), (160, 190, 220))
    _, x = grid()
    page = paint(page, (np.abs(x + 0.78) < 0.008).astype(float), (225, 120, 130))
    return camera(paint(page, ink, (25, 25, 30)), rng)


def dark_rules(ink: Ink, rng: Rng) -> Image.Image:
    """Rules as dark as the ink."""
    page = paint((255, 255, 255), rules(rng, across=True, every=60, width=1), (60, 60, 60))
    return picture(paint(page, ink, (40, 40, 40)))


def tilted_card(ink: Ink, rng: Rng) -> Image.Image:
    card = paint((244, 242, 236), ink, (30, 30, 40))
    table = np.full((SIDE + 170, SIDE + 170, 3), rng.choice([35.0, 70.0, 110.0]))
    return camera(laid(card, table, turn=rng.uniform(4, 20) * rng.choice([-1, 1])), rng)


def card_on_wood(ink: Ink, rng: Rng) -> Image.Image:
    card = paint((250, 248, 240), ink, (25, 35, 90)) * light(rng, depth=0.15)
    return camera(laid(card, wood((SIDE + 160, SIDE + 200), rng), turn=rng.uniform(-15, 15)), rng)


def sticky_note(ink: Ink, rng: Rng) -> Image.Image:
    card = paint((250, 232, 110), ink, (40, 40, 50))
    return camera(laid(card, np.full((SIDE + 120, SIDE + 140, 3), 205.0), turn=rng.uniform(-12, 12)), rng)


def perspective(ink: Ink, rng: Rng) -> Image.Image:
    """A sheet seen from the side."""
    card = picture(paint((245, 244, 240), ink, (30, 30, 30)))
    a, b, c, d = rng.uniform(0, 45, 4)
    h = w = SIDE + 120
    corners = [(40 + a, 40 + b), (40 + c, h - 40 - d), (w - 40 - a, h - 40 - b), (w - 40 - d, 40 + c)]
    source = [(0, 0), (0, SIDE), (SIDE, SIDE), (SIDE, 0)]
    rows = []
    for (x, y), (u, v) in zip(corners, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    sheet = card.convert("RGBA").transform(
        (w, h), Image.Transform.PERSPECTIVE, np.linalg.solve(rows, np.ravel(source)), Image.Resampling.BICUBIC
    )
    whole = Image.new("RGBA", (w, h), (60, 66, 72, 255))
    whole.alpha_composite(sheet)
    return camera(np.asarray(whole.convert("RGB"), np.float64), rng)


def scanner(ink: Ink, rng: Rng) -> Image.Image:
    pixels = paint((252, 252, 250), ink, (20, 20, 30))
    for side in range(4):
        edge = int(rng.integers(2, 20))
        np.rot90(pixels, side)[:edge] = 12
    return picture(pixels + rng.normal(0, 2, pixels.shape))


def window(ink: Ink, rng: Rng) -> Image.Image:
    """A screenshot of a drawing program: a title bar, a grey surround, the canvas."""
    whole = np.full((SIDE + 110, SIDE + 80, 3), 232.0)
    whole[:28] = (58, 62, 74)
    whole[70 : 70 + SIDE, 40 : 40 + SIDE] = paint((255, 255, 255), ink, (0, 0, 0))
    return picture(whole)


def transparent(ink: Ink, rng: Rng) -> Image.Image:
    card = Image.new("RGBA", (SIDE + 90, SIDE + 70), (0, 0, 0, 0))
    card.paste(picture(paint((255, 255, 255), ink, (20, 20, 20))).convert("RGBA"), (30, 50))
    return card


def chalk(ink: Ink, rng: Rng) -> Image.Image:
    dusty = ink * (rng.random(ink.shape) > 0.18)
    board = np.array([45, 80, 62]) + rng.normal(0, 5, (SIDE, SIDE, 1)) + 10 * light(rng)
    return camera(paint(board, dusty, (232, 236, 228)), rng)


def glare(ink: Ink, rng: Rng) -> Image.Image:
    y, x = grid()
    u, v = rng.uniform(-0.8, 0.8, 2)
    spot = np.exp(-((x - u) ** 2 + (y - v) ** 2) / 0.3)[..., None]
    return camera(paint((205, 208, 212), ink, (30, 60, 150)) * (1 - 0.25 * spot) + 255 * 0.25 * spot, rng)


def hand_shadow(ink: Ink, rng: Rng) -> Image.Image:
    y, x = grid()
    angle, where = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.5)
    shade = 1 - 0.35 / (1 + np.exp(-(np.cos(angle) * x + np.sin(angle) * y - where) * 9))
    return camera(paint((235, 233, 228), ink, (35, 35, 40)) * shade[..., None], rng)


def low_light(ink: Ink, rng: Rng) -> Image.Image:
    return camera(paint((96, 88, 76), ink, (28, 26, 30)) * light(rng), rng, noise=9, blur=1.5)


def deep_grey(ink: Ink, rng: Rng) -> Image.Image:
    return Image.fromarray(((1 - ink) * 3600 + 200 + rng.normal(0, 20, ink.shape)).clip(0, 4095).astype(np.uint16))


def fax(ink: Ink, rng: Rng) -> Image.Image:
    black = (ink > 0.5) | (rng.random(ink.shape) < 0.002)
    return picture(np.where(black, 0.0, 255.0)).convert("1")


def plain(paper: tuple[int, ...], colour: tuple[int, ...]) -> Kind:
    return lambda ink, rng: camera(paint(paper, ink, colour) * light(rng, depth=0.25), rng)


KINDS: dict[str, tuple[str, Kind]] = {  # name -> how the ink is made, what happens to it
    "lined paper": ("handwriting", lined),
    "lined paper, askew": ("handwriting", lined_askew),
    "squared paper": ("handwriting", squared),
    "exercise book with a margin": ("pen", margin_line),
    "squares as dark as the ink": ("handwriting", dark_rules),
    "tilted card": ("handwriting", tilted_card),
    "card on wood": ("handwriting", card_on_wood),
    "sticky note": ("pen", sticky_note),
    "sheet seen from the side": ("handwriting", perspective),
    "scanner with black edges": ("handwriting", scanner),
    "window screenshot": ("handwriting", window),
    "dark screenshot": ("pen", lambda ink, rng: picture(paint((30, 31, 36), ink, (225, 225, 230)))),
    "transparent margin": ("handwriting", transparent),
    "chalk on a board": ("handwriting", chalk),
    "whiteboard with glare": ("pen", glare),
    "shadow of a hand": ("handwriting", hand_shadow),
    "low light": ("handwriting", low_light),
    "12 bits of grey": ("handwriting", deep_grey),
    "fax": ("handwriting", fax),
    "faint pencil": ("handwriting", plain((238, 236, 230), (176, 175, 172))),
    "ballpoint on cream": ("thin", plain((244, 239, 226), (31, 58, 147))),
    "marker": ("thick", plain((235, 235, 235), (190, 30, 40))),
    "printed": ("printed", plain((250, 250, 250), (15, 15, 15))),
    "plain photo": ("handwriting", plain((225, 222, 215), (40, 40, 48))),
}


def draw(kind: str, digit: int, sample: int) -> Image.Image:
    """One picture; ``sample`` 0, 1, ... chooses the handwriting and whatever is random."""
    rng = np.random.default_rng([sum(kind.encode()), digit, sample])
    how, take = KINDS[kind]
    return take(inked(how, digit, rng), rng)


def every(samples: int) -> Iterator[tuple[str, int, Image.Image]]:
    """Kind, digit and picture: ``samples`` of each digit of each kind."""
    for kind in KINDS:
        for digit in range(10):
            for sample in range(samples):
                yield kind, digit, draw(kind, digit, sample)


# --- what shows no digit ----------------------------------------------------------------------------------------------


def strange(sample: int) -> Image.Image:
    """Something that is no digit: letters, scribbles, several strokes, photographs' textures."""
    rng = np.random.default_rng(sample)
    image = Image.new("L", (SIDE, SIDE), 255)
    pen, what = ImageDraw.Draw(image), sample % 5
    if what == 0:
        font = ImageFont.load_default(size=200)
        pen.text((SIDE / 2, SIDE / 2), str(rng.choice(list("AEFHKMNRWX&#@%"))), 0, font, anchor="mm", stroke_width=3)
    elif what == 1:
        points = [tuple(point) for point in rng.uniform(30, SIDE - 30, (int(rng.integers(8, 25)), 2))]
        pen.line(points, 0, 10, joint="curve")
    elif what == 2:
        font = ImageFont.load_default(size=90)
        pen.text((SIDE / 2, SIDE / 2), f"{rng.integers(100, 9999)}", 0, font, anchor="mm", stroke_width=3)
    elif what == 3:
        for _ in range(int(rng.integers(5, 30))):
            x, y, r = *rng.uniform(40, SIDE - 40, 2), rng.uniform(4, 25)
            pen.ellipse((x - r, y - r, x + r, y + r), 0)
    else:
        small = rng.integers(0, 256, (int(rng.integers(4, 16)),) * 2, dtype=np.uint8)
        image = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return image


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for kind, digit, image in every(1):
        image.save(out / f"{kind.replace(', ', '-').replace(' ', '-')}-{digit}.png")

"""Digits as ink: handwriting of MNIST's test images, enlarged, and digits drawn with pens or printed."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from compare.data import load

Ink = np.ndarray  # share of ink, float (h, w), 0 to 1
SIDE = 320  # pixels of a picture
Rng = np.random.Generator

Points = list[tuple[float, float]]


def arc(x: float, y: float, right: float, down: float, first: float, last: float) -> Points:
    """Points on an ellipse around (x, y), clockwise from ``first`` to ``last`` quarters of a turn past noon."""
    turns = np.linspace(first, last, 40) * np.pi / 2
    return [(x + right * np.sin(t), y - down * np.cos(t)) for t in turns]


# Strokes on a field of 1 x 1: points joined by straight lines.
STROKES: dict[int, list[Points]] = {
    0: [arc(0.5, 0.5, 0.24, 0.36, 0, 4)],
    1: [[(0.38, 0.28), (0.52, 0.14), (0.52, 0.86)]],
    2: [[*arc(0.5, 0.34, 0.22, 0.2, -1, 1.3), (0.27, 0.85), (0.76, 0.85)]],
    3: [arc(0.47, 0.31, 0.22, 0.17, -0.8, 1.8), arc(0.47, 0.67, 0.26, 0.2, 0, 2.7)],
    4: [[(0.6, 0.14), (0.24, 0.6), (0.8, 0.6)], [(0.62, 0.36), (0.62, 0.88)]],
    5: [[(0.74, 0.15), (0.36, 0.15), (0.32, 0.46), *arc(0.46, 0.65, 0.25, 0.22, -0.3, 2.5)]],
    6: [[(0.62, 0.12), (0.42, 0.34), *arc(0.5, 0.66, 0.2, -0.2, -1.2, 2.9)]],
    7: [[(0.25, 0.17), (0.75, 0.17), (0.43, 0.87)]],
    8: [arc(0.5, 0.32, 0.16, 0.17, 0, 4), arc(0.5, 0.68, 0.2, 0.19, 0, 4)],
    9: [[*arc(0.48, 0.33, 0.19, 0.19, 1, 5), (0.67, 0.33), (0.6, 0.87)]],
}


def pen(digit: int, width: float, rng: Rng) -> Ink:
    """A digit drawn with a pen of this width, a share of the picture's side, a little turned and stretched."""
    image = Image.new("L", (2 * SIDE, 2 * SIDE))
    draw = ImageDraw.Draw(image)
    turn, stretch = rng.uniform(-0.12, 0.12), rng.uniform(0.85, 1.1)
    for stroke in STROKES[digit]:
        points = (np.array(stroke) - 0.5) * (stretch, 1) @ [[1, 0], [turn, 1]] * 0.75 + 0.5
        dots = [tuple(2 * SIDE * point) for point in points]
        draw.line(dots, 255, round(2 * SIDE * width), joint="curve")
        for x, y in dots:
            r = SIDE * width
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return np.asarray(image.reduce(2), np.float64) / 255


def handwriting(x: np.ndarray, rng: Rng) -> Ink:
    """An image of MNIST (28, 28, 1), enlarged with sharp edges, somewhere near the middle."""
    side = int(SIDE * rng.uniform(0.55, 0.8))
    large = Image.fromarray(x[..., 0]).resize((side, side), Image.Resampling.BICUBIC)
    sharp = np.clip((np.asarray(large.filter(ImageFilter.GaussianBlur(side / 80)), np.float64) - 70) / 90, 0, 1)
    ink = np.zeros((SIDE, SIDE))
    top, left = ((SIDE - side) // 2 + int(rng.integers(-20, 21)) for _ in range(2))
    ink[top : top + side, left : left + side] = sharp
    return ink


def printed(digit: int, rng: Rng) -> Ink:
    """A digit of Pillow's own font."""
    image = Image.new("L", (SIDE, SIDE))
    font = ImageFont.load_default(size=int(SIDE * rng.uniform(0.5, 0.7)))
    ImageDraw.Draw(image).text((SIDE / 2, SIDE / 2), str(digit), 255, font, anchor="mm", stroke_width=2)
    return np.asarray(image, np.float64) / 255


WIDTHS = {"thin": 0.02, "pen": 0.06, "thick": 0.11}


@functools.cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    """Its test images and labels."""
    data = load("mnist")
    return data.test_x, data.test_y


def inked(how: str, digit: int, rng: Rng) -> Ink:
    """A digit in "handwriting", "printed", or with a pen of one of ``WIDTHS``."""
    if how == "printed":
        return printed(digit, rng)
    if how in WIDTHS:
        return pen(digit, WIDTHS[how], rng)
    test_x, test_y = mnist()
    of_digit = np.flatnonzero(test_y == digit)
    return handwriting(test_x[of_digit[rng.integers(len(of_digit))]], rng)

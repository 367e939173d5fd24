"""Where the paper lies in a picture, the rules on it, and the specks: what has to go before a digit is cut out.

``find_page``   the four corners of a sheet, card or canvas, however it is turned, on any table and in any frame
``unruled``     ink without the lines of lined or squared paper
``cleaned``     ink without specks
"""

from __future__ import annotations

import numpy as np
from PIL import Image

ANALYSIS_SIDE = 128  # pixels a side that the shape of a page is looked for in
SMALLEST = 64  # pixels a side of a picture that may show a page and what lies around it
FAINT = 24  # of 255: where the ink is less, the digit has ended
AWAY = 0.04  # share of the border that does not look like paper, where something lies around the paper
TOLERANCE = 3 * FAINT  # from the colour of the paper to what belongs to it
STRAIGHT = 0.015  # of its side: as far a corner may be from where that of an upright rectangle would be
INSET = 0.02  # of a page's side: its edge is blurred
SPECK = 0.04  # ink of a speck, as a share of the largest stroke's
RULE_ANGLES = 12  # degrees that lined paper may be turned
RULE_WIDTH = 0.03  # of the side

Corners = np.ndarray  # (4, 2): x, y of the upper left, lower left, lower right and upper right


def border(pixels: np.ndarray) -> np.ndarray:
    """The outermost pixels of (h, w) or (h, w, c), in a row: (n,) or (n, c)."""
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


# --- pages ------------------------------------------------------------------------------------------------------------


def find_page(image: Image.Image) -> tuple[Corners, np.ndarray] | None:
    """The corners of a page that something else lies around, and the colour of that; None if paper is all there is.

    A page is a quadrangle of a fifth of the picture or more, with a sharp edge, and with ink inside it. Most of it has
    the colour of the picture's middle.
    """
    if min(image.size) < SMALLEST:
        return None
    factor = max(-(-max(image.size) // ANALYSIS_SIDE), 1)
    pixels = np.asarray(image.reduce(factor), np.float64)
    h, w = pixels.shape[:2]
    if min(h, w) < 16:
        return None
    paper = np.median(pixels[h // 4 : -h // 4, w // 4 : -w // 4], axis=(0, 1))
    distance = np.abs(pixels - paper).max(axis=2)
    around = border(distance) > FAINT
    if around.mean() < AWAY:
        return None
    outside = np.median(border(pixels)[around], axis=0)
    tolerance = min(np.abs(paper - outside).max() / 2, TOLERANCE)
    sheet = largest(distance <= tolerance)
    page = ~reached(~sheet)
    if not 0.2 < page.mean() < 0.98 or sheet.sum() < 0.6 * page.sum() or (page & ~sheet).sum() < 0.002 * page.sum():
        return None
    ring = grown(page, 3) & ~grown(page, 1)
    beyond, within = distance[ring if ring.any() else ~page], distance[page & ~shrunk(page, 3)]
    if np.median(beyond) - np.median(within) < 0.8 * tolerance:  # no sharp edge, as where a shadow ends
        return None
    corners = quadrangle(page)
    area = polygon_area(corners)
    if not 0.9 < page.sum() / area < 1.1:
        return None
    inset = corners + INSET * (corners.mean(axis=0) - corners) * 2
    return inset * factor, outside


def cut(image: Image.Image, corners: Corners) -> Image.Image:
    """What lies between four corners, as a rectangle; nothing is interpolated where it lies straight."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    straight = [(low[0], low[1]), (low[0], high[1]), (high[0], high[1]), (high[0], low[1])]
    if np.abs(corners - straight).max() <= STRAIGHT * max(high - low):
        return image.crop((*np.ceil(low).astype(int).tolist(), *np.floor(high).astype(int).tolist()))
    lower_left = corners[1]
    w, h = (round(float(np.linalg.norm(side))) for side in (corners[2] - lower_left, corners[0] - lower_left))
    size = max(w, 1), max(h, 1)
    return image.transform(size, Image.Transform.QUAD, corners.ravel().tolist(), Image.Resampling.BICUBIC)


def quadrangle(mask: np.ndarray) -> Corners:
    """The corners of what is true in (h, w): the points nearest to those of the smallest rectangle around it."""
    y, x = np.nonzero(mask & ~shrunk(mask, 1))
    points = np.concatenate([np.stack([x + dx, y + dy], axis=1) for dx in (0, 1) for dy in (0, 1)]).astype(float)
    turned = {angle: points @ rotation(angle) for angle in range(-44, 46)}
    best = min(turned, key=lambda angle: float(np.ptp(turned[angle], axis=0).prod()))
    low, high = turned[best].min(axis=0), turned[best].max(axis=0)
    ends = [(low[0], low[1]), (low[0], high[1]), (high[0], high[1]), (high[0], low[1])]
    return np.array([points[np.abs(turned[best] - end).sum(axis=1).argmin()] for end in ends])


def rotation(degrees: float) -> np.ndarray:
    """The matrix (2, 2) that turns points (n, 2) from the right."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def polygon_area(corners: Corners) -> float:
    """The area between corners, in their order (shoelace formula)."""
    x, y = corners.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


# --- connected parts --------------------------------------------------------------------------------------------------


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """The mask and all pixels ``by`` steps around it, diagonals included."""
    for _ in range(by):
        wide = np.pad(mask, 1)
        wide = wide[:-2] | wide[1:-1] | wide[2:]
        mask = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
    return mask


def shrunk(mask: np.ndarray, by: int) -> np.ndarray:
    """The mask without all pixels within ``by`` steps of its edge, the picture's edge included."""
    return ~grown(np.pad(~mask, by, constant_values=True), by)[by:-by, by:-by]


def reached(mask: np.ndarray) -> np.ndarray:
    """What of the mask is connected with the picture's border."""
    seeds = np.zeros_like(mask)
    seeds[[0, -1]] = seeds[:, [0, -1]] = True
    return flood(seeds & mask, mask)


def flood(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What of the mask is connected with the seeds."""
    while True:
        more = grown(seeds, 1) & mask
        if (more == seeds).all():
            return seeds
        seeds = more


def labelled(mask: np.ndarray) -> np.ndarray:
    """A number above 0 for each connected part of a mask (h, w), the same for all of its pixels; 0 elsewhere."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        wide = np.pad(labels, 1)
        wide = np.maximum(np.maximum(wide[:-2], wide[1:-1]), wide[2:])
        more = np.where(mask, np.maximum(np.maximum(wide[:, :-2], wide[:, 1:-1]), wide[:, 2:]), 0)
        if (more == labels).all():
            return labels
        labels = more


def largest(mask: np.ndarray) -> np.ndarray:
    """The connected part with most pixels."""
    labels = labelled(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return mask & (labels == sizes.argmax())


# --- ink --------------------------------------------------------------------------------------------------------------


def cleaned(strokes: np.ndarray) -> np.ndarray:
    """Ink (h, w) without the parts that are small against the largest."""
    factor = max(-(-max(strokes.shape) // ANALYSIS_SIDE), 1)
    small = np.asarray(Image.fromarray(strokes).reduce(factor), np.float64)
    labels = labelled(small >= FAINT)
    inks = np.bincount(labels.ravel(), small.ravel())
    inks[0] = 0
    specks = (inks < SPECK * inks.max()) & (inks > 0)
    if not specks.any():
        return strokes
    kept = grown((labels > 0) & ~specks[labels], 1)
    h, w = strokes.shape
    return np.where(np.kron(kept, np.ones((factor, factor), bool))[:h, :w], strokes, 0).astype(np.uint8)


def unruled(strokes: np.ndarray) -> np.ndarray:
    """Ink (h, w) without lines from one border to the other, turned so that they are level; as it is without any."""
    if min(strokes.shape) < SMALLEST or (border(strokes) >= FAINT).mean() < 0.01:
        return strokes
    image = Image.fromarray(strokes)
    small = image.reduce(max(max(image.size) // (2 * ANALYSIS_SIDE), 1))
    angles = np.arange(-RULE_ANGLES, RULE_ANGLES + 0.1, 0.5)
    angle = max(angles, key=lambda angle: ruling(np.asarray(small.rotate(angle, Image.Resampling.BILINEAR))))
    if abs(angle) >= 0.5:
        image = image.rotate(angle, Image.Resampling.BICUBIC)
    level = without_rules(np.asarray(image))
    both = without_rules(level.T).T
    return strokes if (both == np.asarray(image)).all() else both


def ruling(strokes: np.ndarray) -> float:
    """How much of the ink (h, w) lies in level lines."""
    return float((strokes.mean(axis=1) ** 2).sum())


def without_rules(strokes: np.ndarray) -> np.ndarray:
    """Ink (h, w) without the thin level lines across it; where a stroke crosses one, it stays."""
    h, w = strokes.shape
    inked = strokes >= FAINT
    ends = max(w // 8, 1)
    across = (inked.mean(axis=1) > 0.6) & (inked[:, :ends].mean(axis=1) > 0.4) & (inked[:, -ends:].mean(axis=1) > 0.4)
    result = strokes.copy()
    starts = np.flatnonzero(np.diff(across.astype(int), prepend=0, append=0))
    for first, end in starts.reshape(-1, 2):
        if end - first <= max(RULE_WIDTH * h, 3):
            above, below = strokes[max(first - 3, 0)], strokes[min(end + 2, h - 1)]
            result[max(first - 2, 0) : end + 2] = np.minimum(above, below)
    return result

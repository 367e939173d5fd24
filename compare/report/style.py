"""How a track appears in every table and plot: its name, its place, its colour and its dash."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

INK, FAINT = "#222222", "#777777"


class Style(NamedTuple):
    """How one track is drawn."""

    color: str
    width: float
    dashes: Any


NAMES = {"numpy": "NumPy", "jax": "JAX", "torch": "PyTorch", "tensorflow": "TensorFlow"}  # the order of every table
KNOWN = {
    "numpy": Style("#0072B2", 4.2, "solid"),
    "jax": Style("#E58A00", 2.5, (0, (4, 2))),
    "torch": Style("#D01C6B", 1.6, (0, (1.3, 1.3))),
    "tensorflow": Style("#6A3D9A", 1.6, (0, (6, 2, 1, 2))),  # not a track: a baseline of the benchmark
}
VARIANTS = [
    Style("#009E73", 1.5, (0, (6, 2, 1, 2))),
    Style("#56B4E9", 1.5, (0, (3, 3))),
    Style("#6b6b6b", 1.2, "dashed"),
]
PAIR = Style(INK, 1.2, (0, (6, 2, 1, 2)))  # two tracks of which neither is NumPy
RC: dict[Any, Any] = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


def track_styles(tracks: Iterable[str]) -> dict[str, Style]:
    """A style for every track: its own, or one of the spare ones for a variant such as torch-compiled."""
    spare = itertools.cycle(VARIANTS)
    return {track: KNOWN[track] if track in KNOWN else next(spare) for track in dict.fromkeys(tracks)}


def order(track: str) -> tuple[int, str]:
    """Sort key of a track: the known ones first, in the order of ``NAMES``, then any variant by name."""
    tracks = list(NAMES)
    return (tracks.index(track) if track in NAMES else len(tracks), track)


def name_of(track: str) -> str:
    """A track's name in a sentence: JAX, PyTorch; a variant keeps its own."""
    return NAMES.get(track, track)

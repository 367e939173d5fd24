"""Pictures that results.json carries: the worst mistakes, and the filters of the first layer."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from compare.results import Results, Run, groups, name_of, unpack
from compare.style import KNOWN

COLD, WARM = (  # negative and positive weights: the blue and the orange of the curves
    np.array([int(KNOWN[track].color[start : start + 2], 16) for start in (1, 3, 5)]) for track in ("numpy", "jax")
)


@dataclass(frozen=True)
class Picture:
    """A small image with its text, and what stands below it."""

    uri: str
    alt: str
    caption: str = ""
    more: str = ""


@dataclass(frozen=True)
class Strips:
    """Pictures in rows, a row for each track."""

    title: str
    source: str
    rows: list[tuple[str, str, list[Picture]]]  # track, what there is to say of it, pictures
    kind: str


def mistakes(results: Results) -> dict[str, list[Strips]]:
    """The mistakes each track was surest of, of its first seed, by preset."""
    found = {}
    for preset, tracks in groups(results).items():
        rows = [row for track, runs in tracks.items() if (row := _mistakes(track, runs))]
        found[preset] = [Strips("The worst mistakes", "runs[].insight.mistakes", rows, "mistakes")] if rows else []
    return found


def _mistakes(track: str, runs: list[Run]) -> tuple[str, str, list[Picture]] | None:
    run = next((run for run in runs if (run.get("insight") or {}).get("mistakes")), None)
    if run is None:
        return None
    classes, pictures = run["insight"]["classes"], []
    for mistake in run["insight"]["mistakes"]:
        label, answer = classes[mistake["label"]], classes[mistake["prediction"]]
        sure = f"{100 * mistake['probability']:.1f} %"
        alt = f"Test image {mistake['index']}, labelled {label}, taken for {answer} with {sure}"
        pictures.append(Picture(png(unpack(mistake["image"])), alt, f"{label} → {answer}", sure))
    return name_of(track), f"seed {run['seed']}: label → answer, and the probability it was given", pictures


def filters(results: Results) -> dict[str, list[Strips]]:
    """Weights of the same units of the first layer in every track, of the first seed, by preset."""
    found = {}
    for preset, tracks in groups(results).items():
        first = {track: run for track, runs in tracks.items() if (run := _first_with_filters(runs))}
        leaves = dict.fromkeys(run["insight"]["filters"]["leaf"] for run in first.values())
        rows = [_filters(track, run, first) for track, run in first.items()]
        found[preset] = [Strips(", ".join(leaves), "runs[].insight.filters", rows, "filters")] if rows else []
    return found


def _first_with_filters(runs: list[Run]) -> Run | None:
    return next((run for run in runs if (run.get("insight") or {}).get("filters")), None)


def _filters(track: str, run: Run, first: dict[str, Run]) -> tuple[str, str, list[Picture]]:
    kept = run["insight"]["filters"]
    values = unpack(kept["values"]).astype(np.float64)  # (units, h, w, c)
    words = [f"seed {run['seed']}"]
    for other, theirs in first.items():
        reference = unpack(theirs["insight"]["filters"]["values"]).astype(np.float64)
        if other == track:
            break
        if reference.shape == values.shape:
            words.append(f"cosine to {name_of(other)}'s {_cosines(values, reference)}")
    units = zip(values, kept["units"], strict=True)
    pictures = [Picture(png(_colored(each)), f"{name_of(track)}, unit {unit}") for each, unit in units]
    return name_of(track), ", ".join(words), pictures


def _cosines(a: np.ndarray, b: np.ndarray) -> str:
    """Median and least cosine of the angle between the same unit's weights in two tracks."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
    return f"{np.median(found):.3f} (median; least {found.min():.3f})"


def _colored(weights: np.ndarray) -> np.ndarray:
    """Weights (h, w, c) of -127 .. 127 as a picture: RGB as they are, otherwise blue below 0, white, orange above."""
    if weights.shape[-1] == 3:
        return (128 + weights).astype(np.uint8)
    w = weights.mean(axis=-1, keepdims=True) / 127
    return np.rint(255 + np.abs(w) * (np.where(w < 0, COLD, WARM) - 255)).astype(np.uint8)


def png(image: Any) -> str:
    """An image uint8 (h, w, c) as a data URI."""
    image = image[..., 0] if image.shape[-1] == 1 else image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

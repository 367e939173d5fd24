"""The pictures in results.json: misclassified test images, and the filters of the first layer."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from compare.report.style import KNOWN, name_of
from compare.results.arrays import unpack
from compare.results.runs import groups
from compare.results.schema import ErrorAnalysis, Filters, Results, RunResult

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


Row = tuple[str, str, list[Picture]]  # track, a remark, pictures


@dataclass(frozen=True)
class Strips:
    """Pictures in rows, a row for each track."""

    title: str
    source: str
    rows: list[Row]
    kind: str


def misclassified(results: Results) -> dict[str, list[Strips]]:
    """The most confident errors of each track with its first seed, by preset."""
    found = {}
    for preset, tracks in groups(results).items():
        rows = [_misclassified(track, *first) for track, runs in tracks.items() if (first := _first_wrong(runs))]
        source = "runs[].error_analysis.misclassified"
        found[preset] = [Strips("Most confident errors", source, rows, "misclassified")] if rows else []
    return found


def _first_wrong(runs: list[RunResult]) -> tuple[int, ErrorAnalysis] | None:
    found = ((run["seed"], run["error_analysis"]) for run in runs)
    return next(((seed, known) for seed, known in found if known and known["misclassified"]), None)


def _misclassified(track: str, seed: int, found: ErrorAnalysis) -> Row:
    classes, pictures = found["classes"], []
    for error in found["misclassified"]:
        label, prediction = classes[error["label"]], classes[error["prediction"]]
        probability = f"{100 * error['probability']:.1f} %"
        alt = f"Test image {error['index']}: label {label}, prediction {prediction} with probability {probability}"
        pictures.append(Picture(png(unpack(error["image"])), alt, f"{label} → {prediction}", probability))
    return name_of(track), f"seed {seed}: label → prediction, with its probability", pictures


def filters(results: Results) -> dict[str, list[Strips]]:
    """Weights of the same units of the first layer in every track, of the first seed, by preset."""
    found = {}
    for preset, tracks in groups(results).items():
        first = {track: kept for track, runs in tracks.items() if (kept := _first_filters(runs))}
        leaves = dict.fromkeys(kept["leaf"] for _, kept in first.values())
        rows = [_filters(track, first) for track in first]
        source = "runs[].error_analysis.filters"
        found[preset] = [Strips(", ".join(leaves), source, rows, "filters")] if rows else []
    return found


def _first_filters(runs: list[RunResult]) -> tuple[int, Filters] | None:
    found = ((run["seed"], run["error_analysis"]) for run in runs)
    return next(((seed, known["filters"]) for seed, known in found if known and known["filters"]), None)


def _filters(track: str, first: dict[str, tuple[int, Filters]]) -> Row:
    seed, kept = first[track]
    values = unpack(kept["values"]).astype(np.float64)  # (units, h, w, c)
    words = [f"seed {seed}"]
    for other, (_, theirs) in first.items():
        if other == track:
            break
        reference = unpack(theirs["values"]).astype(np.float64)
        if reference.shape == values.shape:
            words.append(f"cosine similarity to {name_of(other)} {_cosines(values, reference)}")
    units = zip(values, kept["units"], strict=True)
    pictures = [Picture(png(_colored(each)), f"{name_of(track)}, unit {unit}") for each, unit in units]
    return name_of(track), ", ".join(words), pictures


def _cosines(a: np.ndarray, b: np.ndarray) -> str:
    """Median and minimum, over the units, of the cosine similarity of their weights in two tracks."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = (a * b).sum(axis=1) / np.where(norms > 0, norms, 1)
    return f"{np.median(found):.3f} (median; minimum {found.min():.3f})"


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

"""loaders.json: its types, its reader, and which loaders have figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from compare.files import read_json, require_kind

NAME, KIND, SCHEMA = "loaders.json", "loaders", 1


class Trial(TypedDict):
    """One loader once: its figures, or the ``error`` that ended it."""

    loader: str
    repeat: int
    error: NotRequired[str]
    start_seconds: NotRequired[float]  # until the first chunk, imports and worker processes included
    chunk_seconds: NotRequired[list[float]]  # of each of the others
    images_per_second: NotRequired[float]
    memory_mb: NotRequired[float]  # of all its processes, shared pages counted once
    before_mb: NotRequired[float | None]  # the same with the images in memory and no loader
    checksum: NotRequired[str]  # of all batches in order
    shape: NotRequired[list[int]]
    classes: NotRequired[int]
    step_ms: NotRequired[float]  # of the training that it feeds: the median
    input_share: NotRequired[float]  # share of a step in which the training waits for its images


class Loaders(TypedDict):
    """The whole of loaders.json."""

    schema: int
    kind: str
    created: str  # ISO 8601
    command: str
    environment: dict[str, Any]
    dataset: str
    track: str
    loaders: list[str]
    trials: list[Trial]


def read(path: Path) -> Loaders:
    """Load a loaders.json, or the one in a folder; UserError for a damaged file or one of another kind."""
    found = read_json(path, NAME)
    require_kind(found, path, kind=KIND, schema=SCHEMA, keys=Loaders.__required_keys__)
    return cast(Loaders, found)


def problems(trials: Sequence[Trial]) -> dict[str, str]:
    """Why a loader has no figures: it failed, or its batches differ from those of the first loader."""
    first = next((trial for trial in trials if "checksum" in trial), None)
    found = {}
    for trial in trials:
        if "error" in trial:
            found[trial["loader"]] = trial["error"]
        elif first and trial["checksum"] != first["checksum"]:
            found[trial["loader"]] = f"its batches differ from those of {first['loader']}"
    return found

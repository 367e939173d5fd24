"""results.json, the one truth of a comparison, read back: checked, grouped by (preset, track), proofs weighed."""

from __future__ import annotations

import base64
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compare.errors import UserError

SCHEMA = 1
NAMES = {"numpy": "NumPy", "jax": "JAX", "torch": "PyTorch", "tensorflow": "TensorFlow"}  # the order of every table
FIGURES = (
    "test_accuracy",
    "test_loss",
    "val_accuracy",
    "val_loss",
    "images_per_second",
    "gflops",
    "gemm_share",
    "peak_rss_mb",
)

Results = dict[str, Any]
Run = dict[str, Any]


def read(path: Path | str) -> Results:
    """Load a results.json, or the one in a folder."""
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: give the folder of a comparison, the DIR of run_all's --out.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run the comparison again, or restore the file.") from error
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        found = results.get("schema") if isinstance(results, dict) else type(results).__name__
        raise UserError(f"{path} has schema {found!r} and this version reads {SCHEMA}: run the comparison again.")
    missing = [key for key in ("environment", "runs", "parity") if key not in results]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: it was cut short; run the comparison again.")
    return results


def order(track: str) -> tuple[int, str]:
    """Sort key of a track: the known ones first, in their order, then any variant by name."""
    tracks = list(NAMES)
    return (tracks.index(track) if track in NAMES else len(tracks), track)


def name_of(track: str) -> str:
    """A track's name in a sentence: JAX, PyTorch; a variant is called as it is."""
    return NAMES.get(track, track)


def groups(results: Results) -> dict[str, dict[str, list[Run]]]:
    """Runs as {preset: {track: [one per seed]}}, presets as they were asked for, tracks in their order."""
    found: dict[str, dict[str, list[Run]]] = {}
    for run in sorted(results["runs"], key=lambda run: order(run["track"])):
        found.setdefault(run["preset"], {}).setdefault(run["track"], []).append(run)
    presets = dict.fromkeys(run["preset"] for run in results["runs"])
    return {preset: found[preset] for preset in presets}


def title(results: Results) -> str:
    """What a comparison is called above everything that is made of it."""
    names = [name_of(track) for track in sorted({run["track"] for run in results["runs"]}, key=order)]
    if len(names) not in (2, 3):
        return "The same networks, track by track"
    return f"The same networks in {', '.join(names[:-1])} and {names[-1]}"


def machine_facts(results: Results) -> list[str]:
    """Processor, and version of each framework."""
    environment = results["environment"]
    versions = environment.get("versions") or {}
    machine = f"{environment.get('cpu') or 'unknown CPU'}, {environment.get('cores')} cores"
    return [machine, *(f"{NAMES[name]} {versions[name]}" for name in NAMES if name in versions)]


def numbers(runs: Iterable[Run], *path: str) -> list[float]:
    """The finite values that the runs have at `path`: ("seconds", "compile") is run["seconds"]["compile"]."""
    found = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float) and math.isfinite(value):
            found.append(float(value))
    return found


def tested(runs: Iterable[Run]) -> list[Run]:
    """The runs that came to their end and to the test set: only their figures are shown."""
    return [run for run in runs if run["status"] == "finished" and run.get("test_accuracy") is not None]


def spread(values: list[float], form: str = ".2f", *, unit: str = "") -> str:
    """Mean ± sample standard deviation; one value stands alone, none is a dash."""
    if not values:
        return "-"
    text = format(statistics.fmean(values), form)
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):{form}}"
    return f"{text} {unit}".strip()


def worst_check(pair: dict[str, Any]) -> dict[str, Any] | None:
    """The check of a proof that is nearest to its tolerance, or farthest beyond it."""
    return max(pair.get("checks") or [], key=closeness, default=None)


def closeness(check: dict[str, Any]) -> float:
    """Share of the tolerance that a check used up: above 1 it failed; a missing or NaN difference is the worst."""
    value, tolerance = check.get("max_rel"), check.get("tolerance")
    if value is None or not math.isfinite(value) or not tolerance:
        return 0.0 if check.get("passed") else math.inf
    return max(value / tolerance, 0.0 if check.get("passed") else 1.0)


def proofs(results: Results, preset: str, precision: str) -> list[dict[str, Any]]:
    """The rows of the proof of a preset in this precision, one for each pair of tracks."""
    return [pair for pair in results.get("proof") or [] if (pair["preset"], pair["precision"]) == (preset, precision)]


def proof_problem(results: Results, run: Run) -> str | None:
    """Why this run's speed may not be shown, or None if its (preset, precision, track) is proven the same model.

    The odd one out is to blame: a track fails if no pair with it passed, or if it disagrees with a track
    that agrees with somebody.
    """
    pairs = proofs(results, run["preset"], run["precision"])
    mine = [pair for pair in pairs if run["track"] in (pair["a"], pair["b"])]
    if not mine:
        return "not proven"
    sound = {track for pair in pairs if pair["passed"] for track in (pair["a"], pair["b"])}
    blamed = [pair for pair in mine if not pair["passed"] and ({pair["a"], pair["b"]} - {run["track"]}) & sound]
    if run["track"] not in sound:
        blamed = mine
    if not blamed:
        return None
    check = max((check for pair in blamed if (check := worst_check(pair))), key=closeness, default=None)
    return f"proof failed: {describe(check)}" if check else "proof failed"


def speed_withheld(results: Results, runs: list[Run]) -> str | None:
    """Why no speed is shown for the runs of one track: it has no accuracy beside it, or no proof behind it."""
    if not tested(runs):
        return "no test accuracy"
    return next((problem for run in tested(runs) if (problem := proof_problem(results, run))), None)


def describe(check: dict[str, Any]) -> str:
    """What a check found, e.g. `gradients conv1/kernel 3.0e-02 > 1e-04`."""
    where = " ".join(dict.fromkeys(word for word in (check["what"], check.get("worst_leaf")) if word))
    return f"{where} {size(check['max_rel'])} {'≤' if check['passed'] else '>'} {check['tolerance']:.0e}"


def size(value: float | None) -> str:
    """A difference, to two digits."""
    return "not finite" if value is None or not math.isfinite(value) else "0" if value == 0 else f"{value:.1e}"


def drift_from_numpy(results: Results, preset: str, track: str) -> dict[str, Any] | None:
    """The parity row with the largest end-of-training gap between `track` and NumPy, over all seeds."""
    rows = [row for row in results["parity"] if row["preset"] == preset and {row["a"], row["b"]} == {track, "numpy"}]
    return max(rows, key=lambda row: math.inf if row["max_abs"] is None else row["max_abs"], default=None)


def target_accuracy(tracks: dict[str, list[Run]]) -> float | None:
    """A validation accuracy that every tested run of a preset reached: 0.3 points below the least of their bests."""
    runs = [run for same in tracks.values() for run in tested(same)]
    best = [max(numbers(run.get("history") or [], "val_accuracy"), default=0.0) for run in runs]
    return math.floor(1000 * min(best) - 3) / 1000 if best and min(best) > 0.5 else None


def cold_seconds(run: Run, target: float) -> float | None:
    """Import, data and compilation plus training time until an evaluation first reached `target`."""
    reached = [row["seconds"] for row in run.get("history") or [] if (row.get("val_accuracy") or 0) >= target]
    return (
        sum((run["seconds"] or {}).get(name) or 0 for name in ("import", "data", "compile")) + reached[0]
        if reached
        else None
    )


def final_figures(run: Run) -> dict[str, float | None]:
    """The final figures of one entry of results.json's `runs`: those in FIGURES and every clock."""
    clocks = {
        f"{group}_{name}": value for group in ("seconds", "step_ms") for name, value in (run.get(group) or {}).items()
    }
    return {name: run.get(name) for name in FIGURES} | clocks


def trajectory(run: Run) -> list[tuple[int, dict[str, float | None]]]:
    """(step, {name: value}): the mean loss of each chunk of steps, then each evaluation."""
    losses, k = run.get("step_loss") or [], run.get("chunk") or 1
    chunks = [losses[start : start + k] for start in range(0, len(losses), k)]
    ends = itertools.accumulate(len(chunk) for chunk in chunks)
    means = [None if None in chunk else sum(chunk) / len(chunk) for chunk in chunks]
    evaluations = [
        (row["step"], {name: value for name, value in row.items() if name != "step"})
        for row in run.get("history") or []
    ]
    return [(step, {"chunk_loss": mean}) for step, mean in zip(ends, means, strict=True)] + evaluations


Packed = dict[str, Any]


def pack(array: np.ndarray) -> Packed:
    """An array as JSON holds it."""
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "base64": content}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """Undo :func:`pack`."""
    content = base64.b64decode(packed["base64"])
    return np.frombuffer(content, packed["dtype"]).reshape(packed["shape"])

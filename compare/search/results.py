"""search.json: its types, its reader, and how it is made from the study. All accuracies are validation accuracies."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from compare import machine
from compare.files import read_json, require_kind
from compare.overrides import Field, Range
from compare.search import study

KIND, SCHEMA = "search", 2
State = Literal["finished", "pruned", "failed"]
STATES: dict[str, State] = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}  # by Optuna's names


class Trial(TypedDict):
    """One trial: its settings, and what became of it."""

    number: int
    state: State
    preset: str | None
    params: dict[str, Any]  # the settings that vary
    val_accuracy: float | None  # mean over the seeds; None unless finished
    val_accuracies: list[float]  # of each seed
    evaluations: list[float]  # validation accuracies on the way, one seed after the other
    seconds: float | None
    message: str | None  # why it was pruned or failed


class Search(TypedDict):
    """The whole of search.json."""

    schema: int
    kind: str
    created: str  # ISO 8601
    settings: dict[str, Any]  # what was searched
    environment: dict[str, Any]
    best: int | None  # number of the best trial
    winner: str | None  # the command that trains its settings with other seeds
    importance: dict[str, float]  # share of each setting in being among the best quarter (PED-ANOVA)
    trials: list[Trial]


def results(found: Any, settings: Mapping[str, Any], fields: Mapping[str, Field]) -> Search:
    """The content of search.json, from the study."""
    trials = [entry(trial, fields) for trial in study.ended(found)]
    paths = {trial.number: trial.user_attrs.get("paths", {}) for trial in study.ended(found)}
    finished = [trial for trial in trials if trial["val_accuracy"] is not None]
    best = min(finished, key=rank, default=None)
    varied = [name for name, field in fields.items() if isinstance(field, Range) or len(field.values) > 1]
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": dict(settings),
        "environment": machine.facts(threads=machine.cores()),
        "best": best and best["number"],
        "winner": best and winner(best, settings, paths[best["number"]]),
        "importance": study.importances(found, varied),
        "trials": trials,
    }


def rank(trial: Trial) -> tuple[float, int]:
    """Sort key: the highest validation accuracy first, of equals the earliest."""
    return -(trial["val_accuracy"] or 0.0), trial["number"]


def entry(trial: Any, fields: Mapping[str, Field]) -> Trial:
    """One of Optuna's trials, as search.json has it."""
    return {
        "number": trial.number,
        "state": STATES[trial.state.name],
        "preset": trial.user_attrs.get("preset"),
        "params": {name: fields[name].value(value) for name, value in trial.params.items()},
        "val_accuracy": trial.value if trial.state.name == "COMPLETE" else None,
        "val_accuracies": trial.user_attrs.get("accuracies", []),
        "evaluations": [value for _, value in sorted(trial.intermediate_values.items())],
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        "message": trial.user_attrs.get(study.WHY),
    }


def winner(best: Trial, settings: Mapping[str, Any], paths: Mapping[str, str]) -> str:
    """The command that trains a trial's settings as a preset is trained, with seeds that the search did not use.

    ``paths`` are the user's: ``network``, the file of a network, and ``data-dir``.
    """
    values = {name: value for name, value in best["params"].items() if name != "preset"}
    trained = settings["presets"] if "network" in paths else [str(best["preset"])]
    words = ["python", "-m", "compare.run_all", *trained, "--tracks", settings["track"]]
    words += [word for flag, path in paths.items() for word in (f"--{flag}", path)]
    words += ["--dataset", settings["dataset"]] if settings.get("dataset") else []
    words += [f"--{name}={settings[name]:g}" for name in ("epochs", "steps") if settings[name]]
    fresh = max(settings["seeds"]) + 1
    words += ["--seeds", *map(str, range(fresh, fresh + 3))]
    if values:
        words += ["--set", *(f"{name}={typed(value)}" for name, value in values.items())]
    return shlex.join(words)


def typed(value: Any) -> str:
    """A value as ``overrides.parse`` reads it: words without quotes."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def read(path: Path) -> Search:
    """Load a search.json, or the one in a folder; UserError for a damaged file or one of another kind."""
    found = read_json(path, "search.json")
    if found.get("schema") == 1 and "asked" in found:
        found = _lifted(found)
    require_kind(found, path, kind=KIND, schema=SCHEMA, keys=Search.__required_keys__)
    return cast(Search, found)


def _lifted(old: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 as schema 2: other names for the same things."""
    states = {"complete": "finished", "fail": "failed"}
    names = {"accuracy": "val_accuracy", "accuracies": "val_accuracies"}
    trials = [
        {names.get(name, name): value for name, value in trial.items()}
        | {"state": states.get(trial["state"], trial["state"])}
        for trial in old["trials"]
    ]
    return old | {"schema": SCHEMA, "kind": KIND, "settings": old["asked"], "trials": trials}

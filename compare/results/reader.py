"""Read results.json of every schema as the current one, and tell which command wrote a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from compare.errors import UserError
from compare.files import read_json, require_kind
from compare.results.schema import SCHEMA, Environment, Results, not_measured

NAME, KIND = "results.json", "comparison"
OTHERS = ("benchmark", "search", "transfer", "loaders")  # kinds of files, named benchmark.json and so on


def read(path: Path | str) -> Results:
    """Load a results.json, or the one in a folder, and convert it from an older schema.

    Raises UserError for a damaged file, and for that of another command.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind != KIND:
        raise UserError(f"{path} holds a {kind} run, not a comparison: see python -m compare.report {path}")
    found = read_json(path, NAME)
    if found.get("schema") == 1:
        require_kind(found | {"kind": KIND}, path, kind=KIND, schema=1, keys=("environment", "runs", "parity"))
        return from_schema_1({"id": id_of(found), **found})
    found.setdefault("id", id_of(found))
    require_kind(found, path, kind=KIND, schema=SCHEMA, keys=Results.__required_keys__)
    return cast(Results, found)


def id_of(found: Mapping[str, Any]) -> str:
    """What identifies a comparison whose file is older than its key ``id``."""
    return hashlib.sha256(f"{found.get('created')} {found.get('command')}".encode()).hexdigest()[:12]


def kind_of(path: Path) -> str:
    """The kind of a results file, or of the one in a folder: comparison, or one of ``OTHERS``."""
    if path.is_dir() and not (path / NAME).exists():
        return next((kind for kind in OTHERS if (path / f"{kind}.json").exists()), KIND)
    found = read_json(path, NAME)
    if found.get("kind") in OTHERS:
        return str(found["kind"])
    return "transfer" if {"task", "rows"} <= found.keys() else KIND  # which had no kind in schema 1


def from_schema_1(old: dict[str, Any]) -> Results:
    """Convert results of schema 1, which called the parity check ``proof`` and the drift ``parity``."""
    new = {name: value for name, value in old.items() if name != "proof"}
    new |= {"schema": SCHEMA, "kind": "comparison", "drift": old["parity"]}
    later: dict[str, Any] = {"sensitivity": {}, "leaves": {}}  # keys that the first files of schema 1 lack
    new["parity"] = [later | {"attempts": row.get("draws", 1)} | row for row in old.get("proof") or []]
    for row in new["parity"]:
        row.pop("draws", None)
    if "settings" in old:
        settings = dict(old["settings"])
        new["settings"] = {"parity": settings.pop("proof"), **settings}
    load = [*(old["environment"].get("load") or []), None, None]
    unknown = dict.fromkeys(Environment.__annotations__)
    new["environment"] = unknown | old["environment"] | {"load": {"before": load[0], "after": load[1]}, "disturbed": []}
    new["runs"] = [_run_from_schema_1(run) for run in old["runs"]]
    return cast(Results, new)


def _run_from_schema_1(old: dict[str, Any]) -> dict[str, Any]:
    run = {name: value for name, value in old.items() if name != "compile_note"}
    run["matmul_precision"] = run.pop("products", None)
    run["error_analysis"] = run.pop("insight", None)
    if run["error_analysis"]:
        run["error_analysis"] = dict(run["error_analysis"])
        run["error_analysis"]["misclassified"] = run["error_analysis"].pop("mistakes")
    return not_measured() | {"device": "cpu"} | run

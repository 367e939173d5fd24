"""Read results.json of every schema as the current one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from compare.errors import UserError
from compare.results.schema import SCHEMA, Environment, Results, not_measured

OTHERS = {  # files of other commands, by the name that is looked for in a folder
    "benchmark.json": "benchmark",
    "search.json": "search",
    "transfer.json": "transfer",
    "loaders.json": "loaders",
}


def read(path: Path | str) -> Results:
    """Load a results.json, or the one in a folder; older schemas are converted.

    UserError says what is wrong with the file, or which command the folder belongs to.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind != "comparison":
        raise UserError(
            f"{path} holds a {kind} run, not a comparison: python -m compare.{kind} has written its report there"
        )
    path = path / "results.json" if path.is_dir() else path
    results = load(path)
    found = results.get("schema")
    if found not in (1, SCHEMA):
        raise UserError(f"{path} has schema {found!r} and this version reads 1 to {SCHEMA}: run the comparison again.")
    missing = [key for key in ("environment", "runs", "parity") if key not in results]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: it was cut short; run the comparison again.")
    return from_schema_1(results) if found == 1 else cast(Results, results)


def kind_of(path: Path) -> str:
    """Which command wrote a results file, or the one in a folder: comparison, benchmark, search, transfer, loaders."""
    if path.is_dir() and not (path / "results.json").exists():
        return next((kind for name, kind in OTHERS.items() if (path / name).exists()), "comparison")
    results = load(path / "results.json" if path.is_dir() else path)
    if "kind" in results:
        return str(results["kind"])
    return "transfer" if "task" in results and "rows" in results else "comparison"  # before each file had a kind


def load(path: Path) -> dict[str, Any]:
    """The JSON object of a file."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there: give the folder of a comparison, the DIR of run_all's --out.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run the comparison again, or restore the file.") from error
    if not isinstance(results, dict):
        raise UserError(f"{path} holds a JSON {type(results).__name__}, not an object: run the comparison again.")
    return results


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

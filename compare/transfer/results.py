"""transfer.json: its types and its reader."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from compare import machine
from compare.files import read_json, require_kind

NAME, KIND, SCHEMA = "transfer.json", "transfer", 2


class Row(TypedDict):
    """One evaluation on the test images."""

    track: str
    seed: int
    method: str  # "pretraining", or one of methods.METHODS
    step: int
    accuracy: float
    count: int  # test images


class Transfer(TypedDict):
    """The whole of transfer.json."""

    schema: int
    kind: str
    created: str  # ISO 8601
    command: str
    task: str
    options: dict[str, Any]
    environment: dict[str, Any]
    rows: list[Row]


def results(rows: list[Row], *, task: str, options: dict[str, Any], command: Sequence[str], threads: int) -> Transfer:
    """The content of transfer.json: what was measured, and on which machine."""
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(command),
        "task": task,
        "options": options,
        "environment": machine.describe(threads=threads),
        "rows": rows,
    }


def read(path: Path) -> Transfer:
    """Load a transfer.json, or the one in a folder; schema 1 had the name results.json.

    Raises UserError for a damaged file or one of another kind.
    """
    old = path / "results.json"
    if path.is_dir() and not (path / NAME).exists() and old.exists():
        path = old
    found = read_json(path, NAME)
    if found.get("schema") == 1 and {"task", "rows"} <= found.keys():
        found |= {"schema": SCHEMA, "kind": KIND}
    require_kind(found, path, kind=KIND, schema=SCHEMA, keys=Transfer.__required_keys__)
    return cast(Transfer, found)

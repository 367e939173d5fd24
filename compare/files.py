"""Files that are complete or absent, and JSON files that are what they should be."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compare.errors import UserError

CACHE = Path("~/.cache/nn-three-ways")  # of what can be had again: downloaded datasets, compiled programs


def write_atomically(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path`` and return the path: readers see the old file or the new one, never a part.

    Missing folders are made. UserError names the path and the reason if it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path} cannot be written ({reason}): free some space or choose another folder") from error
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` as indented JSON, its numbers that are not finite as null; see :func:`write_atomically`."""
    return write_atomically(path, (json.dumps(finite(value), indent=1) + "\n").encode())


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, name: str) -> dict[str, Any]:
    """Load the JSON object in the file ``path``, or in the file ``name`` of the folder ``path``."""
    path = path / name if path.is_dir() else path
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read ({reason}): give {_a(name)} or its folder") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object: give {_a(name)} or its folder")
    return value


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def require_kind(value: Mapping[str, Any], path: Path, *, kind: str, schema: int, keys: Iterable[str]) -> None:
    """Raise UserError unless ``value``, read from ``path``, is of this kind and schema and has all ``keys``."""
    if value.get("kind") != kind:
        raise UserError(f"{path} is not of the kind {kind!r} (it says {value.get('kind')!r}): give another file")
    if value.get("schema") != schema:
        raise UserError(
            f"{path} has schema {value.get('schema')!r}, and this version reads {schema}: run the command again"
        )
    if missing := sorted(set(keys) - value.keys()):
        raise UserError(f"{path} lacks {', '.join(missing)}, so it is damaged: run the command again")

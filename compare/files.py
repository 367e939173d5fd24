"""Files that are complete or absent: every report, results file and exported network is written here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from compare.errors import UserError


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
    """Write ``value`` as indented JSON; see :func:`write_atomically`."""
    return write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())

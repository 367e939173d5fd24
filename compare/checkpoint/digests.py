"""SHA-256 of a checkpoint's arrays and JSON, and a check for NaN and infinity."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from numpy_nn.tree import Tree, leaves


def array_digests(snapshot: Tree) -> dict[str, str]:
    """SHA-256 of each array, its dtype and its shape, by the array's path."""
    found = {}
    for name, leaf in leaves(snapshot).items():
        array = np.asarray(leaf, order="C")
        sha = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
        found[name] = sha.hexdigest()
    return found


def digest(meta: Mapping[str, Any], progress: Mapping[str, Any]) -> str:
    """SHA-256 of a checkpoint: of its metadata, which has the digests of its arrays, and of its progress."""
    named = {name: value for name, value in meta.items() if name != "digest"}
    return hashlib.sha256(json.dumps([named, progress], sort_keys=True).encode()).hexdigest()


def not_finite(snapshot: Tree) -> str | None:
    """A message that names the leaves with a NaN or an infinity in them; None if there is none."""
    bad = [
        name
        for name, leaf in leaves(snapshot).items()
        if np.issubdtype(leaf.dtype, np.inexact) and not math.isfinite(np.abs(leaf).sum(dtype=np.float64))
    ]
    return f"NaN or infinity in {', '.join(bad)}" if bad else None

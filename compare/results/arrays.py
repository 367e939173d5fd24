"""Small arrays inside JSON: bytes in base64, with dtype and shape."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from compare.results.schema import Packed


def pack(array: np.ndarray) -> Packed:
    """Encode an array of any shape."""
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "base64": content}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """Undo :func:`pack`."""
    content = base64.b64decode(packed["base64"])
    return np.frombuffer(content, packed["dtype"]).reshape(packed["shape"])

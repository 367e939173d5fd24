"""Shapes in signatures: ``Float[Array, "n d"]`` is a float array with axes n and d.

One alphabet in the whole project:

    n  batch            h w  height, width      c    channels
    t  time             d    features           i o  input, output features
    k  steps in a chunk kh kw  kernel           v    vocabulary

With jaxtyping installed and its import hook on (as in the tests) every call is
checked against its signature; otherwise the annotations only describe.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

try:
    from jaxtyping import Bool, Float, Int, UInt8
except ModuleNotFoundError:  # NumPy alone is enough to run

    class _Described:
        def __class_getitem__(cls, _: object) -> type[Array]:
            return Array

    Bool = Float = Int = UInt8 = _Described  # type: ignore[assignment]

__all__ = ["Array", "Bool", "Float", "Int", "UInt8"]

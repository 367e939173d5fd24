"""Source lines: which of the frames on a Python stack are the user's own."""

from __future__ import annotations

import functools
import linecache
import os
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
STANDARD = (sysconfig.get_path("stdlib") + os.sep, "<")
# Frameworks: the line that calls them is the user's. Other installed packages, as torchvision, may be what is checked.
FRAMEWORKS = ("torch", "jax", "jaxlib", "flax", "optax", "numpy", "onnx", "jaxtyping", "beartype", "_pytest", "pluggy")


class Frame(NamedTuple):
    """One line of source code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


@functools.cache
def is_own(file: str) -> bool:
    """Whether a file belongs to the user: no framework, no standard library, nothing of this package."""
    parts = Path(file).parts
    if "site-packages" in parts or "dist-packages" in parts:
        package = parts[max(i for i, part in enumerate(parts) if part.endswith("-packages")) + 1]
        return package.removesuffix(".py") not in FRAMEWORKS
    return not file.startswith((PACKAGE, *STANDARD))


def own(frames: Iterable[Frame]) -> tuple[Frame, ...]:
    """The user's own among frames, in the same order."""
    return tuple(frame for frame in frames if is_own(frame.file))


def definition(code: CodeType) -> Frame:
    """The line of a function's ``def``, below its decorators."""
    for line in range(code.co_firstlineno, code.co_firstlineno + 20):
        if linecache.getline(code.co_filename, line).lstrip().startswith(("def ", "async def ")):
            return Frame(code.co_filename, line, code.co_name)
    return Frame(code.co_filename, code.co_firstlineno, code.co_name)


def stack(frame: FrameType | None) -> tuple[Frame, ...]:
    """The user's own lines on the stack, innermost first."""
    found = []
    while frame is not None:
        if is_own(frame.f_code.co_filename):
            found.append(Frame(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        elif frame.f_code.co_filename.startswith(PACKAGE):
            break  # what called check() is not part of the model
        frame = frame.f_back
    return tuple(found)

"""Python files of the user: imported once, and what goes wrong in them shown by their own lines."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from compare.errors import UserError


def load(file: Path) -> ModuleType:
    """The module of a file; UserError with the file's own part of the traceback if it does not import."""
    from numpy_nn import network_file

    if not file.is_file():
        raise UserError(f"{file}: no such file; give the path of a Python file")
    if file.suffix != ".py":
        raise UserError(f"{file} is not a Python file: expected a name that ends with .py")
    try:
        return network_file.load(str(file))
    except Exception as error:
        raise UserError(f"{file} does not import:\n{shortened(error, file)}") from error


def load_function(file: Path, name: str) -> Callable[..., Any]:
    """The function of this name in a file; UserError lists the functions that there are."""
    module = load(file)
    found = getattr(module, name, None)
    if not callable(found):
        own = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise UserError(f"{file} has no function {name!r}; it has: {', '.join(own) or 'none'}")
    return found


def shortened(error: Exception, file: Path) -> str:
    """A traceback without the frames that are not the file's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    return "".join([*traceback.format_list(own), *traceback.format_exception_only(error)]).rstrip()

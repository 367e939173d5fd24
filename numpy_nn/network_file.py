"""Networks in a file of your own: the model named by its path is the class ``Numpy``, ``Jax`` or ``Torch`` in it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIX = "network_file:"  # of the modules' names


def is_file(model: str) -> bool:
    """Whether a model is named by its file, instead of by an entry of ``MODELS``."""
    return model.endswith(".py")


def load(file: str) -> ModuleType:
    """Run a Python file, once in each process as long as it stays the same, and return its module.

    The file can import what lies beside it.

    Raises ValueError if there is no such file, and whatever the file raises.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise ValueError(f"{file}: no such file")
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()
    name = f"{PREFIX}{path.stem.replace('.', '_')}_{digest[:12]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
        sys.modules[name] = module
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # last: no file of that folder takes the place of a library
        try:
            spec.loader.exec_module(module)  # type: ignore[union-attr]
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def network_class(models: Mapping[str, Any], name: str, attribute: str) -> Any:
    """The class ``models[name]``, or the class ``attribute`` of the file ``name``; ValueError if there is none."""
    if not is_file(name):
        if name not in models:
            raise ValueError(f"unknown model {name!r}; known: {', '.join(models)}, or the path of a .py file")
        return models[name]
    found = getattr(load(name), attribute, None)
    if found is None:
        raise ValueError(f"{name} has no class {attribute}: choose a track that it has, or write one")
    return found


def defining_file(network: Any) -> str | None:
    """The file that :func:`load` ran for this network's class; None for another network."""
    module = type(network).__module__
    return sys.modules[module].__file__ if module.startswith(PREFIX) else None

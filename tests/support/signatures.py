"""What tests of arguments need: the arguments of a function, and whether one of them has an effect."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

EFFECT = 1e-6  # least relative change that an argument makes; observed: 5e-4


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def optional(function: Any) -> set[str]:
    """The arguments that a caller may leave out, or gives by name."""
    found = inspect.signature(function).parameters.values()
    return {each.name for each in found if each.kind is each.KEYWORD_ONLY or each.default is not each.empty}


def defaults(function: Any) -> dict[str, Any]:
    """The arguments that have a default, and it."""
    found = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in found if each.default is not each.empty}


def assert_changed(new: Any, old: Any, what: str) -> None:
    """The two results differ visibly, in shape or in value."""
    new, old = np.asarray(new), np.asarray(old)
    assert new.shape != old.shape or np.abs(new - old).max() > EFFECT * np.abs(old).max(), f"{what} has no effect"

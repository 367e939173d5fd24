"""A bug of the zoo: the lines that it changes, its symptom, and the test that catches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One classic mistake. ``right`` occurs exactly once in ``file``, and not in ``wrong``."""

    name: str
    file: str  # relative to the project, with forward slashes
    right: str
    wrong: str  # the lines that replace ``right``
    story: str  # what was changed, and why it looked right
    symptom: str  # what you observe; does not name the place
    lesson: str  # which check finds it, and why
    caught_by: str  # pytest's id of the narrowest test that fails
    track: str = "numpy"  # the track in which it shows
    training: Mapping[str, Any] = field(default_factory=dict)  # Config fields with which it shows


RIGHT, WRONG, CHANGED = "right", "wrong", "changed"


def which(bug: Bug, text: str) -> str:
    """Return which lines the file contains: the ``RIGHT`` ones, the ``WRONG`` ones, or neither (``CHANGED``)."""
    if bug.right in text:
        return RIGHT if text.count(bug.right) == 1 else CHANGED
    return WRONG if text.count(bug.wrong) == 1 else CHANGED

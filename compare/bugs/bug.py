"""What a bug of the zoo is: the lines that it changes, what one sees of it, and the test that sees it first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One classic mistake. ``right`` stands exactly once in ``file``, and nowhere in ``wrong``."""

    name: str
    file: str  # of the project, with forward slashes
    right: str
    wrong: str  # what stands there instead
    story: str  # what was done, and why it looked well
    symptom: str  # what one sees, without a word of where
    lesson: str  # which check finds it
    caught_by: str  # a test that turns red, as pytest calls it: the narrowest there is
    track: str = "numpy"  # that shows it
    training: Mapping[str, Any] = field(default_factory=dict)  # fields of the Config that shows it


RIGHT, WRONG, CHANGED = "right", "wrong", "changed"


def which(bug: Bug, text: str) -> str:
    """Which of its lines stand in the text of its file: the ``RIGHT`` ones, the ``WRONG`` ones, or ``CHANGED`` ones."""
    if bug.right in text:
        return RIGHT if text.count(bug.right) == 1 else CHANGED
    return WRONG if text.count(bug.wrong) == 1 else CHANGED

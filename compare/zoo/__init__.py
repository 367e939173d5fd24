"""The bug zoo: twenty classic mistakes, each a small edit of this project's own source. See docs/bugs.md."""

from __future__ import annotations

from compare.zoo import figures, maths, steps
from compare.zoo.bug import Bug

BUGS: dict[str, Bug] = {bug.name: bug for bug in (*maths.BUGS, *steps.BUGS, *figures.BUGS)}

"""Bugs in the working tree: one is put in, remembered, found again and taken out, and nothing else is touched.

Whatever is remembered lies in build/bugs.json. Should that get lost, the sources still tell.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from compare.bugs import figures, maths, steps
from compare.bugs.bug import CHANGED, RIGHT, WRONG, Bug, which
from compare.errors import UserError

MEMORY = Path("build", "bugs.json")


@dataclass(frozen=True)
class Planted:
    """A game under way: which bug, whether its name is a secret, and how many hints were given."""

    name: str
    secret: bool = False
    hints: int = 0

    @property
    def bug(self) -> Bug:
        """Its page in the zoo."""
        return BUGS[self.name]


def read(root: Path, bug: Bug) -> str:
    """The text of the bug's file, its line ends as they are; UserError where it cannot be had."""
    try:
        return (root / bug.file).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{bug.file} cannot be read ({error}): the zoo needs a clone of the project; `git checkout -- {bug.file}` "
            "brings the file back"
        ) from error


def write(root: Path, bug: Bug, text: str) -> None:
    """Replace the bug's file as a whole, or not at all."""
    part = root / f"{bug.file}.part"
    part.write_bytes(text.encode("utf-8"))
    part.chmod((root / bug.file).stat().st_mode)
    part.replace(root / bug.file)


def remember(root: Path, planted: Planted) -> None:
    """Note what is planted, or how many hints were given."""
    (root / MEMORY).parent.mkdir(parents=True, exist_ok=True)
    (root / MEMORY).write_text(json.dumps(asdict(planted)) + "\n", encoding="utf-8")


def current(root: Path) -> Planted | None:
    """The bug that is planted: as remembered, else as the sources tell."""
    try:
        planted = Planted(**json.loads((root / MEMORY).read_text(encoding="utf-8")))
        if planted.name in BUGS:
            return planted
    except (OSError, ValueError, TypeError):
        pass
    standing = [bug.name for bug in BUGS.values() if which(bug, read(root, bug)) == WRONG]
    return Planted(standing[0], secret=True) if standing else None


def plant(bug: Bug, root: Path, *, secret: bool = False) -> None:
    """Put the bug's wrong lines in the place of the right ones."""
    if old := current(root):
        name = "whose name is a secret" if old.secret else f"{old.name!r}"
        raise UserError(
            f"a bug is planted already, {name}: find it, or `python -m compare.bugs solve`, before the next"
        )
    swap(bug, root, RIGHT)
    remember(root, Planted(bug.name, secret))


def swap(bug: Bug, root: Path, there: str) -> None:
    """Exchange the lines that should be ``there``, RIGHT or WRONG, for the others; UserError if they are not."""
    text = read(root, bug)
    old, new = (bug.right, bug.wrong) if there == RIGHT else (bug.wrong, bug.right)
    if which(bug, text) != there:
        raise UserError(
            f"{bug.file} has been changed where {bug.name!r} would be, and was left as it is; "
            f"expected there, once:\n{old}"
        )
    write(root, bug, text.replace(old, new))


def solve(root: Path, *, keep: bool = False) -> tuple[Bug, str]:
    """Take the planted bug out, unless it is gone already, and forget it; the bug, and which lines it had.

    Only the bug's lines are replaced. Where they have become others, UserError, or with ``keep`` they stay as they are.
    """
    planted = current(root)
    if planted is None:
        raise UserError("no bug is planted: `python -m compare.bugs plant` chooses one for you")
    bug = planted.bug
    stood = which(bug, read(root, bug))
    if stood == WRONG and not keep:
        swap(bug, root, WRONG)
    elif stood != RIGHT and not keep:
        raise UserError(
            f"it was {bug.name!r}, and its lines in {bug.file} have become others. Mended in your own words? Then "
            "`python -m compare.bugs solve --keep` leaves them so. Otherwise put this there, and solve again:\n"
            f"{bug.right}"
        )
    (root / MEMORY).unlink(missing_ok=True)
    return bug, stood


def difference(bug: Bug, root: Path) -> str:
    """What the bug changes, as a diff: lines with - are the wrong ones, lines with + the right ones."""
    text = read(root, bug)
    wrong, right = {
        RIGHT: (text.replace(bug.right, bug.wrong), text),
        WRONG: (text, text.replace(bug.wrong, bug.right)),
        CHANGED: (bug.wrong, bug.right),
    }[which(bug, text)]
    return "\n".join(difflib.unified_diff(wrong.splitlines(), right.splitlines(), bug.file, bug.file, n=2, lineterm=""))


BUGS: dict[str, Bug] = {bug.name: bug for bug in (*maths.BUGS, *steps.BUGS, *figures.BUGS)}

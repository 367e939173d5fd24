"""Plants a bug in the working tree and removes it; nothing else changes.

The state of the game is stored in build/bugs.json. If that file is lost, the planted bug is found in the sources.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from compare.bugs import figures, maths, steps
from compare.bugs.bug import CHANGED, RIGHT, WRONG, Bug, which
from compare.errors import UserError

STATE_FILE = Path("build", "bugs.json")


@dataclass(frozen=True)
class Planted:
    """The current game: the bug, whether its name is a secret, and the number of hints given."""

    name: str
    secret: bool = False
    hints: int = 0

    @property
    def bug(self) -> Bug:
        """The planted bug."""
        return BUGS[self.name]


def read(root: Path, bug: Bug) -> str:
    """Return the text of the bug's file with its line endings; UserError if it cannot be read."""
    try:
        return (root / bug.file).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{bug.file} cannot be read ({error}): the bug zoo needs a clone of the project; "
            f"`git checkout -- {bug.file}` restores the file"
        ) from error


def write(root: Path, bug: Bug, text: str) -> None:
    """Replace the bug's file atomically."""
    part = root / f"{bug.file}.part"
    part.write_bytes(text.encode("utf-8"))
    part.chmod((root / bug.file).stat().st_mode)
    part.replace(root / bug.file)


def remember(root: Path, planted: Planted) -> None:
    """Store the state of the game."""
    (root / STATE_FILE).parent.mkdir(parents=True, exist_ok=True)
    (root / STATE_FILE).write_text(json.dumps(asdict(planted)) + "\n", encoding="utf-8")


def current(root: Path) -> Planted | None:
    """Return the planted bug, from the stored state or else from the sources; None if there is none."""
    try:
        planted = Planted(**json.loads((root / STATE_FILE).read_text(encoding="utf-8")))
        if planted.name in BUGS:
            return planted
    except (OSError, ValueError, TypeError):
        pass
    standing = [bug.name for bug in BUGS.values() if which(bug, read(root, bug)) == WRONG]
    return Planted(standing[0], secret=True) if standing else None


def plant(bug: Bug, root: Path, *, secret: bool = False) -> None:
    """Replace the bug's right lines with the wrong ones."""
    if old := current(root):
        name = "with a secret name" if old.secret else f"{old.name!r}"
        raise UserError(f"a bug is already planted, {name}: find it, or run `python -m compare.bugs solve` first")
    swap(bug, root, RIGHT)
    remember(root, Planted(bug.name, secret))


def swap(bug: Bug, root: Path, there: str) -> None:
    """Replace the lines ``there`` (RIGHT or WRONG) with the other ones; UserError if the file does not contain them."""
    text = read(root, bug)
    old, new = (bug.right, bug.wrong) if there == RIGHT else (bug.wrong, bug.right)
    if which(bug, text) != there:
        raise UserError(
            f"the bug {bug.name!r} cannot be placed or removed: its lines in {bug.file} have been changed. "
            f"Restore them and try again; expected exactly once:\n{old}"
        )
    write(root, bug, text.replace(old, new))


def solve(root: Path, *, keep: bool = False) -> tuple[Bug, str]:
    """Remove the planted bug and end the game; return the bug, and which lines the file contained.

    Only the bug's lines are replaced. If they have been changed, raise UserError, or with ``keep`` leave them.
    """
    planted = current(root)
    if planted is None:
        raise UserError("no bug is planted: plant one with `python -m compare.bugs plant`")
    bug = planted.bug
    stood = which(bug, read(root, bug))
    if stood == WRONG and not keep:
        swap(bug, root, WRONG)
    elif stood != RIGHT and not keep:
        raise UserError(
            f"the bug was {bug.name!r}, and its lines in {bug.file} have been changed. If that is your fix, run "
            "`python -m compare.bugs solve --keep`. Otherwise restore these lines and run solve again:\n"
            f"{bug.right}"
        )
    (root / STATE_FILE).unlink(missing_ok=True)
    return bug, stood


def difference(bug: Bug, root: Path) -> str:
    """Return the bug as a diff from the wrong lines (-) to the right ones (+)."""
    text = read(root, bug)
    wrong, right = {
        RIGHT: (text.replace(bug.right, bug.wrong), text),
        WRONG: (text, text.replace(bug.wrong, bug.right)),
        CHANGED: (bug.wrong, bug.right),
    }[which(bug, text)]
    return "\n".join(difflib.unified_diff(wrong.splitlines(), right.splitlines(), bug.file, bug.file, n=2, lineterm=""))


BUGS: dict[str, Bug] = {bug.name: bug for bug in (*maths.BUGS, *steps.BUGS, *figures.BUGS)}

"""Temporary copies of the project to plant bugs in; the working tree stays unchanged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compare.bugs.bug import RIGHT, WRONG, Bug, which
from compare.bugs.planting import current, read, swap
from compare.errors import UserError, require_packages

PARTS = ("numpy_nn", "jax_nn", "torch_nn", "compare", "tests", "pyproject.toml")


@contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """Copy sources and tests to a temporary folder, without the bug that may be planted in the working tree."""
    with tempfile.TemporaryDirectory(prefix="bugs-") as folder:
        copy = Path(folder)
        for part in PARTS:
            if (root / part).is_dir():
                shutil.copytree(root / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif (root / part).is_file():
                shutil.copy2(root / part, copy / part)
            else:
                raise UserError(f"{root} has no {part}: the bug zoo needs a clone of the whole project")
        planted = current(root)
        if planted and which(planted.bug, read(copy, planted.bug)) == WRONG:
            swap(planted.bug, copy, WRONG)
        yield copy


def run(copy: Path, *module: str, question: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``python -m module ...`` in the copy, on one thread, with ``question`` on standard input."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", *module],
        cwd=copy,
        env=ours | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        input=question,
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class Verdict:
    """The outcome of a test: ``passed``, ``failed``, or neither if it could not run; ``words`` is its message."""

    passed: bool
    failed: bool
    words: str


def tested(copy: Path, *tests: str) -> Verdict:
    """Run tests in the copy; pytest's exit status is 1 if a test failed, larger if none could run."""
    require_packages("a check", "pytest", "beartype", "hypothesis", extra="test")
    done = run(copy, "pytest", "-q", "-x", "--tb=short", "-p", "no:cacheprovider", *tests)
    errors = [line.removeprefix("E").strip() for line in done.stdout.splitlines() if line.startswith("E  ")]
    words = " ".join(errors)[:200] if errors else (done.stdout + done.stderr).strip()[-500:]
    return Verdict(done.returncode == 0, done.returncode == 1, words)


def check(bug: Bug, root: Path) -> tuple[Verdict, Verdict]:
    """Run the test that catches the bug in a copy, without the bug and with it."""
    with copy_of(root) as copy:
        without = tested(copy, bug.caught_by)
        swap(bug, copy, RIGHT)
        return without, tested(copy, bug.caught_by)

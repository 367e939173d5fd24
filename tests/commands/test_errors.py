"""How every command ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from compare.cli import command_line
from compare.errors import UserError


@pytest.mark.parametrize(
    ("ending", "status", "words"),
    [(UserError("no such file: give one"), 2, "error: no such file: give one\n"), (KeyboardInterrupt(), 130, "")],
)
def test_user_errors_end_without_a_traceback(ending, status, words, capsys):
    @command_line
    def main() -> int:
        raise ending

    assert main() == status
    assert capsys.readouterr().err == words


def test_internal_errors_keep_their_traceback():
    @command_line
    def main() -> int:
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        main()


def test_closed_pipe_ends_quietly():
    listing = subprocess.Popen(
        [sys.executable, "-m", "compare.run_all", "--list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert listing.stdout
    listing.stdout.close()
    assert listing.communicate()[1] == b""
    assert listing.returncode == 141

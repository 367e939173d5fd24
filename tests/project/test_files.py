"""A file is complete or absent, whatever happens while it is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from compare.errors import UserError
from compare.files import write_atomically, write_json


def test_write_makes_the_folder_and_leaves_only_the_file(tmp_path: Path):
    path = write_json(tmp_path / "new" / "a.json", {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert [found.name for found in path.parent.iterdir()] == ["a.json"]


def test_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_atomically(tmp_path / "report.md", b"old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(UserError, match=r"report.md cannot be written \(No space left on device\): free some space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["report.md"]


def test_unwritable_folder_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/x.json cannot be written"):
        write_json(tmp_path / "file" / "x.json", {})

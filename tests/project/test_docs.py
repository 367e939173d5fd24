"""What the README and the pages of docs/ tell people to type is understood, and their Python runs."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.printed_commands import BLOCK, PAGES, cases

from compare import presets
from compare.__main__ import resolve
from compare.tracks import Track


class ParsedError(BaseException):
    """Carries the options out of a command that would otherwise begin its work."""


def check(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Let a command's own parser judge its arguments; of a synopsis only the names of its flags."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, given=None, namespace=None):
        raise ParsedError(parse(self, given, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    found = importlib.import_module(module)
    main = (importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found).main
    if any("[" in argument or argument == "..." for argument in arguments):
        flags = set(re.findall(r"--[a-z-]+", " ".join(arguments)))
        subcommand = arguments[:1] if arguments[0].islower() else []
        with pytest.raises(SystemExit, match="0"):
            main([*subcommand, "--help"])
        missing = flags - set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert not missing, f"no such flags: {missing}"
        return
    with pytest.raises(ParsedError) as parsed:
        main([argument if "://" in argument else argument.partition("|")[0] for argument in arguments])
    for name in getattr(parsed.value.args[0], "presets", None) or ():
        assert name.isupper() or presets.get(name)


@pytest.mark.parametrize(("page", "command"), cases())
def test_documented_command_is_parsed(page, command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(command)
    if program == "make":
        targets = {word for word in words if "=" not in word}
        known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        assert targets <= known, f"no such target: {targets - known}"
        given = [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")]
        if targets == {"compare"} and given:
            check("compare.run_all", shlex.split(given[0]), monkeypatch, capsys)
        return
    if program == "nn3":
        words = ["-m", "compare", *words]
    if words == ["-m", "compare"] or words[2:3] == ["completion"]:
        return
    if words[:2] == ["-m", "compare"]:  # which runs the command of that name
        name, *first = resolve(words[2], program)
        words = ["-m", f"compare.{name}", *first, *words[3:]]
    module, *arguments = words[1:] if words[0] == "-m" else [words[0].removesuffix(".py").replace("/", "."), *words[1:]]
    if module.partition(".")[0] == "compare":
        check(module, arguments, monkeypatch, capsys)


def marked(page: Path) -> Any:
    """The page, marked as long where its code needs a package that ``make test`` does not install."""
    marks = [pytest.mark.long] if 'loader="grain"' in page.read_text("utf-8") else []
    return pytest.param(page, id=page.name, marks=marks)


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_documented_python_runs(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for language, block in BLOCK.findall(page.read_text("utf-8")):
        if language == "python":
            code = compile(block, page.name, "exec")
            if block.startswith(("import ", "from ")):  # the others are lines to talk about
                exec(code, {})


def test_every_contract_function_is_documented():
    page = (ROOT / "docs" / "tracks.md").read_text("utf-8")
    told = re.findall(r"^\| `(\w+)\(", page, re.MULTILINE)
    assert sorted(told) == sorted(name for name in vars(Track) if not name.startswith("_"))

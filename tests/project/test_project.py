"""The project's papers agree with each other: dependencies, pins, the commands people are told to type."""

from __future__ import annotations

import ast
import gc
import re
import sys
import tomllib
import traceback
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.import_walk import PACKAGES, imported, sources
from support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# The gpu extra is resolved by the machine it is for; everything else is pinned.
PINNED = [
    requirement
    for requirements in (PROJECT["dependencies"], *(extra for name, extra in EXTRAS.items() if name != "gpu"))
    for requirement in map(Requirement, requirements)
    if requirement.name != PROJECT["name"] and (requirement.marker is None or requirement.marker.evaluate())
]
FOR_USERS = [requirement for name in ("export", "play", "search", "tensorflow") for requirement in EXTRAS[name]]
PINS = dict(
    line.split("==")
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    if not line.startswith("#")
)


@pytest.mark.parametrize("requirement", PINNED, ids=lambda r: r.name)
def test_dependency_is_pinned_within_its_range(requirement):
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_lock_holds_versions_only():
    assert all(re.fullmatch(r"[a-z0-9-]+", name) and re.fullmatch(r"[0-9a-z.]+", v) for name, v in PINS.items())


def test_third_party_imports_are_declared():
    owners = packages_distributions()
    declared = {canonicalize_name(Requirement(r).name) for r in [*PROJECT["dependencies"], *FOR_USERS]}
    tops = {
        (name.split(".")[0], path) for package in PACKAGES for path in sources(package) for _, name in imported(path)
    }
    undeclared = [
        f"{path.relative_to(ROOT)} imports {top}"
        for top, path in sorted(tops)
        if top not in sys.stdlib_module_names
        and top not in PACKAGES
        and not declared & {canonicalize_name(owner) for owner in owners.get(top, [top])}
    ]
    assert not undeclared, "\n".join(undeclared)


@pytest.mark.parametrize("command", ["make compare", "make test"])
def test_readme_names_the_command(command):
    assert re.search(rf"^\W*{command}\b", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)


def test_ci_runs_the_command_of_the_readme():
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)


def test_failing_finaliser_does_not_disturb_ast_parse(monkeypatch):
    class Failing:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            raise ValueError((1 + 2) * len("x"))

    shown = []
    monkeypatch.setattr("sys.unraisablehook", lambda this: shown.append(traceback.format_exception(this.exc_value)))
    threshold = gc.get_threshold()
    gc.set_threshold(200)  # a collection for each 200 new nodes of the tree
    try:
        Failing()
        assert ast.parse(Path(__file__).read_text(encoding="utf-8")).body
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert len(shown) == 1

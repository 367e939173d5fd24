"""The project's papers agree with each other: dependencies, pins, the commands people are told to type."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_imports import PACKAGES, imported, sources

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# The gpu extra is resolved by the machine it is for; everything else is pinned.
PINNED = [
    Requirement(r) for r in [*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["notebooks"], *EXTRAS["tensorflow"]]
]
PINS = dict(
    line.split("==")
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    if not line.startswith("#")
)


@pytest.mark.parametrize("requirement", PINNED, ids=lambda r: r.name)
def test_each_dependency_is_pinned_within_its_range(requirement):
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_lock_holds_versions_and_nothing_else():
    assert all(re.fullmatch(r"[a-z0-9-]+", name) and re.fullmatch(r"[0-9a-z.]+", v) for name, v in PINS.items())


def test_each_third_party_import_is_declared():
    owners = packages_distributions()
    declared = {canonicalize_name(Requirement(r).name) for r in [*PROJECT["dependencies"], *EXTRAS["tensorflow"]]}
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
def test_the_readme_names_the_command(command):
    assert re.search(rf"^\W*{command}\b", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)


def test_ci_runs_what_the_readme_says():
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)

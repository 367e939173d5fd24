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
    if requirement.name != PROJECT["name"]
]
FOR_USERS = [
    requirement for name in ("export", "grain", "kernels", "search", "tensorflow") for requirement in EXTRAS[name]
]
LOCK = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    if not line.startswith("#")
]
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = {
    "Linux x86_64": ("linux", "Linux", "x86_64", "posix"),
    "Linux aarch64": ("linux", "Linux", "aarch64", "posix"),
    "macOS": ("darwin", "Darwin", "arm64", "posix"),
    "Windows": ("win32", "Windows", "AMD64", "nt"),
}
MARKERS = ("sys_platform", "platform_system", "platform_machine", "os_name")


def needed(requirement: Requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_dependency_has_one_pin_in_its_range(python, platform):
    environment = dict(zip(MARKERS, PLATFORMS[platform], strict=True))
    environment |= {"python_version": python, "python_full_version": f"{python}.9"}
    pins = [(canonicalize_name(pin.name), str(pin.specifier)) for pin in LOCK if needed(pin, environment)]
    versions = dict(pins)
    assert len(versions) == len(pins)
    for requirement in (each for each in PINNED if needed(each, environment)):
        assert versions[canonicalize_name(requirement.name)].removeprefix("==") in requirement.specifier, requirement


def test_lock_holds_versions_only():
    assert all(re.fullmatch(r"==[0-9a-z.]+", str(pin.specifier)) and not pin.url for pin in LOCK)


def test_the_pythons_of_the_lock_are_those_of_the_classifiers():
    prefix = "Programming Language :: Python :: "
    assert [c.removeprefix(prefix) for c in PROJECT["classifiers"] if c.startswith(f"{prefix}3.")] == list(PYTHONS)
    assert f"for python in {' '.join(PYTHONS)}; do" in (ROOT / "Makefile").read_text("utf-8")


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


def test_citation_names_the_version_and_the_licence():
    cited = dict(re.findall(r"^([a-z-]+): (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE))
    assert {"cff-version", "message", "title"} <= cited.keys()
    assert (cited["title"], cited["version"]) == (PROJECT["name"], PROJECT["version"])
    assert cited["license"] in PROJECT["license"].split(" AND ")


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

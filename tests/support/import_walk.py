"""Every import statement of the project."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from support.paths import ROOT

TRACKS = ("numpy_nn", "jax_nn", "torch_nn")


PACKAGES = (*TRACKS, "compare")


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of each thing that ``path`` imports, relative imports resolved."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def is_within(name: str, parent: str) -> bool:
    """Whether the dotted ``name`` is ``parent`` or lies below it."""
    return name == parent or name.startswith(parent + ".")


def import_graph(*packages: str) -> dict[str, set[str]]:
    """Module -> modules of ``packages`` that it imports anywhere in its file, function bodies included."""
    modules = {}
    for package in packages:
        for path in sources(package):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path

    def module_of(name: str) -> str:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    graph = {}
    for module, path in modules.items():
        never_run = for_types(path)
        graph[module] = {module_of(name) for line, name in imported(path) if line not in never_run} - {module, ""}
    return graph


def for_types(path: Path) -> set[int]:
    """The lines under ``if TYPE_CHECKING``, which never run."""
    return {
        line
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }

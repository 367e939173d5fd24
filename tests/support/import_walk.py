"""Every import statement of the project."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
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


def import_order(package: str) -> list[str]:
    """The modules of a package, each after those that it imports; graphlib.CycleError names a cycle of imports.

    Imports inside functions count. A package's ``__init__`` counts where a name of its own is imported.
    """
    named = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources(package)}
    modules = {name.removesuffix(".__init__"): path for path, name in named.items()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {name for _, name in imported(path)}
        graph[module] = {name if name in modules else name.rpartition(".")[0] for name in names} & modules.keys()
    return list(TopologicalSorter(graph).static_order())

"""A dotted name in backticks, in a docstring or a comment, exists if it looks like one of ours."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.import_walk import PACKAGES, sources
from support.paths import ROOT

NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(.*?\))?`")
SUFFIXES = {"css", "csv", "gz", "html", "ipynb", "js", "json", "md", "npz", "png", "pt", "safetensors", "toml", "txt"}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every comment, and of every string that is a statement, such as a docstring."""
    source = path.read_text("utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


@cache
def members(path: Path) -> dict[str, ast.AST]:
    """Names that a module defines at its top, also under an if, a try or a with, or imports anywhere."""
    tree = ast.parse(path.read_text("utf-8"))
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return dict([*definitions(ast.Module([*imports], [])), *definitions(tree)])


def definitions(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Names that a module or a class defines; of a class, those that its methods assign to self, too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name, child
            if isinstance(node, ast.ClassDef):
                for inner in ast.walk(child):
                    if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                        yield inner.attr, inner
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], child) for alias in child.names)
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            for target in ast.walk(child):
                if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store):
                    yield target.id, child
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from definitions(child)


def module(dotted: str) -> Path | None:
    """File of a module or a package of ours."""
    path = ROOT.joinpath(*dotted.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def exists_in(path: Path, names: list[str]) -> bool:
    """Whether ``names[0].names[1]…`` is found from a module's file on: as its submodule, or as what it defines."""
    if not names:
        return True
    first, *rest = names
    if path.name == "__init__.py" and (inner := module(".".join([*path.relative_to(ROOT).parent.parts, first]))):
        return exists_in(inner, rest)
    found = members(path).get(first)
    if isinstance(found, ast.ImportFrom):
        base = module(found.module or "")
        return base is None or exists_in(
            base, [next(a.name for a in found.names if first in (a.asname, a.name)), *rest]
        )
    if isinstance(found, ast.ClassDef) and rest and not found.bases:
        return rest[0] in dict(definitions(found))
    return found is not None


def is_missing(path: Path, name: str) -> bool:
    """Whether the name starts like ours (a package, a module beside this one, a name in it), but is not there."""
    names = name.split(".")
    if names[-1] in SUFFIXES:
        return False
    if names[-1] == "py":
        return not any(ROOT.rglob(f"{names[0]}.py"))
    if names[0] in PACKAGES:
        return not exists_in(ROOT / names[0] / "__init__.py", names[1:])
    if names[0] in members(path):
        return not exists_in(path, names)
    homes = {path.parent / "__init__.py", ROOT / path.relative_to(ROOT).parts[0] / "__init__.py"}
    inner = [home for home in homes if module(".".join([*home.relative_to(ROOT).parent.parts, names[0]]))]
    return bool(inner) and not any(exists_in(home, names) for home in inner)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_dotted_name_in_a_docstring_or_comment_exists(package: str) -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(package)
        for line, text in texts(path)
        for name in NAME.findall(text)
        if is_missing(path, name)
    ]
    assert not missing, "\n".join(missing)


def test_a_name_that_does_not_exist_is_found(tmp_path: Path) -> None:
    written = tmp_path / "module.py"
    written.write_text('"""See ``a.b``."""\nx = 1  # as `c.d(e)` does\n')
    assert [NAME.findall(text) for _, text in texts(written)] == [["c.d"], ["a.b"]]
    path = ROOT / "numpy_nn" / "train.py"
    for name in ("parallel.run_together", "numpy_nn.optim.sdg", "State.steps", "nowhere.py"):
        assert is_missing(path, name), name
    for name in (
        "parallel.start",
        "optim.OPTIMIZERS",
        "numpy_nn.parallel.group.Group.all_mean",
        "State.step",
        "x.mean",
    ):
        assert not is_missing(path, name), name

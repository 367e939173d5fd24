"""The notebooks: cheap checks of what is committed here, all cells and all solutions run by ``make notebooks``."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
SOLUTION = re.compile(r"<details>.*?</details>", re.DOTALL)
CODE = re.compile(r"^~~~python\n(.*?)\n~~~$", re.DOTALL | re.MULTILINE)
ABSOLUTE_PATH = re.compile(r"(?<![\w/.])/(?:home|root|tmp|usr|opt|work|Users|private)/|[A-Z]:\\\\Users")


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def solutions(notebook: Any) -> list[str]:
    """The code in the folded solutions, in order."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return [code for folded in SOLUTION.findall(text) for code in CODE.findall(folded)]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_readme_lists_the_notebooks_in_order():
    listed = re.findall(r"\]\((\d\d-[\w-]+\.ipynb)\)", (ROOT / "notebooks" / "README.md").read_text("utf-8"))
    assert listed == [path.name for path in NOTEBOOKS]


def test_notebook_is_valid_small_and_free_of_machine_paths(path):
    raw = path.read_text("utf-8")
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len(raw) < 1_000_000
    assert not ABSOLUTE_PATH.search(raw)
    assert not any(cell.metadata for cell in notebook.cells)  # timestamps, who had which cell open


def test_notebook_was_run_in_order_without_errors(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_notebook_asserts_and_has_solved_exercises(path):
    notebook = read(path)
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    nodes = [node for cell in code_cells(notebook) for node in ast.walk(ast.parse(cell.source))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    asserting = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr.startswith("assert_")]
    assert imported >= {"numpy", "jax", "torch"}
    assert len(asserting) >= 5
    assert len(SOLUTION.findall(words)) == words.count("<details>") >= 3
    for code in solutions(notebook):
        ast.parse(code)
    assert len(solutions(notebook)) >= 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_notebook_and_its_solutions_run(path):
    from nbclient import NotebookClient

    notebook = read(path)
    notebook.cells += [nbformat.v4.new_code_cell(code) for code in solutions(notebook)]
    # a kernel as a reader has it: drawing into the notebook, programs optimised
    env = {key: value for key, value in os.environ.items() if key not in ("MPLBACKEND", "XLA_FLAGS")}
    client = NotebookClient(notebook, timeout=300, startup_timeout=300, resources={"metadata": {"path": path.parent}})
    client.execute(env=env)

"""A notebook as a page of the site: text, code and output in order, figures beside it, formulas as MathML."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from nbconvert import MarkdownExporter

CODE = re.compile(r"(^(?:~~~|```).*?^(?:~~~|```)|`[^`\n]+`)", re.DOTALL | re.MULTILINE)  # blocks, and words in a line
FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.DOTALL)
FOLDED = re.compile(r"<details>\s*<summary>(?P<title>.*?)</summary>\n(?P<body>.*?)</details>", re.DOTALL)


def with_mathml(text: str) -> str:
    """Markdown whose formulas, ``$inline$`` and ``$$block$$``, are MathML; code keeps its dollars."""

    def formula(match: re.Match[str]) -> str:
        block = match["block"]
        mathml = convert(block or match["inline"], display="block" if block else "inline")
        return f'\n\n<div style="overflow-x: auto">{mathml}</div>\n\n' if block else mathml  # wider than a phone

    parts = CODE.split(text)
    parts[::2] = [FORMULA.sub(formula, part) for part in parts[::2]]
    return "".join(parts)


def with_folds(text: str) -> str:
    """Markdown whose folded solutions are admonitions that open on a click."""

    def fold(match: re.Match[str]) -> str:
        body = "\n".join(f"    {line}".rstrip() for line in match["body"].strip("\n").splitlines())
        return f'??? note "{match["title"]}"\n\n{body}\n'

    return FOLDED.sub(fold, text)


def words(path: Path) -> str:
    """The text of a notebook, where its links are."""
    cells: Any = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def notebook_page(path: Path, with_links: Callable[[str], str]) -> tuple[str, dict[str, bytes]]:
    """The Markdown of a notebook's page, and its figures by file name; ``with_links`` adapts the links of a text."""
    notebook: Any = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_folds(with_mathml(with_links(cell.source)))
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, {"unique_key": path.stem, "output_files_dir": f"{path.stem}-figures"}
    )
    return text, resources["outputs"]

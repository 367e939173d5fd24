"""Gather the pages of the site in build/pages: docs/, and whatever of the project they lead to.

A link out of docs/ works in the repository, and has to work on the site. So what it leads to comes along: some Markdown
files as pages of their own (``PAGES``), notebooks with their outputs, source files as pages that show them, all else as
it is. Exit status 1 and the names of page and file, if a link leads to no file. ``make docs`` runs this, and then
Zensical, which checks anchors.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from functools import partial
from pathlib import Path

from docs.notebook_pages import CODE, notebook_page, words

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build/pages"
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "notebooks/README.md": "notebooks.md"}
SHOWN = {".py": "python", ".toml": "toml", ".md": "markdown"}  # suffix: language
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?=(?:#[^)\s]*)?\))")


def place(path: str) -> str:
    """Where a file of the project is on the site."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    return PAGES.get(path) or f"source/{path}" + (".md" if Path(path).suffix in SHOWN else "")


def target(path: str, link: str) -> str:
    """The file of the project that a link in another leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def page(path: str, text: str) -> str:
    """The text of a page of the site, whose links lead to where things are there."""
    folder = posixpath.dirname(place(path)) or "."
    parts = CODE.split(text)
    parts[::2] = [
        LINK.sub(lambda link: posixpath.relpath(place(target(path, link["path"])), folder), part) for part in parts[::2]
    ]
    return "".join(parts)


def shown(path: str, text: str) -> str:
    """The text of a page that shows a source file."""
    return f"# {path}\n\n````{SHOWN[Path(path).suffix]}\n{text}````\n"


def collect() -> list[str]:
    """Write build/pages anew; return what is wrong."""
    shutil.rmtree(SITE, ignore_errors=True)
    own = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".png")]
    texts = {path: (ROOT / path).read_text("utf-8") for path in [*own, *PAGES] if path.endswith(".md")}
    written = {path: page(path, text) for path, text in texts.items()}
    copied = {path for path in own if path not in texts}
    wrong = []
    notebooks = {f"notebooks/{path.name}": words(path) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    for path, text in (texts | notebooks).items():
        for link in (
            {target(path, link["path"]) for link in LINK.finditer(CODE.sub("", text))} - texts.keys() - notebooks.keys()
        ):
            if not (ROOT / link).is_file():
                wrong.append(f"{path}: {link} is no file of the project")
            elif Path(link).suffix in SHOWN:
                written[link] = shown(link, (ROOT / link).read_text("utf-8"))
            else:
                copied.add(link)
    for path in [*written, *copied]:
        (SITE / place(path)).parent.mkdir(parents=True, exist_ok=True)
    for path, text in written.items():
        (SITE / place(path)).write_text(text, "utf-8")
    for path in copied:
        shutil.copyfile(ROOT / path, SITE / place(path))
    for notebook in notebooks:
        write_notebook(notebook)
    return wrong


def write_notebook(path: str) -> None:
    """Write the page of a notebook and its figures."""
    text, figures = notebook_page(ROOT / path, partial(page, path))
    for name, png in figures.items():
        figure = SITE / "notebooks" / name
        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.write_bytes(png)
    (SITE / place(path)).write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit("\n".join(collect()) or 0)

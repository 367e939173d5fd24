"""Source files as statements, the unit that is aligned, traced and shown."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, eq=False)
class Statement:
    """A simple statement, a docstring, or the header of a compound statement (``for``, ``if``, ``def``, ``class``)."""

    track: str
    path: str  # of its file, from the root of the project
    kind: str  # the name of its ast node; "Doc" for a docstring, "Else" for the line of an else
    shown: int  # the first line of it, or of the comments above it
    first: int
    last: int
    node: Any = field(repr=False)  # of ast; None for an else
    body: tuple[Statement, ...] = field(repr=False)  # of a compound statement

    @property
    def id(self) -> str:
        """Its identifier in the page, unique in the project."""
        return f"{self.path.removesuffix('.py').replace('/', '-')}-{self.first}"

    @property
    def code(self) -> str:
        """Its lines as one, without the comments above it."""
        return " ".join(line.strip() for line in lines(self.path)[self.first - 1 : self.last])


@cache
def lines(path: str) -> tuple[str, ...]:
    """The lines of a source file."""
    return tuple((ROOT / path).read_text(encoding="utf-8").splitlines())


@cache
def tree(path: str) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse("\n".join(lines(path)))


def flat(statements: Sequence[Statement]) -> Iterator[Statement]:
    """All statements in the order of the source: headers, then their bodies."""
    for statement in statements:
        yield statement
        yield from flat(statement.body)


class Reader:
    """Reads definitions of one file as statements."""

    def __init__(self, track: str, path: str):
        self.track, self.path = track, path
        self.end = 0  # the last line that was read

    def read(self, node: Any) -> Statement:
        """A definition of the module. The methods of a class are left out, as definitions of their own."""
        self.end = first_line(node) - 1
        inner = [each for each in node.body if is_docstring(each)] if isinstance(node, ast.ClassDef) else None
        return next(self._read(node, inner))

    def _read(self, node: Any, inner: list[Any] | None = None) -> Iterator[Statement]:
        kind = "Doc" if is_docstring(node) else type(node).__name__
        inner = getattr(node, "body", []) if inner is None else inner
        if not isinstance(inner, list) or not isinstance(node, ast.stmt | ast.ExceptHandler):
            inner = []  # a lambda's body, for instance
        yield self._one(kind, first_line(node), self._header_end(node) if inner else node.end_lineno, node, inner)
        for handler in getattr(node, "handlers", []):
            yield from self._read(handler)
        if following := getattr(node, "orelse", []):
            line = first_line(following[0])
            if self._text(line).startswith("elif"):
                yield from self._read(following[0])
                return
            while not self._text(line).startswith("else"):
                line -= 1
            yield self._one("Else", line, line, None, following)

    def _one(self, kind: str, first: int, last: int, node: Any, inner: list[Any]) -> Statement:
        shown = self.end + 1
        while shown < first and not self._text(shown):
            shown += 1
        self.end = last
        body = tuple(statement for each in inner for statement in self._read(each))
        return Statement(self.track, self.path, kind, shown, first, last, node, body)

    def _header_end(self, node: Any) -> int:
        """The line of the colon before the body of a compound statement."""
        line = first_line(node.body[0]) - 1
        while line > node.lineno and not self._text(line).partition("  #")[0].rstrip().endswith(":"):
            line -= 1
        return line

    def _text(self, line: int) -> str:
        return lines(self.path)[line - 1].strip()


def first_line(node: Any) -> int:
    """The first line of a node; that of its decorators, if it has any."""
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def is_docstring(node: Any) -> bool:
    """Whether a node is a string that stands by itself."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

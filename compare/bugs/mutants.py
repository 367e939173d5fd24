"""Mutants: every small edit of a source file that a test ought to notice, one at a time.

An operator is exchanged for its neighbour, a condition negated, a number or a switch changed, a keyword argument
left out, a statement removed. Texts, types, messages of errors and whatever runs on import only are left alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip
SHOWN, CONTEXT = 70, 15  # characters of an edit that are printed, and of them before the difference
LEFT_ALONE = (ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mutant:
    """One edit: the node at these bytes of the file is replaced."""

    file: str  # relative to the project, with forward slashes
    line: int
    start: int  # bytes of the UTF-8 text
    stop: int
    old: str  # as ast writes it
    new: str

    def apply(self, source: bytes) -> bytes:
        """The text of the file with this edit."""
        return source[: self.start] + self.new.encode() + source[self.stop :]

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        different = (k for k, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
        same = max(next(different, 0) - CONTEXT, 0) if len(old) > SHOWN else 0
        old, new = (f"{'…' if same else ''}{text[same:]}" for text in (old, new))
        return f"{self.file}:{self.line}  {shortened(old)}  ->  {shortened(new)}"


def shortened(text: str) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def mutants(file: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in the order of its lines; each of them still compiles."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in functions(ast.parse(source)):
        for inner in walk(node):
            start, stop = (starts[line - 1] + column for line, column in ends(inner))
            old = ast.unparse(inner)
            found += [Mutant(file, inner.lineno, start, stop, old, new) for new in edits(inner)]
    return sorted(found, key=lambda each: (each.start, each.stop, each.new))


def ends(node: ast.AST) -> tuple[tuple[int, int], tuple[int, int]]:
    """Line and column (in bytes) of a node's first character and of the one after its last."""
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


def functions(tree: ast.Module) -> Iterator[ast.AST]:
    """The outermost functions of a module and of its classes, and the constants that the module computes with."""
    for node in tree.body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        for member in members:
            is_number = isinstance(member, ast.Assign) and isinstance(member.value, ast.Constant | ast.BinOp)
            if isinstance(member, ast.FunctionDef) or is_number:
                yield member


def walk(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """The nodes below, without annotations, docstrings, decorators and the parts that are left alone."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, LEFT_ALONE):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant | ast.Yield):
                continue  # a docstring, or the yield of a context manager
            if isinstance(child, ast.keyword) and child.arg == "strict":
                continue  # zip's check, which right code cannot fail
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            yield from walk(child)


def edits(node: ast.expr | ast.stmt) -> list[str]:
    """The texts that may take the place of a node."""
    match node:
        case ast.Compare(left, [operator], [right]):
            return [f"({ast.unparse(ast.Compare(left, [COMPARISONS[type(operator)]()], [right]))})"]
        case ast.BinOp(left, operator, right) if type(operator) in ARITHMETIC and not is_text(left):
            return [f"({ast.unparse(ast.BinOp(left, ARITHMETIC[type(operator)](), right))})"]
        case ast.BoolOp(operator, values):
            other = ast.And() if isinstance(operator, ast.Or) else ast.Or()
            return [f"({ast.unparse(ast.BoolOp(other, values))})"]
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            return [f"({ast.unparse(operand)})"]
        case ast.IfExp(test, body, orelse):
            return [f"({ast.unparse(ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse))})"]
        case ast.Constant(bool() as value):
            return [str(not value)]
        case ast.Constant(int() as value):
            return [str(value + 1)]
        case ast.Constant(float() as value):
            return [str(2 * value or 1.0)]
        case ast.Call(function, arguments, keywords):
            named = [each for each in keywords if each.arg not in (None, "strict")]
            kept = ([other for other in keywords if other is not each] for each in named)
            return [ast.unparse(ast.Call(function, arguments, rest)) for rest in kept]
        case ast.Expr() | ast.AugAssign():
            return ["pass"]
    return []


def is_text(node: ast.expr) -> bool:
    """Whether an operand of + or % is a string."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))

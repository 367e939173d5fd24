"""Watch Python code line by line: which arrays each line bound or changed, and from which it made them."""

from __future__ import annotations

import ast
import contextlib
import functools
import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from compare.ports.frames import is_own, stack
from compare.ports.recording import Recording

DEPTH = 4  # of containers in which a line's arrays are looked for


class Statement(NamedTuple):
    """What one statement reads and writes, by the names of variables."""

    text: str
    reads: frozenset[str]
    writes: frozenset[str]


class LineTracer:
    """Records into ``recording``; ``given`` tells of arrays that are there before."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.backward = False
        self.known: dict[int, int] = {}
        self.alive: list[np.ndarray] = []  # an array that is not freed keeps its id
        self.last: dict[int, tuple[int, list[int]]] = {}  # by frame: the line that runs, the values that it reads

    def given(self, op: str, array: np.ndarray, path: str) -> int:
        """Record an array that no line made."""
        return self.keep(
            array, self.recording.add(op, array, path=path, dtype=str(array.dtype), backward=self.backward)
        )

    def keep(self, array: np.ndarray, number: int) -> int:
        self.alive.append(array)
        self.known[id(array)] = number
        return number

    def id_of(self, array: np.ndarray, op: str) -> int:
        """The value that an array is, recorded now if no line was seen to make it."""
        return self.known[id(array)] if id(array) in self.known else self.given(op, array, "")

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Record every line of the user's own code that runs in this thread."""
        before = sys.gettrace()
        sys.settrace(self.enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Follow a call of one of the user's own functions; arguments that the call made are values of its line."""
        if not is_own(frame.f_code.co_filename):
            return None
        caller = frame.f_back
        if caller is not None and id(caller) in self.last:
            line, sources = self.last[id(caller)]
            code = frame.f_code
            for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
                for array in arrays_in(frame.f_locals.get(name)):
                    if id(array) not in self.known:
                        self.made(caller, line, array, sources)
        return self.step

    def step(self, frame: FrameType, event: str, argument: Any) -> Any:
        """A line is about to run: the one before has run."""
        if event in ("line", "return"):
            if id(frame) in self.last:
                line, sources = self.last.pop(id(frame))
                self.ran(frame, line, sources, argument if event == "return" else None)
            if event == "line":
                statement = statements(frame.f_code.co_filename).get(frame.f_lineno)
                reads = statement.reads if statement else ()
                variables = frame.f_locals
                sources = [i for name in reads if name in variables for i in self.ids(variables[name])]
                self.last[id(frame)] = frame.f_lineno, sources
        return self.step

    def ran(self, frame: FrameType, line: int, sources: list[int], returned: Any) -> None:
        """Record what a statement made: the variables it wrote, and what it returned."""
        statement = statements(frame.f_code.co_filename).get(line)
        if statement is None:
            return
        variables = frame.f_locals
        written = [variables[name] for name in statement.writes if name in variables]
        for array in [each for value in [*written, returned] for each in arrays_in(value)]:
            number = self.known.get(id(array))
            if number is None or self.changed(array, number):
                self.made(frame, line, array, sources)

    def made(self, frame: FrameType, line: int, array: np.ndarray, sources: list[int]) -> None:
        """Record an array as made, or changed, by a line."""
        statement = statements(frame.f_code.co_filename).get(line)
        frames = stack(frame)
        frames = (frames[0]._replace(line=line), *frames[1:])
        more = {"frames": frames, "path": frame.f_code.co_name, "dtype": str(array.dtype), "backward": self.backward}
        op = statement.text if statement else "line"
        before = [self.known[id(array)]] if id(array) in self.known else []
        self.keep(array, self.recording.add(op, array, inputs=[*sources, *before], **more))

    def ids(self, value: Any) -> list[int]:
        return [self.known[id(array)] for array in arrays_in(value) if id(array) in self.known]

    def changed(self, array: np.ndarray, number: int) -> bool:
        stored = self.recording.values[number].stored
        return not np.array_equal(stored.load(), array, equal_nan=True)


def arrays_in(value: Any, depth: int = DEPTH) -> Iterator[Any]:
    """Numeric arrays, and NumPy's numbers, in nested tuples, lists and dictionaries."""
    if isinstance(value, (np.ndarray, np.floating)):
        if value.dtype.kind in "fiubc":
            yield value
    elif depth and isinstance(value, Mapping):
        for each in value.values():
            yield from arrays_in(each, depth - 1)
    elif depth and isinstance(value, (tuple, list)):
        for each in value:
            yield from arrays_in(each, depth - 1)


@functools.cache
def statements(file: str) -> Mapping[int, Statement]:
    """The simple statements of a file by each of their lines."""
    found: dict[int, Statement] = {}
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return found
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Return)):
            statement = parts_of(node)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                found[line] = statement
        elif isinstance(node, (ast.For, ast.With)):
            found[node.lineno] = parts_of(node, [node.target, node.iter] if isinstance(node, ast.For) else node.items)
    return found


def parts_of(node: ast.AST, among: Sequence[ast.AST] | None = None) -> Statement:
    """The names that a statement reads and writes; what it changes in place counts as both."""
    nodes = [each for part in among or [node] for each in ast.walk(part)]
    reads = {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
    writes = {each.id for each in nodes if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    if isinstance(node, ast.AugAssign):
        reads |= {each.id for each in ast.walk(node.target) if isinstance(each, ast.Name)}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if not isinstance(node, ast.For):
        for target in targets:  # x[...] = y changes x
            if isinstance(target, ast.Subscript):
                writes |= {each.id for each in ast.walk(target.value) if isinstance(each, ast.Name)}
    for each in nodes:  # np.exp(x, out=x)
        if isinstance(each, ast.keyword) and each.arg == "out":
            writes |= {name.id for name in ast.walk(each.value) if isinstance(name, ast.Name)}
    text = ast.unparse(node).partition("\n")[0]
    return Statement(text, frozenset(reads), frozenset(writes))

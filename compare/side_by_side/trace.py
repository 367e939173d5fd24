"""What each line of a model's forward pass computed in each track, on the same images from the same weights."""

from __future__ import annotations

import ast
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np

from compare.parity.check import distance
from compare.side_by_side.align import Aligned, Row
from compare.side_by_side.statements import Statement
from compare.tracks import TRACKS

TOLERANCE = 1e-6  # largest relative difference between two tracks in float64 that is not marked


@dataclass
class Record:
    """What a statement computed each time it ran: its arrays, by the names that it gave them."""

    orders: list[int] = field(default_factory=list)  # the position of each run among the runs of all statements
    values: list[dict[str, np.ndarray]] = field(default_factory=list)


@dataclass
class Measured:
    """What the page says of a line: name, dtype and shapes of its arrays, and how far the tracks are apart there."""

    arrays: str
    runs: int
    gaps: dict[tuple[str, str], float] = field(default_factory=dict)  # largest of all runs, relative, by pair of tracks
    differs: int | None = None  # the position of the first run in which two tracks differ by more than rounding
    first: bool = False  # of the track's lines that differ, the first to run


class Recorder:
    """Records the values of the given statements, while a function runs under :meth:`watch`."""

    def __init__(self, statements: Sequence[Statement], root: str):
        self.by_line = {
            (f"{root}/{each.path}", line): each for each in statements for line in range(each.first, each.last + 1)
        }
        self.files = {file for file, _ in self.by_line}
        self.records: dict[str, Record] = {}
        self.runs = itertools.count()

    def watch(self, function: Callable[[], Any]) -> Any:
        """Call a function of no arguments, and return its answer."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return function()
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, value: Any) -> Any:
        if frame.f_code.co_filename not in self.files or frame.f_code.co_name.startswith("<"):
            return None
        current: Statement | None = None

        def step(frame: FrameType, event: str, value: Any) -> Any:
            nonlocal current
            if event == "line":
                here = self.by_line.get((frame.f_code.co_filename, frame.f_lineno))
                if here is not current:
                    self._store(current, frame)
                    current = here
            elif event == "return":
                if current is not None and current.kind == "Return":
                    self._record(current, dict(arrays(["return"], value)))
                else:
                    self._store(current, frame)
            return step

        return step

    def _store(self, statement: Statement | None, frame: FrameType) -> None:
        if statement is not None:
            found: dict[str, np.ndarray] = {}
            for name in targets(statement):
                found |= dict(arrays([name], frame.f_locals.get(name)))
            self._record(statement, found)

    def _record(self, statement: Statement, found: dict[str, np.ndarray]) -> None:
        record = self.records.setdefault(statement.id, Record())
        record.orders.append(next(self.runs))
        record.values.append(found)


def targets(statement: Statement) -> list[str]:
    """The local variables that an assignment binds, in order; neither caches nor a lone underscore."""
    node = statement.node
    if isinstance(node, ast.Assign):
        bound: list[ast.expr] = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        bound = [node.target]
    else:
        return []
    names = [each for target in bound for each in ast.walk(target) if isinstance(each, ast.Name)]
    return [each.id for each in names if isinstance(each.ctx, ast.Store) and not re.search("cache|^_$", each.id)]


def arrays(names: Sequence[str], value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """A copy of the value, if it is an array of numbers; of a tuple that is returned, the first item."""
    if names == ["return"] and isinstance(value, tuple) and value:
        value = value[0]
    if hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__array__"):
        yield names[0], np.asarray(value).copy()


def measure(model: str, aligned: Aligned, statements: dict[str, list[Statement]]) -> dict[str, Measured]:
    """Run the model in all tracks and compare line by line; by the ids of the statements that ran."""
    from compare.side_by_side.forward import forwards

    records: dict[str, Record] = {}
    for track, (root, call) in forwards(model).items():
        recorder = Recorder(statements[track], root)
        recorder.watch(call)
        records |= recorder.records
    found = {id: Measured(described(record.values), len(record.values)) for id, record in records.items()}
    for row in [*itertools.chain.from_iterable(aligned.rows.values()), *aligned.rest]:
        compare(row, records, found)
    for listed in statements.values():
        apart = [found[each.id] for each in listed if each.id in found and found[each.id].differs is not None]
        if apart:
            min(apart, key=lambda each: each.differs or 0).first = True
    return found


def compare(row: Row, records: dict[str, Record], found: dict[str, Measured]) -> None:
    """Write into ``found`` how far the tracks are apart on a line, where it ran equally often in two of them."""
    ran = {track: records[row[track].id] for track in TRACKS if track in row and row[track].id in records}
    for a, b in itertools.combinations(ran, 2):
        if len(ran[a].values) != len(ran[b].values):
            continue
        runs = [list(differences(*both)) for both in zip(ran[a].values, ran[b].values, strict=True)]
        if not any(runs):
            continue
        beyond = next((k for k, gaps in enumerate(runs) if any(not gap <= TOLERANCE for gap in gaps)), None)
        for track in ran:  # the third track's line, too, stands where the tracks differ
            line = found[row[track].id]
            line.gaps[a, b] = max(itertools.chain.from_iterable(runs))
            if beyond is not None and beyond < len(ran[track].orders):
                when = ran[track].orders[beyond]
                line.differs = when if line.differs is None else min(when, line.differs)


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> Iterator[float]:
    """Relative differences of the arrays of one run: in pairs if both have as many, else of the first of each."""
    count = len(a) if len(a) == len(b) else min(len(a), len(b), 1)
    for left, right in list(zip(a.values(), b.values(), strict=False))[:count]:
        yield difference(left, right)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """‖a - b‖/‖b‖, with axes of length 1 left out and the channels last; infinity where the shapes differ."""
    a, b = np.squeeze(a), np.squeeze(b)
    layouts = [b, np.moveaxis(b, 1, -1), np.moveaxis(b, -1, 1)] if b.ndim > 2 else [b]
    return min((distance(a, each)[1] for each in layouts if each.shape == a.shape), default=math.inf)


def described(values: Sequence[dict[str, np.ndarray]]) -> str:
    """Names, dtype and shapes of what a statement computed in all of its runs."""
    words = []
    for name in dict.fromkeys(name for each in values for name in each):
        found = [each[name] for each in values if name in each]
        shapes = list(dict.fromkeys(f"({', '.join(map(str, each.shape))})" for each in found))
        shown = shapes[0] if len(shapes) == 1 else f"{shapes[0]} … {shapes[-1]}"
        words.append(f"{'' if name == 'return' else name + ' '}{found[0].dtype} {shown}")
    return ", ".join(words)

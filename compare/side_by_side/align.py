"""Which statements of the three tracks are twins: sequence alignment by the names that the statements share."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from compare.side_by_side.statements import Statement
from compare.side_by_side.topics import PACKAGES, Block, View

THRESHOLD = 0.34  # of the similarity, 0 to 1, below which two statements are no twins
HEADER = 0.4  # similarity of two function headers, at least: the definitions that they begin have been paired already
WEIGHTS = {"call": 2.0, "attribute": 2.0, "string": 2.0, "name": 1.0, "number": 0.5}
HEADERS = {"ClassDef", "FunctionDef", "Doc", "For", "If", "Else", "With", "While", "Try", "ExceptHandler"}
# Words of the frameworks and of bookkeeping, which tell nothing about what a statement computes.
SILENT = set("self cls np jnp jax nnx nn torch F lax rngs rng params param tree forward backward init call any".split())
SAME = {
    **dict.fromkeys(["flatten", "unflatten", "view"], "reshape"),
    **dict.fromkeys(["swapaxes", "permute"], "transpose"),
    **dict.fromkeys(["cat", "concat"], "concatenate"),
    **dict.fromkeys(["optim", "optimizer"], "opt"),
    "logit": "output",
}
UNPAIRED = {"ClassDef", "FunctionDef", "Doc", "Return"}  # not outside of the definition that they belong to
Row = dict[str, Statement]
Words = Callable[[Statement], dict[str, float]]


@dataclass
class Aligned:
    """An aligned view: the rows of each block, and the twins of each statement."""

    rows: dict[str, list[Row]]
    rest: list[Row] = field(default_factory=list)  # twins of which one stands in another definition
    twins: dict[str, set[Statement]] = field(default_factory=dict)  # by id, in all other tracks

    def link(self, *group: Statement) -> None:
        """Make these statements, and the twins that each has, twins of one another."""
        together = {*group, *(twin for each in group for twin in self.twins.get(each.id, ()))}
        for each in together:
            others = {other for other in together if other.track != each.track}
            self.twins.setdefault(each.id, set()).update(others)

    def found(self, statement: Statement, track: str) -> bool:
        """Whether a statement has a twin in a track."""
        return any(twin.track == track for twin in self.twins.get(statement.id, ()))


def identifiers(statement: Statement) -> Iterator[tuple[str, str]]:
    """Kind and text of every name, attribute, short string and number of a statement; of a header, not of its body."""
    node = statement.node
    if node is None or statement.kind in ("Doc", "Try"):
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield "call", node.name
        return
    inside = {
        id(each) for part in ("body", "orelse", "handlers") for child in _list(node, part) for each in ast.walk(child)
    }
    for each in ast.walk(node):
        if id(each) in inside:
            continue
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name):
            yield "call", each.func.id
            inside.add(id(each.func))
        elif isinstance(each, ast.Attribute):
            yield "attribute", each.attr
        elif isinstance(each, ast.Name):
            yield "name", each.id
            if isinstance(each.ctx, ast.Store):
                yield "name", f"={each.id}"
        elif isinstance(each, ast.keyword) and each.arg:
            yield "name", each.arg
        elif isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value.isidentifier():
            yield "string", each.value
        elif isinstance(each, ast.Constant) and isinstance(each.value, int | float):
            yield "number", str(each.value)


def _list(node: ast.AST, part: str) -> list[ast.AST]:
    found = getattr(node, part, [])
    return found if isinstance(found, list) else []


@cache
def words(statement: Statement) -> dict[str, float]:
    """The words of a statement with their weights; names of caches are left out, conv2d is conv, norms is norm."""
    found: dict[str, float] = {}
    for kind, text in identifiers(statement):
        if re.search(r"cache", text):
            continue
        for part in text.replace("2d", "").split("_") if kind != "number" else [text]:
            word = part.lower()
            word = word[:-1] if len(word) > 3 and word.endswith("s") else word
            if word and word not in SILENT:
                word = SAME.get(word, word)
                found[word] = max(found.get(word, 0), WEIGHTS[kind])
    return found


def similarity(a: Statement, b: Statement, words: Words = words) -> float:
    """Dice's coefficient of the weighted words, 0 to 1; headers are similar only to headers of their kind."""
    if a.kind != b.kind and HEADERS & {a.kind, b.kind}:
        return 0.0
    if a.kind in ("Doc", "Else", "Try"):
        return 1.0
    left, right = words(a), words(b)
    total = sum(left.values()) + sum(right.values())
    shared = sum(min(left[word], right[word]) for word in left.keys() & right.keys())
    if a.kind == b.kind == "FunctionDef":  # whose names may differ: forward, __call__
        return max(2 * shared / total if total else 1.0, HEADER)
    return (2 * shared / total if total else 0.0) + (0.05 if a.kind == b.kind and shared else 0.0)


def pairs(a: Sequence[Statement], b: Sequence[Statement], words: Words = words) -> list[tuple[int, int]]:
    """The alignment of two sequences with the largest sum of similarities (Needleman & Wunsch 1970), without gaps."""
    best = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]
    scores = [[similarity(left, right, words) for right in b] for left in a]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            matched = best[i + 1][j + 1] + scores[i][j] if scores[i][j] >= THRESHOLD else 0.0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], matched)
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if scores[i][j] >= THRESHOLD and best[i][j] == best[i + 1][j + 1] + scores[i][j]:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return found


def merge(rows: list[Row], block: Sequence[Statement]) -> list[Row]:
    """Rows with the statements of one more track, each in the row of the statement that it is most similar to."""
    best: dict[int, int] = {}
    for track in PACKAGES:  # a row without a twin of one track may have one of another
        free = [k for k, row in enumerate(rows) if track in row]
        found = [(free[i], j) for i, j in pairs([rows[k][track] for k in free], block)]
        for i, j in found:
            crosses = any((i - k) * (j - other) <= 0 for k, other in best.items())
            if not crosses:
                best[i] = j
    made: list[Row] = []
    start = 0
    for k, row in enumerate(rows):
        if k in best:
            made += ({each.track: each} for each in block[start : best[k]])
            made.append(row | {block[best[k]].track: block[best[k]]})
            start = best[k] + 1
        else:
            made.append(row)
    return made + [{each.track: each} for each in block[start:]]


def align(view: View) -> Aligned:
    """Align the definitions of a view that have one name, then what is left over in all of them."""
    aligned = Aligned({})
    for name, block in view.blocks.items():
        rows: list[Row] = []
        for track in by_likeness(block):
            rows = merge(rows, block[track])
        aligned.rows[name] = rows
        for row in rows:
            aligned.link(*row.values())
        for statement in (each for statements in block.values() for each in statements):
            join_return(aligned, block, statement)
    align_rest(view, aligned)
    return aligned


def by_likeness(block: dict[str, Block]) -> list[str]:
    """The tracks of a block, the two that have most in common first; JAX and PyTorch where it makes no difference."""
    together = [each for each in (("jax", "torch"), ("numpy", "torch"), ("numpy", "jax")) if {*each} <= block.keys()]
    first = max(together, key=lambda each: len(pairs(block[each[0]], block[each[1]])), default=())
    return [*first, *(track for track in block if track not in first)]


def align_rest(view: View, aligned: Aligned) -> None:
    """Twins for what has none yet: a helper of one track may stand in the middle of a function of another."""
    for a, b in itertools.combinations(PACKAGES, 2):
        left, right = (
            [each for each in view.of(track) if not aligned.found(each, other) and each.kind not in UNPAIRED]
            for track, other in ((a, b), (b, a))
        )
        for i, j in pairs(left, right):
            aligned.rest.append({a: left[i], b: right[j]})
            aligned.link(left[i], right[j])
        for track, other in itertools.permutations(PACKAGES, 2):
            for block in view.blocks.values():
                join_consumer(aligned, block.get(track, []), other)


def join_return(aligned: Aligned, block: dict[str, Block], statement: Statement) -> None:
    """``y = f(x)``, ``return y`` is what ``return f(x)`` is elsewhere: its return is a twin of that, too."""
    if statement.kind != "Return" or not statement.node.value:
        return
    for track in PACKAGES:
        if track != statement.track and not aligned.found(statement, track):
            last = [each for each in block.get(track, []) if each.kind == "Return"][-1:]
            for twin in last:
                own = [each for each in aligned.twins.get(twin.id, ()) if each.track == statement.track]
                if own and own[0].kind != "Return":
                    aligned.link(statement, twin)


def join_consumer(aligned: Aligned, block: Sequence[Statement], track: str) -> None:
    """A statement without a twin that only prepares one other statement, such as ``n, t, d = x.shape``, joins that."""
    for k, statement in reversed(list(enumerate(block))):
        names, using = assigned(statement), []
        if not names or track == statement.track or aligned.found(statement, track):
            continue
        for later in block[k + 1 :]:
            if names & read(later):
                using.append(later)
            names -= assigned(later)
        if len(using) == 1 and using[0].kind not in ("Return", "Expr"):
            for twin in [each for each in aligned.twins.get(using[0].id, ()) if each.track == track]:
                aligned.twins.setdefault(statement.id, set()).add(twin)
                aligned.twins[twin.id].add(statement)


def assigned(statement: Statement) -> set[str]:
    """The local variables that a simple assignment binds."""
    if statement.kind not in ("Assign", "AnnAssign"):
        return set()
    return {
        each.id for each in ast.walk(statement.node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }


def read(statement: Statement) -> set[str]:
    """The local variables that a statement uses; of a header, not those of its body."""
    return {text for kind, text in identifiers(statement) if kind in ("name", "call")} - assigned(statement) | {
        each.id for each in ast.walk(getattr(statement.node, "value", None) or ast.Pass()) if isinstance(each, ast.Name)
    }

"""Which line of a NumPy backward pass belongs to which line of its forward pass."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator, Sequence

from compare.side_by_side.align import assigned, identifiers, pairs, read, words
from compare.side_by_side.statements import Statement, flat
from compare.side_by_side.topics import Block, View

CACHE = 3.0  # weight of the name of a cache, which is written forward and read backward


def partners(forward: View, backward: View) -> dict[str, list[Statement]]:
    """For the id of each NumPy statement, its statements in the other pass."""
    found: dict[str, list[Statement]] = {}
    for name, block in forward.blocks.items():
        ahead, back = block.get("numpy", []), backward.blocks.get(name, {}).get("numpy", [])
        if ahead and back:
            for one, other in partners_of(function(ahead, "forward"), function(back, "backward")):
                found.setdefault(one.id, []).append(other)
                found.setdefault(other.id, []).append(one)
    return found


def function(block: Block, direction: str) -> Statement:
    """The function of a block whose name ends with the direction, beside helpers; else the first statement."""
    named = (each for each in block if each.kind == "FunctionDef" and each.node.name.endswith(direction))
    return next(named, block[0])


def partners_of(forward: Statement, backward: Statement) -> Iterator[tuple[Statement, Statement]]:
    """The pairs of a forward function and its backward function: headers, docstrings, what is cached, and lines.

    Only a function made of other forward functions has a line in backward for each line in forward. In an elementary
    one, such as a norm, a gradient depends on several lines, and the function as a whole is the pair.
    """
    yield forward, backward
    for kind, takes in (("Doc", is_doc), ("Return", unpacks)):
        ends = [each for each in flat(forward.body) if each.kind == kind][-1:]
        yield from ((end, each) for end in ends for each in flat(backward.body) if takes(each))
    if any(text.endswith("_forward") for each in flat(forward.body) for _, text in identifiers(each)):
        yield from mirror_pairs(forward, backward)


def mirror_pairs(forward: Statement, backward: Statement) -> Iterator[tuple[Statement, Statement]]:
    """Align the lines of a forward function with those of its backward function, which are in reverse order."""
    filing = {later: line for line, later in itertools.pairwise(flat(backward.body)) if files(later, line)}
    ahead = [each for each in flat(forward.body) if each.kind not in ("Doc", "Return")]
    back = [each for each in mirrored(backward.body) if each.kind not in ("Doc", "Return") and each not in filing]
    back = [each for each in back if not unpacks(each)]
    names = frozenset(text for each in flat([forward]) for _, text in identifiers(each))
    alike = functools.partial(mirror_words, names=names)
    partner: dict[Statement, Statement] = {}
    for _ in range(2):  # once more for what stands in the same order in both, such as two branches of an if
        rest = [each for each in back if each not in partner]
        free = [each for each in ahead if each not in partner.values()]
        partner |= {rest[j]: free[i] for i, j in pairs(free, rest, alike)}
    partner |= {later: partner[line] for later, line in filing.items() if line in partner}
    yield from ((ahead, back) for back, ahead in partner.items())


def is_doc(statement: Statement) -> bool:
    """Whether a statement is a docstring."""
    return statement.kind == "Doc"


def files(statement: Statement, line: Statement) -> bool:
    """Whether a statement puts into a dictionary what the line before it computed."""
    made = statement.kind == "Assign" and any(isinstance(each, ast.Dict) for each in ast.walk(statement.node.value))
    return made and bool(assigned(line) & read(statement))


def mirrored(statements: Sequence[Statement]) -> Iterator[Statement]:
    """Statements from the last to the first; the header of a loop still stands before its body."""
    for statement in reversed(statements):
        yield statement
        yield from mirrored(statement.body)


def unpacks(statement: Statement) -> bool:
    """Whether a statement takes a cache apart."""
    value = getattr(statement.node, "value", None)
    return statement.kind == "Assign" and isinstance(value, ast.Name) and "cache" in value.id


def mirror_words(statement: Statement, names: frozenset[str]) -> dict[str, float]:
    """The words of a statement, the names of its caches, and dh as h where forward has an h."""
    found = dict(words(statement))
    if statement.kind in ("For", "If"):
        found[statement.kind] = 2
    for _, text in identifiers(statement):
        if "cache" in text and text != "cache":
            found[text] = CACHE
        forward = re.sub("^(=?)d", r"\1", text)
        if forward != text and forward in names:
            found.pop(text, None)
            found[forward] = max(found.get(forward, 0), 1)
    return found

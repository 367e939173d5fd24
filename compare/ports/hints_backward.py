"""The pattern of gradients or running statistics that differ, and the usual cause that fits it."""

from __future__ import annotations

import numpy as np

from compare.ports.comparison import Comparison
from compare.ports.links import Link
from compare.ports.patterns import fits, pattern
from compare.ports.recording import Recording, Value
from compare.ports.report import Row


def gradient_pattern(comparison: Comparison, a: Recording, b: Recording, rows: list[Row]) -> str:
    """The pattern of the first gradient that differs."""
    for row in rows:
        link = next((each for each in comparison.links if (each.a, each.b) == (row.a, row.b)), None)
        if row.what == "gradient" and not row.passed and link is not None:
            x, y = a.gradients.get(row.a), b.gradients.get(row.b)
            if x is not None and y is not None:
                return pattern(link.move(np.asarray(x, np.float64)), link.of_b(np.asarray(y, np.float64)), [])
    return ""


def tied(comparison: Comparison, a: Recording, b: Recording) -> str:
    """A leaf of a that is several of b: its gradient is the sum of theirs."""
    of_leaf: dict[str, list[Link]] = {}
    for link in comparison.links:
        if link.part_a is None and link.part_b is None and link.how == "as stated":
            of_leaf.setdefault(link.a, []).append(link)
    for name, links in of_leaf.items():
        x, parts = a.gradients.get(name), [b.gradients.get(link.b) for link in links]
        if len(links) > 1 and x is not None and not any(part is None for part in parts):
            total = sum(np.asarray(part, np.float64) for part in parts)
            if fits(links[0].move(np.asarray(x, np.float64)), np.asarray(total)):
                names = ", ".join(link.b for link in links)
                return f"a shares {name} where b has {names}: its gradient is the sum of theirs"
    return ""


def backward_hint(left: Value, right: Value) -> str:
    """What cuts or replaces a gradient."""
    for name, value in (("a", left), ("b", right)):
        if value.op in ("detach", "stop_gradient"):
            return f"{name} has a {value.op} here"
    for name, value in (("a", left), ("b", right)):
        if value.rule is not None:
            return f"{name} defines its own gradient at {value.rule}"
    return ""


def statistics(comparison: Comparison, a: Recording, b: Recording, rows: list[Row]) -> tuple[str, str]:
    """Momentum and bias of running statistics: new = m · old + (1 - m) · that of the batch."""
    row = next(row for row in rows if row.what == "statistic" and not row.passed)
    link = next(each for each in comparison.links if (each.a, each.b) == (row.a, row.b))
    old = link.move(np.asarray(a.array(a.parameters[row.a]), np.float64))
    x, y = link.move(a.statistics[row.a]), link.of_b(b.statistics[row.b])
    found = pattern(x - old, y - old, [])
    if found.startswith("constant factor"):
        c = float(np.vdot(x - old, y - old) / np.vdot(x - old, x - old))
        if abs(c - 1) > 0.5:
            return found, "momentum convention: the weight of the old value on one side is that of the new on the other"
    variance = next((r for r in rows if r.what == "statistic" and not r.passed and "var" in r.b), None)
    mean = next((r for r in rows if r.what == "statistic" and not r.passed and "mean" in r.b), None)
    if variance is not None and mean is None:
        return found, "the running variance: biased (divided by n) against unbiased (by n - 1)"
    return found, ""

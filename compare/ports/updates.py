"""Updates of two optimizers, step by step, and which rule each of them follows.

From rest, with gradient g and parameter p, the first update of every common rule is a formula of g and p alone, which
can be fitted: SGD -η g; Adam -η g/(|g| + ε); AdamW -η (g/(|g| + ε) + λ p); Adam with L2 is Adam of g + λ p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compare.ports.align import distance
from compare.ports.links import Link
from compare.ports.patterns import fits
from compare.ports.report import Row

History = Sequence[Mapping[str, np.ndarray]]  # trained parameters by name: before the first step, and after each
DECAYS = (1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)
FLOOR = 1e-12  # of the largest update of a step: below it an update is rounding


def update_rows(a: History, b: History, links: Sequence[Link], tolerance: float) -> list[Row]:
    """How far each parameter's update is apart in each step; the first step that differs is the last one listed."""
    rows: list[Row] = []
    for step in range(1, len(a)):
        noise = FLOOR * max(float(np.abs(a[step][name] - a[step - 1][name]).max(initial=0)) for name in a[0])
        for link in links:
            if link.a in a[0] and link.b in b[0]:
                one = link.move(a[step][link.a] - a[step - 1][link.a])
                other = link.of_b(b[step][link.b] - b[step - 1][link.b])
                rel = 0.0 if np.abs(one - other).max(initial=0) <= noise else distance(one, other)
                rows.append(Row("update", link.a, link.b, rel, tolerance, f"step {step}"))
        if any(not row.passed for row in rows):
            break
    return rows


def rule(g: np.ndarray, p: np.ndarray, update: np.ndarray) -> str:
    """The rule that makes this first update, "" if none of those known does."""
    if np.linalg.norm(g) == 0:
        return ""
    if fits(update, np.vdot(g, update) / np.vdot(g, g) * g):
        return "SGD"
    if (found := adam_epsilon(g, update)) is not None:
        return f"Adam with ε = {found:.1e}"
    for decay in DECAYS:
        if (found := adam_epsilon(g + decay * p, update)) is not None:
            return f"Adam with L2 {decay:g}, ε = {found:.1e}"
    for epsilon in (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
        basis = np.stack([g / (np.abs(g) + epsilon), p], axis=1)
        (rate, pull), *_ = np.linalg.lstsq(basis, update, rcond=None)
        if rate < 0 and fits(update, basis @ np.array([rate, pull])):
            return f"AdamW with weight decay {pull / rate:.3g}, ε = {epsilon:.0e}"
    for decay in DECAYS:
        h = g + decay * p
        if fits(update, np.vdot(h, update) / np.vdot(h, h) * h):
            return f"SGD with L2 {decay:g}"
    return ""


def adam_epsilon(g: np.ndarray, update: np.ndarray) -> float | None:
    """ε of update = -η g/(|g| + ε): |g|/|update| = (|g| + ε)/η is a line in |g|; None if it is not."""
    used = (np.abs(g) > 1e-9 * np.abs(g).max()) & (update != 0)
    if used.sum() < 3 or (np.sign(update[used]) == np.sign(g[used])).any():
        return None
    size, ratio = np.abs(g[used]), np.abs(g[used] / update[used])
    slope, offset = np.polyfit(size, ratio, 1)
    if slope <= 0 or not fits(ratio, slope * size + offset, 1e-6):
        return None
    epsilon = float(offset / slope)
    return max(epsilon, 0.0) if epsilon > -1e-12 else None


def hint(
    a: History, b: History, gradients: Mapping[str, np.ndarray], links: Sequence[Link], rows: Sequence[Row]
) -> str:
    """The two rules, where the first updates differ; otherwise what the optimizer remembers from step to step."""
    failed = [row for row in rows if not row.passed]
    if not failed[0].note.endswith("step 1"):
        return "the first update agrees: momentum convention (Nesterov, dampening), bias correction or a schedule"
    used = [link for link in links if gradients.get(link.a) is not None and link.a in a[0] and link.b in b[0]]
    g = np.concatenate([link.move(np.asarray(gradients[link.a], np.float64)).ravel() for link in used])
    p = np.concatenate([link.move(a[0][link.a]).ravel() for link in used])
    of_a = np.concatenate([link.move(a[1][link.a] - a[0][link.a]).ravel() for link in used])
    of_b = np.concatenate([link.of_b(b[1][link.b] - b[0][link.b]).ravel() for link in used])
    rules = rule(g, p, of_a), rule(g, p, of_b)
    if all(rules) and rules[0] != rules[1]:
        return f"a steps by {rules[0]}; b by {rules[1]}"
    return "learning rate" if rules[0] and rules[0] == rules[1] else ""

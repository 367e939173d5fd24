"""The table of the best trials of a search, and its plots, from search.json alone."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compare.files import write_atomically, write_json
from compare.report.style import INK, KNOWN, RC
from compare.search.results import Search, State, rank, read, typed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

TABLE_ROWS = 10
DPI = 110
MARKS: dict[State, tuple[str, str, str]] = {  # marker, colour, label
    "finished": ("o", KNOWN["numpy"].color, "finished"),
    "pruned": ("x", KNOWN["jax"].color, "pruned: last evaluation"),
    "failed": ("x", KNOWN["torch"].color, "failed: last evaluation"),
}


def write(found: Search, directory: Path) -> Path:
    """Write search.json."""
    return write_json(directory / "search.json", found)


def show(found: Search, console: Console) -> None:
    """Print a table of the best trials, and how to train the best one."""
    from rich import box
    from rich.table import Table

    names = list(dict.fromkeys(name for trial in found["trials"] for name in trial["params"]))
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, header_style="bold")
    for name in ("trial", "validation accuracy", *names, "seconds"):
        table.add_column(name, justify="right", overflow="fold")
    ranked = sorted((trial for trial in found["trials"] if trial["val_accuracy"] is not None), key=rank)
    for trial in ranked[:TABLE_ROWS]:
        values = (shown(trial["params"].get(name)) for name in names)
        table.add_row(str(trial["number"]), f"{trial['val_accuracy']:.2%}", *values, f"{trial['seconds']:.1f}")
    states = [trial["state"] for trial in found["trials"]]
    console.print(table)
    console.print(
        f"{len(states)} trials: {states.count('finished')} finished, {states.count('pruned')} pruned, "
        f"{states.count('failed')} failed", highlight=False,
    )  # fmt: skip
    if found["winner"]:
        console.print("The best of many trials is partly luck. Train its settings with other seeds and test them:")
        console.print(found["winner"], markup=False, highlight=False, soft_wrap=True)


def shown(value: Any) -> str:
    """A value in a table or a line of progress."""
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else typed(value)


# --- plots ------------------------------------------------------------------------------------------------------------


def draw(found: Search, directory: Path) -> list[Path]:
    """Write history.png and, where there are enough trials, importance.png; returns their paths."""
    made = {"history.png": _plot(_history, found, (11, 5.5))}
    if found["importance"]:
        made["importance.png"] = _plot(_importance, found, (11, 1.6 + 0.55 * len(found["importance"])))
    return [write_atomically(directory / name, png) for name, png in made.items()]


def _plot(paint: Callable[[Axes, Search], None], found: Search, size: tuple[float, float]) -> bytes:
    """A figure with one pair of axes as PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure.subplots(), found)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def _history(axes: Axes, found: Search) -> None:
    """The last accuracy of each trial, and the best so far."""
    for state, (marker, color, label) in MARKS.items():
        trials = [trial for trial in found["trials"] if trial["state"] == state and trial["evaluations"]]
        points = [(trial["number"], 100 * (trial["val_accuracy"] or trial["evaluations"][-1])) for trial in trials]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=color, ms=8, mew=2, label=label)
    finished = [(trial["number"], 100 * trial["val_accuracy"]) for trial in found["trials"] if trial["val_accuracy"]]
    best = itertools.accumulate((accuracy for _, accuracy in finished), max)
    axes.step([number for number, _ in finished], list(best), where="post", color=INK, lw=1.5, label="best so far")
    axes.set_title("Validation accuracy of each trial", weight="bold")
    axes.set(xlabel="trial", ylabel="validation accuracy, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if found["trials"]:
        axes.legend(loc="upper right", bbox_to_anchor=(1, 1.12), ncols=4, frameon=False)


def _importance(axes: Axes, found: Search) -> None:
    """Share of each setting in being among the best quarter."""
    shares = sorted(found["importance"].items(), key=lambda item: item[1])
    axes.barh([name for name, _ in shares], [share for _, share in shares], height=0.6, color=KNOWN["numpy"].color)
    for place, (_, share) in enumerate(shares):
        axes.text(share, place, f"  {share:.0%}", va="center")
    axes.set_xlim(0, 1.08)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", visible=False)
    finished = sum(trial["state"] == "finished" for trial in found["trials"])
    axes.set_title(f"Importance of each setting for the best quarter of {finished} trials (PED-ANOVA)", weight="bold")


def again(path: Path) -> Search:
    """Show a search.json, or the one in a folder, draw its plots again, and return it."""
    from rich.console import Console

    found = read(path)
    show(found, Console())
    for plot in draw(found, path if path.is_dir() else path.parent):
        print(plot)
    return found

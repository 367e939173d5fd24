"""What a search found: search.json, a table of the best, and two pictures, all made from the study alone.

search.json: {"schema": 1, "created", "status", "asked": what was searched, "environment", "best": a trial's number,
"importance": {name: share}, "winner": the command that trains it, "trials": [{"number", "state", "params", "accuracy":
the mean over seeds, "accuracies": of each seed, "evaluations": what was reported on the way, "seconds", "message"}]}.
All accuracies are of the validation images.
"""

from __future__ import annotations

import datetime
import io
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compare import machine
from compare.overrides import Field, Range
from compare.search import study
from compare.style import INK, KNOWN, RC

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

SCHEMA = 1
SHOWN = 10  # rows of the table
DPI = 110
MARKS = {"complete": "o", "pruned": "x", "fail": "x"}
COLORS = {"complete": KNOWN["numpy"].color, "pruned": KNOWN["jax"].color, "fail": KNOWN["torch"].color}

Results = dict[str, Any]
Trial = dict[str, Any]


def results(found: Any, asked: Mapping[str, Any], fields: Mapping[str, Field]) -> Results:
    """Everything that stands in the study, as search.json has it."""
    trials = [entry(trial, fields) for trial in study.over(found)]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = max(complete, key=lambda trial: (trial["accuracy"], -trial["number"]), default=None)
    varied = [name for name, field in fields.items() if isinstance(field, Range) or len(field.values) > 1]
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "asked": dict(asked),
        "environment": machine.facts(threads=machine.cores()),
        "best": best and best["number"],
        "winner": best and winner(best, asked),
        "importance": study.importances(found, varied),
        "trials": trials,
    }


def entry(trial: Any, fields: Mapping[str, Field]) -> Trial:
    """One trial, as search.json has it."""
    values = {name: fields[name].value(value) for name, value in trial.params.items()}
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "preset": trial.user_attrs.get("preset"),
        "params": values,
        "accuracy": trial.value if trial.state.name == "COMPLETE" else None,
        "accuracies": trial.user_attrs.get("accuracies", []),
        "evaluations": [value for _, value in sorted(trial.intermediate_values.items())],
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        "message": trial.user_attrs.get(study.WHY),
    }


def winner(best: Trial, asked: Mapping[str, Any]) -> str:
    """The command that trains a trial's settings as a preset is trained, with seeds that had no part in the choice."""
    values = {name: value for name, value in best["params"].items() if name != "preset"}
    words = ["python", "compare/run_all.py", best["preset"], "--tracks", asked["track"]]
    words += [f"--{name}={asked[name]:g}" for name in ("epochs", "steps") if asked[name]]
    fresh = max(asked["seeds"]) + 1
    words += ["--seeds", *map(str, range(fresh, fresh + 3))]
    if values:
        words += ["--set", *(f"{name}={_text(value)}" for name, value in values.items())]
    return shlex.join(words)


def _text(value: Any) -> str:
    """A value as ``space.parse`` reads it: words without quotes."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def write(found: Results, directory: Path) -> Path:
    """Write search.json: the new one whole, or the old one still."""
    path = directory / "search.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1), encoding="utf-8")
    part.replace(path)
    return path


def show(found: Results, console: Console) -> None:
    """A table of the best trials, and what to do next."""
    from rich import box
    from rich.table import Table

    names = list(dict.fromkeys(name for trial in found["trials"] for name in trial["params"]))
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, header_style="bold")
    for name in ("trial", "validation accuracy", *names, "seconds"):
        table.add_column(name, justify="right", overflow="fold")
    ranked = sorted((trial for trial in found["trials"] if trial["accuracy"] is not None), key=_rank)
    for trial in ranked[:SHOWN]:
        values = (shown(trial["params"].get(name)) for name in names)
        table.add_row(str(trial["number"]), f"{trial['accuracy']:.2%}", *values, f"{trial['seconds']:.1f}")
    states = [trial["state"] for trial in found["trials"]]
    console.print(table)
    console.print(
        f"{len(states)} trials: {states.count('complete')} complete, {states.count('pruned')} cut off, "
        f"{states.count('fail')} failed", highlight=False,
    )  # fmt: skip
    if found["winner"]:
        console.print("The best of many was lucky, too. With other seeds, and test images:")
        console.print(found["winner"], markup=False, highlight=False, soft_wrap=True)


def _rank(trial: Trial) -> tuple[float, int]:
    return -trial["accuracy"], trial["number"]


def shown(value: Any) -> str:
    """A value for people."""
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else _text(value)


# --- pictures ---------------------------------------------------------------------------------------------------------


def draw(found: Results, directory: Path) -> list[Path]:
    """history.png and importance.png; the second where there are enough trials to tell."""
    made = {"history.png": _picture(_history, found, (11, 5.5))}
    if found["importance"]:
        made["importance.png"] = _picture(_importance, found, (11, 1.6 + 0.55 * len(found["importance"])))
    for name, png in made.items():
        (directory / name).write_bytes(png)
    return [directory / name for name in made]


def _picture(paint: Callable[[Axes, Results], None], found: Results, size: tuple[float, float]) -> bytes:
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


def _history(axes: Axes, found: Results) -> None:
    """Each trial in its turn: the accuracy it ended with, and the best so far."""
    drawn = [trial | {"height": (trial["evaluations"] or [None])[-1]} for trial in found["trials"]]
    for trial in drawn:
        trial["height"] = trial["height"] if trial["accuracy"] is None else trial["accuracy"]
    for state, color in COLORS.items():
        points = [(t["number"], 100 * t["height"]) for t in drawn if t["state"] == state and t["height"] is not None]
        label = {"complete": "complete", "pruned": "cut off: its last evaluation", "fail": "failed"}[state]
        if points:
            axes.plot(*zip(*points, strict=True), MARKS[state], color=color, ms=8, mew=2, label=label)
    complete = [trial for trial in drawn if trial["accuracy"] is not None]
    best = [100 * max(each["accuracy"] for each in complete[: k + 1]) for k in range(len(complete))]
    axes.step([trial["number"] for trial in complete], best, where="post", color=INK, lw=1.5, label="best so far")
    axes.set_title("validation accuracy of each trial, %", weight="bold")
    axes.set_xlabel("trial")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if drawn:
        axes.legend(loc="upper right", bbox_to_anchor=(1, 1.12), ncols=4, frameon=False)


def _importance(axes: Axes, found: Results) -> None:
    """Share of each field in being among the best quarter."""
    shares = sorted(found["importance"].items(), key=lambda item: item[1])
    axes.barh([name for name, _ in shares], [share for _, share in shares], height=0.6, color=KNOWN["numpy"].color)
    for place, (_, share) in enumerate(shares):
        axes.text(share, place, f"  {share:.0%}", va="center")
    axes.set_xlim(0, 1.08)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", visible=False)
    complete = sum(trial["state"] == "complete" for trial in found["trials"])
    axes.set_title(f"what set the best quarter of {complete} trials apart (PED-ANOVA)", weight="bold")

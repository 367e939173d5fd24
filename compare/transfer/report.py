"""What transfer learning brought: results.json, a table in report.md and transfer.png, all made from the same rows."""

from __future__ import annotations

import datetime
import io
import itertools
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import machine
from compare.results import name_of, spread
from compare.style import FAINT, RC, track_styles
from compare.transfer.methods import METHODS, PRETRAINED

FILES = ("results.json", "report.md", "transfer.png")
COLORS = {"scratch": "#6b6b6b", "linear probe": "#56B4E9", "fine-tuning": "#009E73"}
Row = dict[str, Any]
Results = dict[str, Any]


def results(rows: list[Row], *, task: str, options: Row, command: Sequence[str], threads: int) -> Results:
    """Everything that was measured, with what it was measured on."""
    return {
        "schema": 1,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": task,
        "options": options,
        "command": shlex.join(command),
        "environment": machine.describe(threads=threads),
        "rows": rows,
    }


def write(results: Results, directory: Path) -> None:
    """The three files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (directory / "report.md").write_text(report(results), encoding="utf-8")
    (directory / "transfer.png").write_bytes(figure(results["rows"]))


# --- figures from rows ------------------------------------------------------------------------------------------------


def final(rows: Sequence[Row], track: str, method: str) -> dict[int, float]:
    """The last accuracy of each seed, in percent."""
    mine = sorted(
        (row for row in rows if (row["track"], row["method"]) == (track, method)), key=lambda row: row["step"]
    )
    return {row["seed"]: 100 * row["accuracy"] for row in mine}


def gains(rows: Sequence[Row], track: str) -> list[float]:
    """Fine-tuning minus scratch, seed by seed, in points."""
    scratch, tuned = final(rows, track, "scratch"), final(rows, track, "fine-tuning")
    return [tuned[seed] - scratch[seed] for seed in scratch]


def largest_gap(rows: Sequence[Row]) -> tuple[float, str]:
    """The largest difference between two tracks in the same seed and method, in points, and where it is."""
    found = [(0.0, "")]
    for method in (PRETRAINED, *METHODS):
        accuracies = {track: final(rows, track, method) for track in tracks_of(rows)}
        for a, b in itertools.combinations(accuracies, 2):
            common = accuracies[a].keys() & accuracies[b].keys()
            found += [
                (
                    abs(accuracies[a][seed] - accuracies[b][seed]),
                    f"{method}, seed {seed}, {name_of(a)} and {name_of(b)}",
                )
                for seed in sorted(common)
            ]
    return max(found)


def tracks_of(rows: Sequence[Row]) -> list[str]:
    """The tracks in their order."""
    return list(dict.fromkeys(row["track"] for row in rows))


# --- table and text ---------------------------------------------------------------------------------------------------


def text(results: Results) -> str:
    """The table, and what it says in sentences."""
    rows = results["rows"]
    shown = [method for method in (PRETRAINED, *METHODS) if any(row["method"] == method for row in rows)]
    lines = [
        f"| track | {' | '.join(shown)} | fine-tuning − scratch |",
        "| --- |" + " --- |" * (len(shown) + 1),
        *(
            f"| {name_of(track)} | "
            + " | ".join(spread(list(final(rows, track, method).values()), unit="%") for method in shown)
            + f" | {signed(gains(rows, track))} |"
            for track in tracks_of(rows)
        ),
        "",
    ]
    counts = {row["method"]: row["count"] for row in rows}
    lines.append(
        f"Accuracy on {counts['scratch']:,} test images of the new task"
        + (f" ({PRETRAINED}: {counts[PRETRAINED]:,} of the old one)" if PRETRAINED in counts else "")
        + ", mean ± standard deviation over the seeds; the difference is taken seed by seed."
    )
    lines += [verdict(track, gains(rows, track)) for track in tracks_of(rows)]
    if len(tracks_of(rows)) > 1:
        gap, where = largest_gap(rows)
        lines.append(f"Largest difference between tracks in one seed and method: {gap:.2f} points ({where or 'none'}).")
    return "\n".join(lines)


def signed(differences: list[float]) -> str:
    """Mean with its sign, and standard deviation."""
    text = spread(differences, unit="points")
    return text if text.startswith("-") else f"+{text}"


def verdict(track: str, differences: list[float]) -> str:
    """What fine-tuning was worth in one track: in how many seeds, and how it stands to the spread."""
    ahead = sum(difference > 0 for difference in differences)
    sentence = f"{name_of(track)}: fine-tuning is ahead of scratch in {ahead} of {len(differences)} seeds"
    if len(differences) < 2:
        return sentence + "; one seed shows no spread."
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    return f"{sentence}, by {mean:.2f} points on average, {mean / max(error, 1e-9):.1f} standard errors above zero."


def report(results: Results) -> str:
    """report.md."""
    environment = results["environment"]
    return (
        f"# Transfer learning: {results['task']}\n\n{text(results)}\n\n"
        f"![accuracies](transfer.png)\n\n"
        f"Made by `{results['command']}` on {environment['cpu']}, {environment['cores']} cores, {results['created']}.\n"
    )


# --- picture ----------------------------------------------------------------------------------------------------------


def figure(rows: Sequence[Row]) -> bytes:
    """Left: accuracy while learning, each track's mean over the seeds. Right: every seed at the end. As PNG."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        drawn = Figure(figsize=(13, 5.2), dpi=110, layout="constrained")
        FigureCanvasAgg(drawn)
        left, right = drawn.subplots(1, 2, width_ratios=(1.4, 1), sharey=True)
        _curves(left, rows)
        _ends(right, rows)
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def _curves(axes: Any, rows: Sequence[Row]) -> None:
    styles = track_styles(tracks_of(rows))
    for method, (track, style) in itertools.product(METHODS, styles.items()):
        at: dict[int, list[float]] = {}
        for row in rows:
            if (row["track"], row["method"]) == (track, method):
                at.setdefault(row["step"], []).append(100 * row["accuracy"])
        means = [statistics.fmean(at[step]) for step in sorted(at)]
        look = {"color": COLORS[method], "linewidth": style.width, "linestyle": style.dashes}
        axes.plot(sorted(at), means, marker="" if len(at) > 1 else "o", **look, label=f"{method}, {name_of(track)}")
    axes.set(title="While learning: mean over the seeds", xlabel="step", ylabel="accuracy on the new task, %")
    axes.legend(fontsize=9, frameon=False, ncols=len(METHODS), handlelength=3.2)


def _ends(axes: Any, rows: Sequence[Row]) -> None:
    names, ticks = tracks_of(rows), []
    for place, (method, track) in enumerate(itertools.product(METHODS, names)):
        x = place + place // len(names)  # a gap between the methods
        values = list(final(rows, track, method).values())
        axes.scatter([x] * len(values), values, s=26, color=COLORS[method], alpha=0.7, linewidths=0)
        axes.hlines(statistics.fmean(values), x - 0.35, x + 0.35, color=COLORS[method], linewidth=2.5)
        ticks.append((x, name_of(track)))
    for k, method in enumerate(METHODS):
        centre = k * (len(names) + 1) + (len(names) - 1) / 2
        axes.text(centre, 1.0, method, transform=axes.get_xaxis_transform(), ha="center", va="bottom", color=FAINT)
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks], rotation=45, ha="right")
    axes.grid(axis="x", visible=False)

"""The report of a transfer and its plot, from transfer.json alone."""

from __future__ import annotations

import io
import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compare.files import write_atomically, write_json
from compare.report.style import FAINT, RC, name_of, track_styles
from compare.results.runs import spread
from compare.statistics import mean_interval
from compare.transfer.methods import METHODS, PRETRAINED
from compare.transfer.results import NAME, Row, Transfer, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"scratch": "#6b6b6b", "linear probe": "#56B4E9", "fine-tuning": "#009E73"}


def write(results: Transfer, directory: Path) -> list[Path]:
    """Write transfer.json, report.md and transfer.png; returns their paths."""
    return [
        write_json(directory / NAME, results),
        write_atomically(directory / "report.md", report(results).encode()),
        write_atomically(directory / "transfer.png", figure(results["rows"])),
    ]


# --- figures from rows ------------------------------------------------------------------------------------------------


def final(rows: Sequence[Row], track: str, method: str) -> dict[int, float]:
    """The final accuracy of each seed, in percent."""
    mine = sorted(
        (row for row in rows if (row["track"], row["method"]) == (track, method)), key=lambda row: row["step"]
    )
    return {row["seed"]: 100 * row["accuracy"] for row in mine}


def gains(rows: Sequence[Row], track: str) -> list[float]:
    """Fine-tuning minus scratch for each seed, in percentage points."""
    scratch, tuned = final(rows, track, "scratch"), final(rows, track, "fine-tuning")
    return [tuned[seed] - scratch[seed] for seed in scratch]


def largest_gap(rows: Sequence[Row]) -> tuple[float, str]:
    """The largest difference between two tracks with the same seed and method, in points, and where it is."""
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
    """The tracks, in the order of the rows."""
    return list(dict.fromkeys(row["track"] for row in rows))


# --- table and text ---------------------------------------------------------------------------------------------------


def text(results: Transfer) -> str:
    """The table and its findings, in Markdown."""
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
        f"Accuracy on the {counts['scratch']:,} test images of the new task"
        + (f" ({PRETRAINED}: on the {counts[PRETRAINED]:,} of the old task)" if PRETRAINED in counts else "")
        + ", mean ± standard deviation over the seeds; differences are taken for each seed."
    )
    lines.append("")
    lines += [f"- {verdict(track, gains(rows, track))}" for track in tracks_of(rows)]
    if len(tracks_of(rows)) > 1:
        gap, where = largest_gap(rows)
        at = f" ({where})" if where else ""
        lines.append(f"- Largest difference between tracks with the same seed and method: {gap:.2f} points{at}.")
    return "\n".join(lines)


def signed(differences: list[float]) -> str:
    """Mean with its sign, and standard deviation."""
    text = spread(differences, unit="points")
    return text if text.startswith("-") else f"+{text}"


def verdict(track: str, differences: list[float]) -> str:
    """What fine-tuning gains over scratch in one track, with the confidence interval over the seeds."""
    found = mean_interval(differences)
    sentence = f"{name_of(track)}: fine-tuning gains {found.mean:+.2f} points over scratch"
    if math.isinf(found.low):
        return f"{sentence} (one seed: no confidence interval; add --seeds 0 1 2 3 4)."
    n = len(differences)
    interval = f"95 % CI {found.low:+.2f} to {found.high:+.2f}, n = {n}"
    if found.low <= 0 <= found.high:
        return f"{name_of(track)}: no significant difference from scratch ({found.mean:+.2f} points, {interval})."
    ahead = sum(difference > 0 for difference in differences)
    return f"{sentence} ({interval}), and is ahead with {ahead} of {n} seeds."


def report(results: Transfer) -> str:
    """The content of report.md."""
    environment = results["environment"]
    return (
        f"# Transfer learning: {results['task']}\n\n{text(results)}\n\n"
        f"![Accuracy of each method](transfer.png)\n\n"
        f"Reproduce: `{results['command']}`\n\n"
        f"Measured on {environment['cpu']}, {environment['cores']} cores, {results['created']}.\n"
    )


# --- plot -------------------------------------------------------------------------------------------------------------


def figure(rows: Sequence[Row]) -> bytes:
    """PNG. Left: accuracy during training, the mean over the seeds. Right: the final accuracy of every seed."""
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


def _curves(axes: Axes, rows: Sequence[Row]) -> None:
    styles = track_styles(tracks_of(rows))
    for method, (track, style) in itertools.product(METHODS, styles.items()):
        at: dict[int, list[float]] = {}
        for row in rows:
            if (row["track"], row["method"]) == (track, method):
                at.setdefault(row["step"], []).append(100 * row["accuracy"])
        means = [statistics.fmean(at[step]) for step in sorted(at)]
        look = {"color": COLORS[method], "linewidth": style.width, "linestyle": style.dashes}
        axes.plot(sorted(at), means, marker="" if len(at) > 1 else "o", **look, label=f"{method}, {name_of(track)}")
    axes.set_title("Accuracy during training, mean over the seeds", pad=24)
    axes.set(xlabel="step", ylabel="accuracy on the new task, %")
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    axes.legend(**below, fontsize=9, frameon=False, ncols=len(METHODS), handlelength=3.2)


def _ends(axes: Axes, rows: Sequence[Row]) -> None:
    names, ticks = tracks_of(rows), []
    for place, (method, track) in enumerate(itertools.product(METHODS, names)):
        x = place + place // len(names)  # a gap between the methods
        values = list(final(rows, track, method).values())
        axes.scatter([x] * len(values), values, s=26, color=COLORS[method], alpha=0.7, linewidths=0)
        axes.hlines(statistics.fmean(values), x - 0.35, x + 0.35, color=COLORS[method], linewidth=2.5)
        ticks.append((x, name_of(track)))
    axes.set_title("Final accuracy of each seed", pad=24)
    for k, method in enumerate(METHODS):
        centre = k * (len(names) + 1) + (len(names) - 1) / 2
        axes.text(centre, 1.0, method, transform=axes.get_xaxis_transform(), ha="center", va="bottom", color=FAINT)
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks], rotation=45, ha="right")
    axes.grid(axis="x", visible=False)


def again(path: Path) -> Transfer:
    """Show a transfer.json, or the one in a folder, write its report again, and return it."""
    results = read(path)
    print(text(results))
    for file in write(results, path if path.is_dir() else path.parent):
        print(file)
    return results

"""The interactive bar charts: speed, time per phase, memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from compare.report.html.plots import Plot, Trace, rounded
from compare.report.style import INK, Style, name_of, track_styles
from compare.results.parity import speed_withheld
from compare.results.runs import WARNING, Tracks, cold_seconds, disturbed, groups, numbers, target_accuracy, tested
from compare.results.schema import Results, RunResult

PHASES = {"import": "#7a869a", "data": "#b9c3d0", "compile": "#009E73", "train": "#56B4E9", "eval": "#d9c76a"}
MEMORY = {"after the imports": "#7a869a", "training, up to the first checkpoint": "#56B4E9"}


def speeds(results: Results) -> dict[str, list[Plot]]:
    """Images per second of each track, by preset."""
    presets = groups(results)
    styles = track_styles(track for tracks in presets.values() for track in tracks)
    return {preset: [_speed(results, preset, tracks, styles)] for preset, tracks in presets.items()}


def cold_times(results: Results) -> dict[str, list[Plot]]:
    """Seconds per phase from the start of the process to an accuracy, or to the end, by preset."""
    return {preset: [_cold(preset, tracks)] for preset, tracks in groups(results).items()}


def memory(results: Results) -> dict[str, list[Plot]]:
    """Peak memory and the part of it that the imports take, by preset."""
    return {preset: [_memory(preset, tracks)] for preset, tracks in groups(results).items()}


def _speed(results: Results, preset: str, tracks: Tracks, styles: dict[str, Style]) -> Plot:
    drawn: list[Trace] = []
    rows, words, notes = [], [], []
    for track, runs in tracks.items():
        name, reason = name_of(track), speed_withheld(results, runs)
        values = [] if reason else numbers(tested(runs), "images_per_second")
        rows.append([name, ", ".join(f"{value:,.0f}" for value in values) or reason or "not measured"])
        words.append(f"{name} {statistics.fmean(values):,.0f}" if values else f"{name} {rows[-1][1]}")
        mean = statistics.fmean(values) if values else 0
        bar = {"type": "bar", "orientation": "h", "y": [name], "x": rounded([mean]), "name": name, "width": 0.62}
        marked = f" {WARNING}" if disturbed(runs) else ""
        label = f"{mean:,.0f}{marked}" if values else rows[-1][1]
        notes.append(
            {"x": max(values, default=0), "y": name, "text": label, "xanchor": "left", "xshift": 8, "showarrow": False}
        )
        drawn.append(bar | {"marker": {"color": styles[track].color}, "tracks": [track], "hovertemplate": "%{x:,.0f}"})
        if len(values) > 1:
            dots = {"type": "scatter", "mode": "markers", "y": [name] * len(values), "x": rounded(values)}
            marker = {"color": INK, "size": 7, "line": {"color": "#ffffff", "width": 1}}
            drawn.append(dots | {"name": name, "tracks": [track], "marker": marker, "hovertemplate": "%{x:,.0f}"})
    longest = max((value for bar in drawn for value in bar["x"] if value), default=1)
    layout = {
        "xaxis": {"title": {"text": "training images/s"}, "tickformat": ",.0f"}
        | {"range": [0, 1.3 * longest], "nticks": 5}  # room for the labels
        | {"showticklabels": longest > 1},  # nothing measured, no scale
        "yaxis": {"autorange": "reversed"},
        "annotations": notes,
        "hovermode": "closest",
    }
    about = f"Training speed on {preset} in images per second: {', '.join(words)}."
    return Plot(
        "Training speed", about, "runs[].images_per_second", drawn, layout, ("track", "images/s, each seed"), rows
    )


def _cold(preset: str, tracks: Tracks) -> Plot:
    target = target_accuracy(tracks)
    whole = {track: _phases(runs) for track, runs in tracks.items()}
    until = {track: _until(runs, target) for track, runs in tracks.items()}
    reached = target is not None and all(phases for track, phases in until.items() if whole[track])
    goal = f"seconds to {100 * target:.1f} % accuracy" if reached and target else "seconds, whole run"
    titles = {"cold": goal, "whole": "seconds, whole run"}
    chosen = {"cold": until if reached else whole, "whole": whole}
    drawn = [
        _stack(
            phase, color, tracks, {choice: [found[t].get(phase) for t in tracks] for choice, found in chosen.items()}
        )
        for phase, color in PHASES.items()
    ]
    rows = [
        [name_of(track), titles[choice], *(f"{phases[phase]:.2f}" if phase in phases else "-" for phase in PHASES)]
        for choice in (("cold", "whole") if reached else ("whole",))
        for track, phases in chosen[choice].items()
    ]
    sums = [f"{name_of(track)} {sum(phases.values()):.1f}" for track, phases in chosen["cold"].items() if phases]
    about = f"{preset}, {goal}, from the start of the process: {', '.join(sums) or 'no data'}."
    layout = _stacked(goal)
    headers = ("track", "until", *PHASES)
    source = "runs[].seconds and runs[].history"
    return Plot(preset, about, source, drawn, layout, headers, rows, control="cold", titles=titles, key=PHASES)


def _phases(runs: list[RunResult]) -> dict[str, float]:
    """Mean seconds of each phase of a whole run."""
    found = {phase: numbers(runs, "seconds", phase) for phase in PHASES}
    return {phase: statistics.fmean(values) for phase, values in found.items() if values}


def _until(runs: list[RunResult], target: float | None) -> dict[str, float]:
    """Mean seconds of each phase until an evaluation first reached `target`; evaluation time is not counted."""
    done = [run for run in tested(runs) if target is not None and cold_seconds(run, target) is not None]
    phases = {name: value for name, value in _phases(done).items() if name not in ("train", "eval")}
    if not done or target is None:
        return {}
    total = statistics.fmean(cold_seconds(run, target) or 0 for run in done)
    return phases | {"train": total - sum(phases.values())}


def _memory(preset: str, tracks: Tracks) -> Plot:
    imports = {track: numbers(runs, "import_rss_mb") for track, runs in tracks.items()}
    peaks = {track: numbers(runs, "peak_rss_mb") for track, runs in tracks.items()}
    have = [track for track in tracks if imports[track] and peaks[track]]
    low = [statistics.fmean(imports[track]) for track in have]
    high = [statistics.fmean(peaks[track]) for track in have]
    parts = [low, [b - a for a, b in zip(low, high, strict=True)]]
    drawn = [_stack(name, MEMORY[name], have, {"": list(part)}) for name, part in zip(MEMORY, parts, strict=True)]
    rows = [[name_of(t), f"{a:,.0f}", f"{b:,.0f}"] for t, a, b in zip(have, low, high, strict=True)]
    said = ", ".join(f"{name} {peak}, of which imports {imports}" for name, imports, peak in rows) or "unknown"
    about = f"{preset}, peak memory in MB: {said}."
    headers = ("track", "after the imports, MB", "peak, MB")
    source = "runs[].import_rss_mb and runs[].peak_rss_mb"
    return Plot(preset, about, source, drawn, _stacked("MB"), headers, rows, key=MEMORY)


def _stack(name: str, color: str, tracks: Iterable[str], choices: dict[str, list[float | None]]) -> Trace:
    """One part of every bar."""
    numbered = {choice: rounded(value or 0.0 for value in values) for choice, values in choices.items()}
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [name_of(track) for track in tracks],
        "x": next(iter(numbered.values())),
        "choices": numbered,
        "width": 0.62,
        "marker": {"color": color},
        "hovertemplate": f"{name} %{{x:,.3g}}<extra></extra>",
    }


def _stacked(title: str) -> dict[str, Any]:
    return {
        "barmode": "stack",
        "xaxis": {"title": {"text": title}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed"},
        "hovermode": "closest",
    }

"""The roofline: how fast each track trains, and how fast the machine would let it.

Attainable is the smaller of two speeds: that of a large matrix product, and bandwidth times the operations that there
are for each byte (Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model for multicore
architectures").
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from compare import machine
from compare.report.html.plots import Plot, Trace, rounded
from compare.report.series import Tracks
from compare.results import Results, groups, name_of, numbers, speed_withheld
from compare.style import FAINT, track_styles

SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")
SIZES = (13, 10, 10, 10, 10, 10)


def roofline(results: Results) -> dict[str, list[Plot]]:
    """One figure for all presets: GFLOP/s over FLOP per byte of a step; none where nothing was measured on the CPU."""
    peak, memory = (results["environment"].get(name) for name in ("gemm_gflops", "memory_gbs"))
    presets = {preset: tracks for preset, tracks in groups(results).items() if _intensity(tracks)}
    speeds = {preset: _speeds(results, tracks) for preset, tracks in presets.items()}
    at = {preset: intensity for preset in presets if speeds[preset] and (intensity := _intensity(presets[preset]))}
    if not peak or not memory or not at:
        return {}
    roof = {preset: min(peak, memory * intensity) for preset, intensity in at.items()}
    x = np.geomspace(min(*at.values(), peak / memory) / 3, max(*at.values(), peak / memory) * 3, 60)
    line: Trace = {"type": "scatter", "mode": "lines", "name": "attainable", "line": {"color": FAINT, "width": 2}}
    line |= {"x": rounded(x), "y": rounded(np.minimum(peak, memory * x)), "tracks": [], "hoverinfo": "skip"}
    names: Trace = {"type": "scatter", "mode": "markers+text", "name": "attainable", "textposition": "top center"}
    names |= {"x": rounded(at.values()), "y": rounded(roof.values()), "text": _apart(at), "tracks": []}
    names |= {"marker": {"color": FAINT, "size": 6}, "hovertemplate": "%{y:,.0f}"}
    styles = track_styles(track for tracks in groups(results).values() for track in tracks)
    drawn: list[Trace] = [line, names]
    for track, symbol, size in zip(styles, SYMBOLS, SIZES, strict=False):
        have = [preset for preset in at if track in speeds[preset]]
        marker = {"color": styles[track].color, "symbol": symbol, "size": size}
        trace: Trace = {"type": "scatter", "mode": "markers", "name": name_of(track), "tracks": [track]}
        trace |= {"x": rounded(at[preset] for preset in have), "y": rounded(speeds[preset][track] for preset in have)}
        drawn += [trace | {"marker": marker, "hovertemplate": "%{y:,.0f}"}] if have else []
    rows = [
        [preset, name_of(track), f"{at[preset]:,.1f}", f"{speed:,.1f}", f"{roof[preset]:,.1f}"]
        for preset in at
        for track, speed in speeds[preset].items()
    ]
    said = ", ".join(f"{preset} {name} {speed} of {roof}" for preset, name, _, speed, roof in rows)
    about = (
        f"GFLOP/s in training, of what {peak:,.0f} GFLOP/s in a matrix product and {memory:,.0f} GB/s allow: {said}."
    )
    low = min(speed for found in speeds.values() for speed in found.values())
    room = 0.3 * (1 + max(name.count("<br>") for name in names["text"]))  # decades, for the names
    layout: dict[str, Any] = {
        "xaxis": {"type": "log", "title": {"text": "FLOP per byte that a step moves"}, "dtick": 1},
        "yaxis": {"type": "log", "title": {"text": "GFLOP/s"}, "dtick": 1}
        | {"range": [np.log10(low / 2), np.log10(peak) + room]},
        "hovermode": "closest",
    }
    headers = ("preset", "track", "FLOP per byte", "GFLOP/s", "attainable")
    source = "runs[].gflops, runs[].step_bytes, environment.gemm_gflops and environment.memory_gbs"
    key = {name_of(track): style.color for track, style in styles.items()}
    return {"": [Plot("Achieved and attainable speed", about, source, drawn, layout, headers, rows, key=key)]}


def _intensity(tracks: Tracks) -> float | None:
    """Operations of a step for each byte that it moves, of the first run that tells."""
    for run in (run for runs in tracks.values() for run in runs):
        if run.get("step_bytes") and run.get("flops_per_image"):
            return run["config"]["batch_size"] * run["flops_per_image"] / run["step_bytes"]
    return None


def _speeds(results: Results, tracks: Tracks) -> dict[str, float]:
    """Mean GFLOP/s of each track that has a speed, and has it from the CPU, whose roof this is."""
    on_cpu = {
        track: [run for run in runs if machine.on_cpu(run.get("hardware"))]
        for track, runs in tracks.items()
        if not speed_withheld(results, runs)
    }
    found = {track: numbers(runs, "gflops") for track, runs in on_cpu.items()}
    return {track: statistics.fmean(values) for track, values in found.items() if values}


def _apart(at: dict[str, float]) -> list[str]:
    """The presets' names, one above the other where two stand at nearly the same place."""
    words, level, last = dict.fromkeys(at, ""), 0, 0.0
    for preset in sorted(at, key=lambda preset: at[preset]):
        level = level + 1 if last and at[preset] / last < 1.6 else 0
        words[preset], last = preset + level * "<br> ", at[preset]
    return list(words.values())

"""The roofline: achieved speed of each track, and the speed that the machine allows.

Attainable is the smaller of the matmul speed and memory bandwidth times arithmetic intensity (Williams, Waterman &
Patterson 2009, "Roofline: an insightful visual performance model for multicore architectures").
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from compare import machine
from compare.report.html.plots import Plot, Trace, log_ticks, rounded
from compare.report.style import FAINT, name_of, track_styles
from compare.results.parity import speed_withheld
from compare.results.runs import Tracks, groups, numbers
from compare.results.schema import Results

SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x")
SIZES = (13, 10, 10, 10, 10, 10)
CLOSE = 5  # ratio of two intensities below which their names, side by side, would touch on a phone


def roofline(results: Results) -> dict[str, list[Plot]]:
    """One figure for all presets: GFLOP/s over FLOP/byte of a step; none if nothing was measured on the CPU."""
    peak, memory = results["environment"]["gemm_gflops"], results["environment"]["memory_gbs"]
    presets = {preset: tracks for preset, tracks in groups(results).items() if _intensity(tracks)}
    speeds = {preset: _speeds(results, tracks) for preset, tracks in presets.items()}
    at = {preset: intensity for preset in presets if speeds[preset] and (intensity := _intensity(presets[preset]))}
    if not peak or not memory or not at:
        return {}
    roof = {preset: min(peak, memory * intensity) for preset, intensity in at.items()}
    x = np.geomspace(min(*at.values(), peak / memory) / 3, max(*at.values(), peak / memory) * 3, 60)
    line: Trace = {"type": "scatter", "mode": "lines", "name": "attainable", "line": {"color": FAINT, "width": 2}}
    line |= {"x": rounded(x), "y": rounded(np.minimum(peak, memory * x)), "tracks": [], "hoverinfo": "skip"}
    names: Trace = {"type": "scatter", "mode": "markers+text", "name": "attainable"}
    names |= {"textposition": ["top left" if roof[preset] < peak else "top center" for preset in at]}  # off the slope
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
    about = f"Achieved and attainable GFLOP/s (GEMM peak {peak:,.0f} GFLOP/s, memory {memory:,.0f} GB/s): {said}."
    low = min(speed for found in speeds.values() for speed in found.values())
    room = 0.3 * (1 + max(name.count("<br>") for name in names["text"]))  # decades, for the names
    layout: dict[str, Any] = {
        "xaxis": {"type": "log", "title": {"text": "arithmetic intensity, FLOP/byte"}, "dtick": 1},
        "yaxis": {"type": "log", "title": {"text": "GFLOP/s"}}
        | log_ticks(low / 2, peak)
        | {"range": [np.log10(low / 2), np.log10(peak) + room]},
        "hovermode": "closest",
    }
    headers = ("preset", "track", "FLOP/byte", "GFLOP/s", "attainable GFLOP/s")
    source = "runs[].gflops, runs[].step_bytes, environment.gemm_gflops and environment.memory_gbs"
    key = {name_of(track): style.color for track, style in styles.items()}
    return {"": [Plot("Achieved and attainable speed", about, source, drawn, layout, headers, rows, key=key)]}


def _intensity(tracks: Tracks) -> float | None:
    """FLOPs of a step per byte that it moves, of the first run that has both."""
    for run in (run for runs in tracks.values() for run in runs):
        if run["step_bytes"] and run["flops_per_image"]:
            return run["batch_size"] * run["flops_per_image"] / run["step_bytes"]
    return None


def _speeds(results: Results, tracks: Tracks) -> dict[str, float]:
    """Mean GFLOP/s of each track with a speed that was measured on the CPU."""
    on_cpu = {
        track: [run for run in runs if machine.on_cpu(run["hardware"])]
        for track, runs in tracks.items()
        if not speed_withheld(results, runs)
    }
    found = {track: numbers(runs, "gflops") for track, runs in on_cpu.items()}
    return {track: statistics.fmean(values) for track, values in found.items() if values}


def _apart(at: dict[str, float]) -> list[str]:
    """The presets' names, one above the other where two have nearly the same intensity."""
    words, level, last = dict.fromkeys(at, ""), 0, 0.0
    for preset in sorted(at, key=lambda preset: at[preset]):
        level = level + 1 if last and at[preset] / last < CLOSE else 0
        words[preset], last = preset + level * "<br> ", at[preset]
    return list(words.values())

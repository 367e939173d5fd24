"""The interactive curves: Plotly traces as plain data, each figure with a sentence and a table of the same numbers.

Colours and widths are those of curves.png. Everything else that depends on the reader's taste (dark, print, a narrow
screen) is decided by style.css and script.js.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compare.report import series
from compare.report.series import Curve
from compare.report.style import FAINT, Style, name_of, track_styles
from compare.results.parity import difference
from compare.results.runs import Tracks, groups, numbers, start_up
from compare.results.schema import Results, RunResult

POINTS = 400  # of a curve at most
LINES = 9  # of a curve's table
CLOCKS = {"progress": "", "seconds": "seconds of training", "start": "seconds since process start"}

Trace = dict[str, Any]


@dataclass(frozen=True)
class Plot:
    """One figure: its traces, the same in words and in a table, and the source of its numbers."""

    title: str
    about: str
    source: str  # in results.json
    traces: list[Trace]
    layout: dict[str, Any]
    headers: Sequence[str]
    rows: list[list[str]]
    control: str = ""  # the group of buttons that choose among the traces' `choices`
    titles: dict[str, str] = field(default_factory=dict)  # of the x axis, by choice
    key: dict[str, str] = field(default_factory=dict)  # what the colours mean, where they do not mean tracks
    id: str = ""  # of its element on the page


def learning(results: Results) -> dict[str, list[Plot]]:
    """Loss, accuracy, learning rate and the gaps between the tracks, by preset."""
    presets = groups(results)
    styles = track_styles(track for tracks in presets.values() for track in tracks)
    kinds = (_loss, _accuracy, _gaps, _rates)
    return {
        preset: [plot for kind in kinds if (plot := kind(tracks, styles)).traces] for preset, tracks in presets.items()
    }


def _loss(tracks: Tracks, styles: dict[str, Style]) -> Plot:
    curves = {track: [series.loss_curve(run, tracks) for run in runs] for track, runs in tracks.items()}
    return _by_clock(
        *("Training loss", curves, tracks, styles),
        key="step",
        form=lambda loss: f"{loss:.4f}",
        source="runs[].step_loss, a running mean on the log scale",
        yaxis={"type": "log", "title": {"text": "loss"}},
    )


def _accuracy(tracks: Tracks, styles: dict[str, Style]) -> Plot:
    curves = {track: [series.accuracy_curve(run) for run in runs] for track, runs in tracks.items()}
    return _by_clock(
        *("Validation accuracy", curves, tracks, styles),
        key="epoch",
        form=lambda percent: f"{percent:.2f} %",
        source="runs[].history",
        yaxis={"title": {"text": "%"}},
    )


def _by_clock(
    title: str,
    curves: dict[str, list[Curve]],
    tracks: Tracks,
    styles: dict[str, Style],
    *,
    key: str,
    form: Callable[[float], str],
    source: str,
    yaxis: dict[str, Any],
) -> Plot:
    """A figure whose x axis counts steps or epochs, or seconds on either of two clocks."""
    drawn = []
    for track, runs in tracks.items():
        by_clock = []
        for clock in CLOCKS:
            seen = [(_clocked(run, x, key, clock), y) for run, (x, y) in zip(runs, curves[track], strict=True)]
            by_clock.append(_drawn(seen, styles[track], name_of(track), track))
        for same in zip(*by_clock, strict=True):
            drawn.append(same[0] | {"choices": {clock: trace["x"] for clock, trace in zip(CLOCKS, same, strict=True)}})
    means = {name_of(track): series.mean(curves[track]) for track in tracks}
    return Plot(
        title,
        _at_the_end(title, means, form),
        source,
        drawn,
        {"xaxis": {"title": {"text": key}, "rangemode": "tozero"}, "yaxis": yaxis | _decades(drawn, yaxis)},
        *_samples(key, means, form),
        control="clock",
        titles=CLOCKS | {"progress": key},
        key=_labels({name_of(track): styles[track].color for track in tracks}, means, form),
    )


def _gaps(tracks: Tracks, styles: dict[str, Style]) -> Plot:
    found = list(series.gaps(tracks, styles))
    drawn = [trace for gap in found for trace in _drawn(gap.curves, gap.style, gap.name, *gap.tracks)]
    means = {gap.name: series.mean(gap.curves) for gap in found}
    yaxis = {"type": "log", "title": {"text": "|loss difference|"}}
    layout = {
        "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
        "yaxis": yaxis | _decades(drawn, yaxis),
    }
    title = "Loss gap between tracks, same batch"
    about, table = _at_the_end(title, means, difference), _samples("step", means, difference)
    key = _labels({gap.name: gap.style.color for gap in found}, means, difference)
    return Plot(title, about, "runs[].step_loss", drawn, layout, *table, key=key)


def _rates(tracks: Tracks, styles: dict[str, Style]) -> Plot:
    """The schedule, and the rates that a track reported at its evaluations where they are not the schedule's."""
    runs = {track: same[0] for track, same in tracks.items()}
    line = next((curve for run in runs.values() if (curve := _schedule(run)) is not None), None)
    drawn = [] if line is None else _drawn([line], Style(FAINT, 2, "solid"), "schedule")
    reported: dict[str, Curve | None] = {}
    for track, run in runs.items():
        x, y = (np.array(numbers(run["history"], key)) for key in ("step", "lr"))
        if not len(x):
            continue
        reported[name_of(track)] = (x, y)
        if line is None or np.abs(np.interp(x, *line) - y).max() > 0.01 * line[1].max():
            drawn += _drawn([(x, y)], styles[track], name_of(track), track)
    for trace in drawn:
        trace["mode"] = "lines"
    layout = {
        "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "learning rate"}, "rangemode": "tozero"},
    }
    about = _at_the_end("Learning rate", reported, lambda rate: f"{rate:.3g}")
    source = "runs[].config and runs[].history, of the first seed"
    return Plot("Learning rate", about, source, drawn, layout, *_samples("step", reported, lambda rate: f"{rate:.4g}"))


def _decades(drawn: list[Trace], yaxis: dict[str, Any]) -> dict[str, Any]:
    """Ticks of a log scale."""
    values = [value for trace in drawn for value in trace["y"] if value]
    return log_ticks(min(values), max(values)) if yaxis.get("type") == "log" and values else {}


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Powers of ten where a log scale spans some; else 1, 2 and 5 of each, written out: Plotly writes 0.5 as a 5."""
    if high / low > 50:
        return {"dtick": 1}
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _schedule(run: RunResult) -> Curve | None:
    """The learning rate of each step by the run's schedule, if the run went through all of its steps."""
    from numpy_nn.optim import schedule

    config, steps = run["config"], run["steps"]
    if run["status"] != "finished" or run["message"] or not steps:
        return None
    rate = schedule(config["schedule"], lr=config["lr"], steps=steps, **config["schedule_args"])
    x = np.unique(np.linspace(0, steps - 1, POINTS).round())
    return x + 1, np.array([rate(int(step)) for step in x])


def _clocked(run: RunResult, x: np.ndarray, key: str, clock: str) -> np.ndarray:
    """Steps or epochs as seconds, interpolated between evaluations."""
    if clock == "progress":
        return x
    reached, seconds = numbers(run["history"], key), numbers(run["history"], "seconds")
    if not reached:
        return np.full(len(x), np.nan)
    clocked = np.interp(x, [0, *reached], [0, *seconds])
    return clocked + (start_up(run) if clock == "start" else 0)


def _drawn(curves: list[Curve], style: Style, name: str, *tracks: str) -> list[Trace]:
    """One seed as a line in the track's style; several as thin lines with their mean in that style."""
    several = [curve for curve in curves if len(curve[0])]
    thin = [_line(curve, Style(style.color, 0.9, "solid"), name, *tracks) for curve in several if len(several) > 1]
    for trace in thin:
        trace |= {"opacity": 0.45, "hoverinfo": "skip", "hovertemplate": None}
    mean = series.mean(several)
    return [*thin, *([] if mean is None else [_line(mean, style, name, *tracks)])]


def _line(curve: Curve, style: Style, name: str, *tracks: str) -> Trace:
    x, y = curve
    chosen = np.unique(np.linspace(0, len(x) - 1, POINTS).round().astype(int))
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) <= series.FEW else "lines",
        "x": rounded(x[chosen]),
        "y": rounded(y[chosen]),
        "name": name,
        "tracks": tracks,
        "line": {"color": style.color, "width": style.width, "dash": dash(style)},
        "marker": {"color": style.color, "size": style.width + 3},
        "hovertemplate": "%{y:.4g}",
    }


def dash(style: Style) -> str:
    """A style's dashes in pixels, as Plotly and SVG want them."""
    if isinstance(style.dashes, str):
        return {"dashed": "dash"}.get(style.dashes, style.dashes)
    return ",".join(f"{style.width * n:g}px" for n in style.dashes[1])


def rounded(values: Iterable[float]) -> list[float | None]:
    """Four digits; JSON has no NaN."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def _labels(colors: dict[str, str], means: dict[str, Curve | None], form: Callable[[float], str]) -> dict[str, str]:
    """The colour of each curve by its name and last value."""
    ends = {name: curve[1][-1] for name, curve in means.items() if curve and len(curve[1])}
    return {f"{name} {form(float(end))}": colors[name] for name, end in ends.items() if np.isfinite(end)}


def _at_the_end(title: str, means: dict[str, Curve | None], form: Callable[[float], str]) -> str:
    last = {name: float(curve[1][-1]) for name, curve in means.items() if curve and len(curve[1])}
    ends = [f"{name} {form(value)}" for name, value in last.items() if np.isfinite(value)]
    return f"{title} at the end: {', '.join(ends)}." if ends else f"{title}: no data."


def _samples(
    key: str, means: dict[str, Curve | None], form: Callable[[float], str]
) -> tuple[list[str], list[list[str]]]:
    """The table of a figure of curves: some evenly spaced points of each."""
    shown = {name: curve for name, curve in means.items() if curve and len(curve[0])}
    longest = max((x for x, _ in shown.values()), key=len, default=np.empty(0))
    rows = []
    for place in np.unique(np.linspace(0, len(longest) - 1, LINES).round().astype(int)) if len(longest) else ():
        values = [form(float(y[place])) if place < len(y) and np.isfinite(y[place]) else "-" for _, y in shown.values()]
        rows.append([f"{longest[place]:,.4g}" if longest[place] < 1000 else f"{longest[place]:,.0f}", *values])
    return [key, *shown], rows

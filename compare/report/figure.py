"""curves.png: a row per preset (loss, accuracy, loss gap, speed), one colour and one dash per track.

Curves that agree lie on top of each other, so each track is drawn thinner and more broken than the one before
it: all of them stay visible. Blue, orange and magenta can be told apart with every kind of colour vision. Several
seeds are thin lines around their mean.
"""

from __future__ import annotations

import io
import math
import statistics
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from compare.report import series
from compare.report.style import FAINT, INK, RC, Style, name_of, track_styles
from compare.report.summary import machine_facts, title
from compare.results.parity import speed_withheld
from compare.results.runs import WARNING, Tracks, disturbed, groups, numbers, tested
from compare.results.schema import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from compare.report.series import Curve

WIDTH, HEAD, ROW, DPI = 18.0, 1.1, 3.9, 110  # inches, heading and preset rows; dots per inch


def figure(results: Results) -> bytes:
    """The comparison as PNG, WIDTH x (HEAD + ROW for each preset) inches at DPI."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    presets = groups(results)
    rows = max(1, len(presets))
    height = HEAD + ROW * rows
    with matplotlib.rc_context(RC):
        drawn = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(drawn)
        engine: Any = drawn.get_layout_engine()
        engine.set(w_pad=0.16, h_pad=0.14, hspace=0.04, rect=(0, 0, 1, 1 - HEAD / height))
        styles = track_styles(track for tracks in presets.values() for track in tracks)
        _heading(drawn, results, styles)
        grid = drawn.subplots(rows, 4, squeeze=False, width_ratios=(1, 1, 1, 0.8))
        for axes, (preset, tracks) in zip(grid, presets.items(), strict=False):
            _loss(axes[0], preset, tracks, styles)
            _accuracy(axes[1], tracks, styles)
            _gaps(axes[2], tracks, styles)
            _speed(axes[3], results, tracks, styles)
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", facecolor="white")
    return buffer.getvalue()


def _heading(drawn: Figure, results: Results, styles: dict[str, Style]) -> None:
    from matplotlib.lines import Line2D

    top = drawn.get_figheight()
    drawn.text(0.011, 1 - 0.38 / top, title(results), size=19, weight="bold", va="center")
    drawn.text(0.011, 1 - 0.78 / top, "  ·  ".join(machine_facts(results)), size=12.5, color=FAINT, va="center")
    drawn.legend(
        handles=[
            Line2D([], [], color=style.color, lw=style.width + 0.5, ls=style.dashes, label=name_of(track))
            for track, style in styles.items()
        ],
        loc="upper right",
        bbox_to_anchor=(0.995, 1 - 0.2 / top),
        ncols=max(1, len(styles)),
        frameon=False,
        fontsize=15,
        handlelength=3.2,
    )


def _draw(axes: Axes, curves: list[Curve], style: Style, zorder: float) -> None:
    """One seed as a line in the track's style; several as thin lines with their mean in that style."""
    several = [(x, y) for x, y in curves if len(x)]
    for x, y in several if len(several) > 1 else []:
        axes.plot(x, y, color=style.color, lw=0.9, alpha=0.4, zorder=zorder)
    curve = series.mean(several)
    if curve is None:
        return
    x, y = curve
    dots: dict[str, Any] = {"marker": "o", "ms": style.width + 2} if len(x) <= series.FEW else {}
    axes.plot(x, y, color=style.color, lw=style.width, ls=style.dashes, zorder=zorder + 10, **dots)


def _loss(axes: Axes, preset: str, tracks: Tracks, styles: dict[str, Style]) -> None:
    """Training loss at every step, smoothed on the log scale on which it is drawn."""
    for zorder, (track, runs) in enumerate(tracks.items(), start=2):
        _draw(axes, [series.loss_curve(run, tracks) for run in runs], styles[track], zorder)
    axes.set_title(f"{preset}:  training loss", weight="bold")
    _finish(axes, "step", log=True)


def _accuracy(axes: Axes, tracks: Tracks, styles: dict[str, Style]) -> None:
    """Validation accuracy during training; the test accuracy in words."""
    words = []
    for zorder, (track, runs) in enumerate(tracks.items(), start=2):
        _draw(axes, [series.accuracy_curve(run) for run in runs], styles[track], zorder)
        tested = numbers(runs, "test_accuracy")
        words += [(f"{100 * statistics.fmean(tested):.2f} %", styles[track].color)] if tested else []
    axes.set_title("validation accuracy, %")
    low, high = axes.get_ylim()
    middle, half = (
        (low + high) / 2,
        max(high - low, 1) / 2,
    )  # one point at least: chance is no difference
    axes.set_ylim(middle - half, middle + half)
    if words:
        _words(axes, words, where="lower right", title="test set")
    _finish(axes, "epoch")


def _gaps(axes: Axes, tracks: Tracks, styles: dict[str, Style]) -> None:
    """Absolute difference of two tracks' losses on the same batch."""
    words = []
    for zorder, gap in enumerate(series.gaps(tracks, styles), start=2):
        _draw(axes, gap.curves, gap.style, zorder)
        words += [(gap.name, gap.style.color)] if gap.curves else []
    axes.set_title("loss gap between tracks, same batch")
    if words:
        _words(axes, words, where="best")
    _finish(axes, "step", log=True)


def _speed(axes: Axes, results: Results, tracks: Tracks, styles: dict[str, Style]) -> None:
    """Images per second, a dot for each seed; or the reason why no speed is shown."""
    axes.set_title("training speed, images/s")
    for place, (track, runs) in enumerate(tracks.items()):
        reason = speed_withheld(results, runs)
        speeds = [] if reason else numbers(tested(runs), "images_per_second")
        marked = f" {WARNING} disturbed" if disturbed(runs) else ""
        label = f"{name_of(track)}  {statistics.fmean(speeds):,.0f}{marked}" if speeds else name_of(track)
        axes.text(0.015, place - 0.36, label, va="bottom", transform=axes.get_yaxis_transform())
        if speeds:
            faint = 0.45 if marked else 1
            axes.barh(place, statistics.fmean(speeds), height=0.6, color=styles[track].color, alpha=faint)
            axes.plot(speeds, [place] * len(speeds), "o", color=INK, ms=4, mec="white", mew=0.8) if speeds[1:] else None
        else:
            why = textwrap.fill(reason or "not measured", 38)
            axes.text(0.015, place, why, va="center", size=11, color=FAINT, transform=axes.get_yaxis_transform())
    axes.set_ylim(len(tracks) - 0.6, -0.75)
    axes.set_yticks([])
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", visible=False)
    if not axes.patches:
        axes.set_xticks([])


def _words(axes: Axes, lines: list[tuple[str, str]], *, where: str, title: str | None = None) -> None:
    """Coloured lines of text, on a veil that keeps them readable."""
    from matplotlib.lines import Line2D

    axes.legend(
        handles=[Line2D([], [], color=color, label=text) for text, color in lines],
        title=title,
        loc=where,
        labelcolor="linecolor",
        prop={"weight": "bold"},
        handlelength=0,
        handletextpad=0,
        edgecolor="none",
        framealpha=0.8,
    ).set_zorder(30)


def _finish(axes: Axes, x: str, *, log: bool = False) -> None:
    """Ticks that can be read: at least a decade on a log scale, whole steps and epochs if there are any."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    axes.set_xlabel(x)
    if not axes.lines:
        axes.text(0.5, 0.5, "no data", color=FAINT, ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    if log:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high / low < 20:
            axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    last = max(float(np.max(line.get_xdata())) for line in axes.lines)
    axes.set_xlim(0, 1.04 * last)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=last >= 1, min_n_ticks=1))

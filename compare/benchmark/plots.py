"""The plots of a benchmark: speed, step breakdown and cold start; the roofline; how cost grows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compare import machine
from compare.benchmark.results import CLOCKS, PARTS, Benchmark, Layer, Row
from compare.benchmark.tables import BASELINE, attainable_ms, by_preset, clock, curve, first_run_steps, processes, shown
from compare.report.style import FAINT, INK, KNOWN, NAMES, RC

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 110
PART_COLORS = dict(zip(PARTS, ("#BBBBBB", "#4477AA", "#66CCEE", "#CCBB44"), strict=True))
CLOCK_COLORS = dict(zip(CLOCKS, ("#BBBBBB", "#DDDDDD", "#EE6677", "#4477AA", "#66CCEE"), strict=True))
MARKERS = {"numpy": "o", "jax": "s", "torch": "D"}


class Canvas:
    """A figure with a heading, its axes, and its PNG."""

    def __init__(self, title: str, subtitle: str, rows: int, columns: int, *, size: tuple[float, float], **grid: Any):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        width, height = size
        self.figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(self.figure)
        engine: Any = self.figure.get_layout_engine()
        engine.set(w_pad=0.14, h_pad=0.12, hspace=0.03, wspace=0.03, rect=(0, 0, 1, 1 - 0.95 / height))
        self.figure.text(0.011, 1 - 0.34 / height, title, size=18, weight="bold", va="center")
        self.figure.text(0.011, 1 - 0.71 / height, subtitle, size=12, color=FAINT, va="center")
        self.axes = self.figure.subplots(rows, columns, squeeze=False, **grid)

    def png(self) -> bytes:
        """The finished figure."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", facecolor="white")
        return buffer.getvalue()


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(RC):
        yield


def _cores(results: Benchmark) -> str:
    environment = results["environment"]
    return f"{environment['cpu']}, {environment['threads']} core{'s' if environment['threads'] > 1 else ''}"


# --- how fast ---------------------------------------------------------------------------------------------------------


def speeds(results: Benchmark) -> bytes:
    """A row per preset: images per second, step breakdown, cold start."""
    presets = list(by_preset(shown(results)))
    with _styled():
        heights = [1.5 + 0.42 * max(len(found), 3) for _, found in presets] or [2.05]
        subtitle = f"{_cores(results)}  ·  {processes(results)} each, in turn"
        canvas = Canvas(
            "Training speed", subtitle, len(heights), 3, size=(18, 0.95 + sum(heights)),
            height_ratios=heights,
        )  # fmt: skip
        for axes, (preset, found) in zip(canvas.axes, presets, strict=False):
            steps = first_run_steps(results, preset)
            breakdown = [{part: row.median("breakdown_ms", part) for part in PARTS} for row in found]
            clocks = [{name: clock(results, row, name) for name in CLOCKS} for row in found]
            _images(axes[0], results, preset, found)
            _stacked(axes[1], found, breakdown, PART_COLORS, "step breakdown, ms")
            _stacked(axes[2], found, clocks, CLOCK_COLORS, f"cold start and {steps:,} steps, s")
        return canvas.png()


def _images(axes: Axes, results: Benchmark, preset: str, found: list[Row]) -> None:
    """Images per second: the median as a bar, a dot for each process; the CPU's GEMM peak as a line."""
    plan = results["presets"][preset]
    farthest = 1.4 * max(1000 * plan["batch_size"] / min(row.times) for row in found)
    if all(machine.on_cpu(trial.get("hardware")) for row in found for trial in row.trials):
        peak = results["environment"]["gemm_gflops"] * 1e9 / plan["flops_per_image"]
        farthest = max(farthest, peak)
        axes.axvline(peak, color=FAINT, lw=1, ls=(0, (4, 3)))
        axes.text(peak, len(found) - 0.5, "GEMM peak ", color=FAINT, size=10, ha="right", va="bottom")
    for place, row in enumerate(found):
        values = [1000 * plan["batch_size"] / ms for ms in row.times]
        value = row.images_per_second(plan)
        baseline = row.label == BASELINE
        color = KNOWN[row.track].color
        axes.barh(place, value, height=0.66, color="white" if baseline else color, edgecolor=color, linewidth=1.5)
        axes.plot(values, [place] * len(values), "o", color=INK, ms=4, mec="white", mew=0.7)
        share = row.gemm_share(plan["batch_size"] * plan["flops_per_image"])
        words = f"  {value:,.0f}{' (disturbed)' if row.disturbed else ''}" + (
            "" if share is None else f"   {share:.0%}"
        )
        axes.text(max(values), place, words, va="center", size=11)
    axes.set_xlim(0, 1.03 * farthest)
    axes.set_title(f"{preset}:  images/s, % of GEMM peak", weight="bold")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.locator_params(axis="x", nbins=4)
    _rows(axes, found)


def _stacked(
    axes: Axes, found: list[Row], figures: list[dict[str, float | None]], colors: dict[str, str], title: str
) -> None:
    """Parts that add up, one bar for each row."""
    for place, parts in enumerate(figures):
        left = 0.0
        for name, color in colors.items():
            width = max(0.0, parts[name] or 0.0)
            axes.barh(place, width, left=left, height=0.66, color=color, label=name if place == 0 else None)
            left += width
    axes.set_title(title)
    under = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.11 if len(found) > 4 else -0.2)}
    axes.legend(ncols=len(colors), frameon=False, handlelength=1, columnspacing=1.2, fontsize=11, **under)
    axes.set_xlim(left=0)
    _rows(axes, found)


def _rows(axes: Axes, found: Sequence[Row]) -> None:
    axes.set_yticks(range(len(found)), [f"{NAMES[row.track]} {row.variant}" for row in found])
    axes.set_ylim(len(found) - 0.45, -0.65)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


# --- the roofline -----------------------------------------------------------------------------------------------------


def roofline(results: Benchmark) -> bytes:
    """A row per preset: achieved and attainable speed of every layer, and the time of every layer."""
    presets: dict[str, dict[str, list[Layer]]] = {}
    for entry in results["layers"]:
        if "layers" in entry:
            presets.setdefault(entry["preset"], {})[entry["track"]] = entry["layers"]
    core = results["environment"]["one_core"]
    subtitle = (
        f"{results['environment']['cpu']}  ·  each layer alone, forward and backward, on one core: "
        f"{core['gemm_gflops']:,.0f} GFLOP/s in a large matmul, {core['memory']:,.0f} GB/s in memory, "
        f"{core['cache']:,.0f} GB/s in the cache"
    )
    with _styled():
        canvas = Canvas(
            "Roofline: achieved and attainable speed of each layer", subtitle, len(presets), 2,
            size=(18, 0.95 + 5.6 * len(presets)), width_ratios=(1, 1.15),
        )  # fmt: skip
        for axes, (preset, tracks) in zip(canvas.axes, presets.items(), strict=True):
            _roof(axes[0], core, preset, tracks)
            _layer_times(axes[1], results, tracks)
        return canvas.png()


def _roof(axes: Axes, core: dict[str, float], preset: str, tracks: dict[str, list[Layer]]) -> None:
    """GFLOP/s over FLOP per byte of the layers with matmuls, which are named along the bottom."""
    import numpy as np

    multiplying = [layer for layer in next(iter(tracks.values())) if layer["flops"]]
    intensity = [layer["flops"] / layer["bytes"] for layer in multiplying]
    x = np.geomspace(min(intensity) / 3, max(intensity) * 3, 200)
    axes.plot(x, np.minimum(core["gemm_gflops"], core["memory"] * x), color=INK, lw=2)
    axes.plot(x, np.minimum(core["gemm_gflops"], core["cache"] * x), color=FAINT, lw=1.3, ls=(0, (4, 3)))
    axes.text(1.25 * x[0], core["memory"] * x[0], "memory", color=INK, size=10.5, va="top")
    axes.text(x[0], min(core["gemm_gflops"], core["cache"] * x[0]) * 1.08, "cache", color=FAINT, size=10.5)
    for aside, (track, layers) in zip((0.96, 1.0, 1.04), tracks.items(), strict=False):  # equal points stay visible
        speeds = [layer["flops"] / layer["ms"] / 1e6 for layer in layers if layer["flops"]]
        style = {"color": KNOWN[track].color, "marker": MARKERS[track], "ms": 9, "mec": "white", "mew": 1}
        places = [aside * at for at in intensity]
        axes.plot(places, speeds, ls="none", label=NAMES[track], zorder=4, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    reached = [layer["flops"] / layer["ms"] / 1e6 for layers in tracks.values() for layer in layers if layer["flops"]]
    bottom = min(*reached, core["memory"] * x[0]) / 8  # room for the names
    axes.set_ylim(bottom, 1.6 * max(*reached, core["gemm_gflops"]))
    for names, at in _apart([layer["label"] for layer in multiplying], intensity):
        axes.axvline(at, color="#e8e8e8", lw=1, zorder=0)
        axes.text(at, bottom * 1.1, names, rotation=90, size=9.5, color=FAINT, ha="right", va="bottom")
    axes.grid(visible=False)
    axes.set_xlabel("FLOP per byte moved")
    axes.set_title(f"{preset}:  GFLOP/s, achieved and attainable", weight="bold")
    axes.legend(loc="lower right", frameon=False)


def _apart(labels: list[str], intensity: list[float]) -> list[tuple[str, float]]:
    """Names and their positions; layers at nearly the same position share one label."""
    kept: list[tuple[str, float]] = []
    for label, at in sorted(zip(labels, intensity, strict=True), key=lambda pair: pair[1]):
        if kept and at / kept[-1][1] < 1.12:
            kept[-1] = f"{kept[-1][0]}\n{label}", kept[-1][1]
        else:
            kept.append((label, at))
    return kept


def _layer_times(axes: Axes, results: Benchmark, tracks: dict[str, list[Layer]]) -> None:
    """Milliseconds of a step that each layer takes, and a mark at the time that is attainable."""
    height = 0.8 / len(tracks)
    first = next(iter(tracks.values()))
    for offset, (track, layers) in enumerate(tracks.items()):
        places = [place + (offset - (len(tracks) - 1) / 2) * height for place in range(len(layers))]
        values = [layer["count"] * layer["ms"] for layer in layers]
        total = sum(values)
        label = f"{NAMES[track]}, {total:.1f} ms in total"
        axes.barh(places, values, height=0.9 * height, color=KNOWN[track].color, label=label)
    for place, layer in enumerate(first):
        roof = layer["count"] * attainable_ms(results, layer)
        axes.plot(
            [roof, roof], [place - 0.45, place + 0.45], color=INK, lw=2.2, label="attainable" if not place else None
        )
    names = [layer["label"] + (f"  (×{layer['count']})" if layer["count"] > 1 else "") for layer in first]
    axes.set_yticks(range(len(first)), names)
    axes.set_ylim(len(first) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(left=0)
    axes.set_title("time of each layer in a step on one core, ms")
    axes.legend(loc="best", frameon=False)


# --- the sweep --------------------------------------------------------------------------------------------------------


def sweep(results: Benchmark) -> bytes:
    """A row per preset: time by batch size and by FLOPs, memory by batch size and by steps."""
    presets = list(dict.fromkeys(point["preset"] for point in results["sweep"]))
    with _styled():
        size = (18, 0.95 + 4.1 * len(presets))
        canvas = Canvas(
            "How cost grows", f"{_cores(results)}  ·  one process for each point", len(presets), 4, size=size
        )
        for axes, preset in zip(canvas.axes, presets, strict=True):
            batch, gflop = "batch size", "GFLOP/step, by width"
            _lines(axes[0], results, preset, ("batch", "batch_size", "step_ms"), "step time, ms", batch)
            _lines(axes[1], results, preset, ("width", "step_flops", "step_ms"), "step time, ms", gflop, scale=1e-9)
            _lines(axes[2], results, preset, ("batch", "batch_size", "peak_rss_mb"), "peak memory, MB", batch)
            _lines(axes[3], results, preset, ("steps", "steps", "peak_rss_mb"), "peak memory, MB", "steps of training")
            axes[0].set_ylabel(preset, weight="bold", size=13)
            axes[0].legend(frameon=False)
        return canvas.png()


def _lines(
    axes: Axes, results: Benchmark, preset: str, what: tuple[str, str, str], title: str, label: str, scale: float = 1.0
) -> None:
    """One line per variant over what was varied; times beside a line of proportional growth."""
    axis, x, y = what
    timed = y == "step_ms"
    keys = dict.fromkeys((point["preset"], point["track"], point["variant"]) for point in results["sweep"])
    ticks: list[float] = []
    for key in keys:
        points = [point for point in curve(results, key, axis) if key[0] == preset and point[y] is not None]
        if points:
            xs, ys = [scale * point[x] for point in points], [point[y] for point in points]
            style = {"color": KNOWN[key[1]].color, "marker": MARKERS[key[1]], "ms": 6, "lw": 2}
            axes.plot(xs, ys, label=f"{NAMES[key[1]]} {key[2]}", **style)
            if timed:
                axes.plot(xs, [ys[-1] * value / xs[-1] for value in xs], color=KNOWN[key[1]].color, lw=0.8, ls=":")
            ticks = xs
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,.2g}" if tick < 10 else f"{tick:,.0f}" for tick in ticks])
    axes.tick_params(axis="x", which="minor", length=0, labelbottom=False)
    if timed:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(title + (" (dotted: proportional)" if timed else ""))
    axes.set_xlabel(label)

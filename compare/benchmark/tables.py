"""The tables and sentences of a benchmark, each from its JSON alone."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from compare.benchmark.results import CLOCKS, PARTS, Results, Row, cold, loss_gaps, rows
from compare.benchmark.statistics import Interval, exponent, median, steps_to_pay_off, times_as_fast
from compare.results import describe, worst_check

Table = tuple[tuple[str, ...], list[list[str]]]
REFERENCE = "torch reference"


def shown(results: Results) -> list[Row]:
    """The rows whose speed may be shown."""
    return [row for row in rows(results) if row.problem is None]


def by_preset(found: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of one preset after the other."""
    for preset, same in itertools.groupby(found, key=lambda row: row.preset):
        yield preset, list(same)


def processes(results: Results) -> str:
    """``3 fresh processes``."""
    return "one fresh process" if results["repeats"] == 1 else f"{results['repeats']} fresh processes"


def number(value: float | None, form: str = ",.0f") -> str:
    """A figure, or a dash."""
    return "-" if value is None or math.isnan(value) else format(value, form)


def digits(milliseconds: float) -> str:
    """How a time is written: three digits that mean something."""
    return ".1f" if milliseconds >= 10 else ".2f"


def between(interval: Interval, form: str) -> str:
    """``4.10 (4.02 to 4.31)``."""
    text = format(interval.value, form)
    return text if math.isnan(interval.low) else f"{text} ({interval.low:{form}} to {interval.high:{form}})"


def table(head: Sequence[str], body: list[list[str]]) -> str:
    """A Markdown table, aligned so that it can be read as it is; numbers to the right."""
    lines = [list(head), *body]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]
    left = [column < 2 for column in range(len(head))]
    rule = ["-" * width if at_left else "-" * (width - 1) + ":" for width, at_left in zip(widths, left, strict=True)]
    text = [
        " | ".join(
            cell.ljust(width) if at_left else cell.rjust(width)
            for cell, width, at_left in zip(line, widths, left, strict=True)
        )
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {line} |" for line in text)


def speed(results: Results) -> Table:
    """Images per second, beside the accuracy; a row whose speed may not be shown says why."""
    head = ("preset", "form", "images/s", "step ms", "p10 to p90", "GFLOP/s", "of products", "to reference", "accuracy")
    references = {row.preset: row for row in shown(results) if row.label == REFERENCE}
    body = []
    for row in rows(results):
        if row.problem:
            body.append([row.preset, row.label, "not shown", *["-"] * (len(head) - 3)])
            continue
        preset = results["presets"][row.preset]
        images = Interval(*(1000 * preset["batch_size"] / ms for ms in (row.step.value, row.step.high, row.step.low)))
        gflops = images.value * preset["flops_per_image"] / 1e9
        laps = sorted(lap for trial in row.trials for lap in trial["step_ms"])
        p10, p90 = (laps[round(share * (len(laps) - 1))] for share in (0.1, 0.9))
        form, reference = digits(row.step.value), references.get(row.preset)
        body.append(
            [
                row.preset,
                row.label,
                between(images, ",.0f"),
                between(row.step, form),
                f"{p10:{form}} to {p90:{form}}",
                number(gflops),
                number(row.share(preset["batch_size"] * preset["flops_per_image"]), ".0%"),
                "1" if row is reference else str(times_as_fast(row.times, reference.times)) if reference else "-",
                number(row.middle("test_accuracy"), ".2%"),
            ]
        )
    return head, body


def start(results: Results) -> Table:
    """From an empty process: the clocks in seconds, and memory in MB."""
    head = ("preset", "form", *(f"{name} s" for name in CLOCKS), "imported MB", "peak MB", "to reference")
    found = shown(results)
    references = {row.preset: row.middle("peak_rss_mb") for row in found if row.label == REFERENCE}
    body = []
    for row in found:
        peak, reference = row.middle("peak_rss_mb"), references.get(row.preset)
        body.append(
            [
                row.preset,
                row.label,
                *(number(row.middle("seconds", name), ".2f") for name in CLOCKS),
                number(row.middle("import_rss_mb")),
                number(peak),
                number(peak / reference if peak and reference and row.track == "torch" else None, ".2f"),
            ]
        )
    return head, body


def parts(results: Results) -> Table:
    """What a step is made of."""
    head = ("preset", "form", *(f"{name} ms" for name in PARTS))
    body = []
    for row in shown(results):
        form = digits(row.step.value)
        body.append([row.preset, row.label, *(number(row.middle("split_ms", name), form) for name in PARTS)])
    return head, body


def ratios(results: Results, preset: str) -> Table:
    """How many times as fast the form of a line is as that of a column; (…) where no difference is shown."""
    found = [row for row in shown(results) if row.preset == preset]
    body = []
    for row in found:
        cells = []
        for column in found:
            ratio = times_as_fast(row.times, column.times)
            text = f"{ratio.value:.2f}"
            cells.append("-" if row is column else text if ratio.sure else f"({text})")
        body.append([row.label, *cells])
    return ("", *(row.label for row in found)), body


def verdicts(results: Results) -> list[str]:
    """The best form of each track against the others and against the reference; what is not shown, and why."""
    sentences = []
    for preset, found in by_preset(rows(results)):
        good = [row for row in found if row.problem is None]
        tracks = [row for row in good if row.label != REFERENCE]
        best = sorted(
            (min(same, key=lambda row: row.step.value) for same in _by_track(tracks)), key=lambda row: row.step.value
        )
        contenders = [*best, *(row for row in good if row.label == REFERENCE)]
        for fast, slow in itertools.combinations(sorted(contenders, key=lambda row: row.step.value), 2):
            ratio = times_as_fast(fast.times, slow.times)
            if math.isnan(ratio.low):
                said = f"{ratio} times as fast as {slow.label}, in too few repeats to call it a difference"
            elif ratio.sure:
                said = f"{ratio} times as fast as {slow.label}"
            else:
                said = f"not told from {slow.label}, the ratio is {ratio}"
            sentences.append(f"{preset}: {fast.label} is {said}.")
        sentences += [f"{preset}: {row.label} is not shown: {row.problem}." for row in found if row.problem]
    return sentences


def _by_track(found: list[Row]) -> list[list[Row]]:
    tracks = dict.fromkeys(row.track for row in found)
    return [[row for row in found if row.track == track] for track in tracks]


def disagreements(results: Results) -> list[str]:
    """The pairs of tracks that failed the proof, and where."""
    sentences = []
    for pair in results["proof"]:
        if not pair["passed"]:
            worst = worst_check(pair)
            where = f": {describe(worst)}" if worst else ""
            sentences.append(
                f"{pair['preset']}: {pair['a']} and {pair['b']} are not the same model in {pair['precision']}{where}."
            )
    return sentences


def compilations(results: Results) -> list[str]:
    """After how many steps the form of a track that takes longer to start is ahead of the other."""
    sentences = []
    for preset, found in by_preset(shown(results)):
        for a, b in (("jax jit", "jax scan"), ("torch eager", "torch compiled")):
            pair = {row.label: row for row in found if row.label in (a, b)}
            if len(pair) < 2:
                continue
            first, second = pair[a], pair[b]
            costs = (first.middle("seconds", "compile") or 0.0, second.middle("seconds", "compile") or 0.0)
            steps = steps_to_pay_off(costs, (first.step.value, second.step.value))
            extra = costs[1] - costs[0]
            if math.isinf(steps):
                sentences.append(
                    f"{preset}: {b} never pays off against {a}: {extra:+.1f} s to start, and no faster step."
                )
            elif steps == 0:
                sentences.append(f"{preset}: {b} is ahead of {a} from the first step: {extra:+.1f} s to start.")
            else:
                epochs = f"{steps:,.0f} steps"
                sentences.append(f"{preset}: {b} pays off against {a} after {epochs}: {extra:+.1f} s to start.")
    return sentences


def targets(results: Results) -> Table:
    """Cold seconds until an evaluation first showed the target, of the seeds that reached it."""
    head = ("preset", "form", "seconds", "steps", "reached", "test accuracy")
    body = []
    proven = {row.key for row in shown(results)}
    for row in rows(results, "cold"):
        if row.key not in proven:
            continue
        reached = [trial for trial in row.trials if trial["reached"]]
        seconds = between(median([cold(trial) for trial in reached]), ".1f") if reached else "-"
        steps = number(statistics.median(trial["steps"] for trial in reached)) if reached else "-"
        accuracies = [trial["test_accuracy"] for trial in row.trials]
        accuracy = f"{statistics.fmean(accuracies):.2%}" if accuracies else "-"
        body.append([row.preset, row.label, seconds, steps, f"{len(reached)} of {results['repeats']}", accuracy])
    return head, body


def agreement(results: Results) -> Table:
    """How far the first losses of each row are from the median of all rows."""
    body = [[*key[:1], f"{key[1]} {key[2]}", f"{gap:.1e}"] for key, gap in loss_gaps(results).items()]
    return ("preset", "form", "first losses, relative gap"), body


def layers(results: Results, preset: str) -> Table:
    """Every layer by itself: what it has to do, what one core could attain, and what each track did."""
    found = {
        entry["track"]: entry["layers"]
        for entry in results["layers"]
        if entry["preset"] == preset and "layers" in entry
    }
    head = (
        "layer",
        "calls",
        "MFLOP",
        "MB",
        "attainable ms",
        *(f"{track} ms" for track in found),
        *(f"{track} GFLOP/s" for track in found),
    )
    body = []
    for same in zip(*found.values(), strict=True):
        first = same[0]
        flops = first["flops"]
        body.append(
            [
                first["label"],
                str(first["count"]),
                number(flops / 1e6, ",.1f"),
                number(first["bytes"] / 1e6, ",.2f"),
                number(attainable_ms(results, first), ".3f"),
                *(number(layer["ms"], ".3f") for layer in same),
                *(number(flops / layer["ms"] / 1e6 if flops else None) for layer in same),
            ]
        )
    return head, body


def attainable_ms(results: Results, layer: dict[str, Any]) -> float:
    """The roofline: the larger of multiplying at the peak and moving the arrays at the memory's bandwidth."""
    core = results["environment"]["one_core"]
    return float(max(layer["flops"] / core["gemm_gflops"], layer["bytes"] / core["memory"]) / 1e6)


def growth(results: Results) -> Table:
    """Exponents b of cost ∝ sizeᵇ, by the points of the sweep."""
    head = (
        "preset",
        "form",
        "time by images",
        "time by FLOPs",
        "memory by images",
        "memory by steps",
        "MB at 1x, 16x steps",
    )
    body = []
    keys = dict.fromkeys((point["preset"], point["track"], point["variant"]) for point in results["sweep"])
    for preset, track, variant in keys:
        along = {axis: curve(results, (preset, track, variant), axis) for axis in ("batch", "width", "steps")}
        if any(len(points) < 2 for points in along.values()):
            continue
        memory = [number(point["peak_rss_mb"]) for point in along["steps"]]
        body.append(
            [
                preset,
                f"{track} {variant}",
                power(along["batch"], "batch_size", "step_ms"),
                power(along["width"], "step_flops", "step_ms"),
                power(along["batch"], "batch_size", "peak_rss_mb"),
                power(along["steps"], "steps", "peak_rss_mb"),
                f"{memory[0]}, {memory[-1]}",
            ]
        )
    return head, body


def power(points: list[dict[str, Any]], x: str, y: str) -> str:
    """The exponent of y over x, or a dash where y was not told."""
    if any(point[y] is None for point in points):
        return "-"
    found = exponent([point[x] for point in points], [point[y] for point in points])
    return f"{round(found, 2) + 0.0:.2f}"  # no -0.00


def curve(results: Results, key: tuple[str, str, str], axis: str) -> list[dict[str, Any]]:
    """The points of one row along one axis that could be measured."""
    return [
        point
        for point in results["sweep"]
        if (point["preset"], point["track"], point["variant"]) == key and point["axis"] == axis and "error" not in point
    ]

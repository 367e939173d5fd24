"""The tables and sentences of a benchmark, each from its JSON alone."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from compare.benchmark.results import (
    CLOCKS,
    PARTS,
    Benchmark,
    Key,
    Layer,
    Row,
    cold_seconds,
    loss_gaps,
    rows,
)
from compare.results.parity import describe, worst_check
from compare.results.runs import WARNING
from compare.statistics import ConfidenceInterval, exponent, ratio_of_medians, steps_to_pay_off

Table = tuple[tuple[str, ...], list[list[str]]]
BASELINE = "torch baseline"
MORE = "--repeats 5"  # what a benchmark of single runs lacks


def shown(results: Benchmark) -> list[Row]:
    """The rows whose speed may be shown."""
    return [row for row in rows(results) if row.problem is None]


def ranked(results: Benchmark) -> list[Row]:
    """The rows that may be in a ratio: those that are shown and whose figures no other program disturbed."""
    return [row for row in shown(results) if row.disturbed is None]


def by_preset(found: Iterable[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of one preset after the other."""
    for preset, same in itertools.groupby(found, key=lambda row: row.preset):
        yield preset, list(same)


def speedup(a: Row, b: Row) -> ConfidenceInterval:
    """How many times as fast ``a`` is as ``b``."""
    return ratio_of_medians(b.times, a.times)


def processes(results: Benchmark) -> str:
    """``3 fresh processes``."""
    return "one fresh process" if results["repeats"] == 1 else f"{results['repeats']} fresh processes"


def number(value: float | None, form: str = ",.0f") -> str:
    """A figure, or a dash."""
    return "-" if value is None or math.isnan(value) else format(value, form)


def digits(milliseconds: float) -> str:
    """The format of a time: three significant digits."""
    return ".1f" if milliseconds >= 10 else ".2f"


def with_range(median: float, values: Sequence[float], form: str) -> str:
    """Median and range, ``4.10 [4.02–4.31]``; a single value stands alone."""
    text = format(median, form)
    return text if len(values) < 2 else f"{text} [{min(values):{form}}–{max(values):{form}}]"


def table(head: Sequence[str], body: list[list[str]]) -> str:
    """A Markdown table, aligned to be readable as plain text; numbers to the right."""
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


def speed(results: Benchmark) -> Table:
    """Images per second, beside the accuracy; a row whose speed may not be shown says so."""
    head = (
        "preset", "variant", "images/s", "step ms", "p10–p90 ms", "GFLOP/s", "% of GEMM peak", "× baseline",
        "test accuracy",
    )  # fmt: skip
    baselines = {row.preset: row for row in ranked(results) if row.label == BASELINE}
    body = []
    for row in rows(results):
        if row.problem:
            body.append([row.preset, row.label, "not shown", *["-"] * (len(head) - 3)])
            continue
        plan = results["presets"][row.preset]
        images, flops = plan["batch_size"], plan["batch_size"] * plan["flops_per_image"]
        laps = sorted(lap for trial in row.trials for lap in trial["step_ms"])
        p10, p90 = (laps[round(share * (len(laps) - 1))] for share in (0.1, 0.9))
        form, mark = digits(row.step_ms), f" {WARNING}" if row.disturbed else ""
        body.append(
            [
                row.preset,
                row.label + mark,
                with_range(row.images_per_second(plan), [1000 * images / ms for ms in row.times], ",.0f"),
                with_range(row.step_ms, row.times, form),
                f"{p10:{form}}–{p90:{form}}",
                number(flops / row.step_ms / 1e6),
                number(row.gemm_share(flops), ".0%"),
                _against_baseline(row, baselines.get(row.preset)),
                number(row.median("test_accuracy"), ".2%"),
            ]
        )
    return head, body


def _against_baseline(row: Row, baseline: Row | None) -> str:
    if row.disturbed:
        return "disturbed"
    if baseline is None or row.key == baseline.key:
        return "1" if baseline else "-"
    ratio = speedup(row, baseline)
    return "not ranked" if ratio.outcome == "not ranked" else f"{ratio.value:.2f} ({ratio.bounds})"


def start(results: Benchmark) -> Table:
    """From an empty process: the clocks in seconds, and memory in MB."""
    head = ("preset", "variant", *(f"{name} s" for name in CLOCKS), "imports MB", "peak MB", "× baseline")
    found = shown(results)
    baselines = {row.preset: row.median("peak_rss_mb") for row in found if row.label == BASELINE}
    body = []
    for row in found:
        peak, baseline = row.median("peak_rss_mb"), baselines.get(row.preset)
        body.append(
            [
                row.preset,
                row.label,
                *(number(clock(results, row, name), ".2f") for name in CLOCKS),
                number(row.median("import_rss_mb")),
                number(peak),
                number(peak / baseline if peak and baseline and row.track == "torch" else None, ".2f"),
            ]
        )
    return head, body


def first_run_steps(results: Benchmark, preset: str) -> int:
    """Steps of the first run whose seconds are shown: those that every trial took."""
    plan = results["presets"][preset]
    return plan.get("evaluated_step", plan["steps"])


def clock(results: Benchmark, row: Row, name: str) -> float | None:
    """Seconds of a first run by one clock; ``train`` is that of as many steps as every trial took."""
    if name == "train":
        return first_run_steps(results, row.preset) * row.step_ms / 1000
    return row.median("seconds", name)


def parts(results: Benchmark) -> Table:
    """What a step consists of."""
    head = ("preset", "variant", *(f"{name} ms" for name in PARTS))
    body = []
    for row in shown(results):
        form = digits(row.step_ms)
        body.append([row.preset, row.label, *(number(row.median("breakdown_ms", name), form) for name in PARTS)])
    return head, body


def ratios(results: Benchmark, preset: str) -> Table:
    """How many times as fast the variant of a line is as that of a column; (…) if the difference is not significant."""
    found = [row for row in ranked(results) if row.preset == preset]
    body = []
    for row in found:
        cells = []
        for column in found:
            ratio = speedup(row, column)
            text = f"{ratio.value:.2f}"
            cells.append("-" if row is column else text if ratio.significant else f"({text})")
        body.append([row.label, *cells])
    return ("", *(row.label for row in found)), body


def verdicts(results: Benchmark) -> list[str]:
    """The best variant of each track against the others and the baselines; which rows are not shown, and why."""
    sentences = []
    for preset, found in by_preset(rows(results)):
        good = [row for row in found if row.problem is None and row.disturbed is None]
        tracks = dict.fromkeys(row.track for row in good)
        best = [
            min((row for row in good if row.track == track and row.label != BASELINE), key=lambda row: row.step_ms)
            for track in tracks
            if any(row.track == track and row.label != BASELINE for row in good)
        ]
        contenders = sorted([*best, *(row for row in good if row.label == BASELINE)], key=lambda row: row.step_ms)
        pairs = [
            speedup(fast, slow).sentence(fast.label, slow.label, add=MORE)
            for fast, slow in itertools.combinations(contenders, 2)
        ]
        sentences += [f"{preset}: {sentence}." for sentence in dict.fromkeys(pairs)]
        sentences += [f"{preset}: {row.label} is not shown: {row.problem}." for row in found if row.problem]
        sentences += [
            f"{WARNING} {preset}: {row.label} is excluded from ratios: every trial was disturbed: {row.disturbed}."
            for row in found
            if row.problem is None and row.disturbed
        ]
        sentences += [
            f"{preset}: {row.label}: {row.left_out} disturbed trial{'s' if row.left_out > 1 else ''} left out."
            for row in found
            if row.left_out
        ]
    return sentences


def disagreements(results: Benchmark) -> list[str]:
    """The pairs of tracks that failed the parity check, and where."""
    sentences = []
    for pair in results["parity"]:
        if not pair["passed"]:
            worst = worst_check(pair)
            where = f": {describe(worst)}" if worst else ""
            sentences.append(
                f"{pair['preset']}: {pair['a']} and {pair['b']} are not at parity in {pair['precision']}{where}."
            )
    return sentences


def compilations(results: Benchmark) -> list[str]:
    """After how many steps a compiled variant, which takes longer to start, is ahead of the other."""
    sentences = []
    for preset, found in by_preset(ranked(results)):
        for a, b in (("jax jit", "jax scan"), ("torch eager", "torch compiled")):
            pair = {row.label: row for row in found if row.label in (a, b)}
            if len(pair) < 2:
                continue
            plain, fast = pair[a], pair[b]
            seconds = [row.median("seconds", "compile") or 0.0 for row in (plain, fast)]
            steps = steps_to_pay_off((seconds[0], seconds[1]), (plain.step_ms, fast.step_ms))
            extra = seconds[1] - seconds[0]
            start = f"{preset}: {b} takes {abs(extra):.1f} s {'more' if extra > 0 else 'less'} to start than {a}"
            ratio = speedup(fast, plain)
            if ratio.outcome == "slower":
                sentences.append(f"{start}, and its steps are slower.")
            elif ratio.outcome == "no significant difference":
                sentences.append(f"{start}; step time: {ratio.describe()}.")
            elif ratio.outcome == "faster":
                sentences.append(f"{start} and is ahead after {steps:,.0f} steps.")
    return sentences


def missed_targets(results: Benchmark) -> list[str]:
    """The rows of which no run reached the target accuracy."""
    missed = [row for row in rows(results, "cold") if row.trials and not any(t["reached"] for t in row.trials)]
    return [
        f"{row.preset}: {row.label} did not reach the target of {results['target']:.2%} "
        f"in {len(row.trials)} run{'' if len(row.trials) == 1 else 's'}."
        for row in missed
    ]


def targets(results: Benchmark) -> Table:
    """Cold seconds until an evaluation first reached the target, of the seeds that did."""
    head = ("preset", "variant", "seconds", "steps", "reached", "test accuracy")
    body = []
    valid = {row.key for row in shown(results)}
    for row in rows(results, "cold"):
        if row.key not in valid:
            continue
        reached = [trial for trial in row.trials if trial["reached"]]
        cold = [cold_seconds(trial) for trial in reached]
        seconds = with_range(statistics.median(cold), cold, ".1f") if cold else "-"
        steps = number(statistics.median(trial["steps"] for trial in reached)) if reached else "-"
        accuracy = number(row.median("test_accuracy"), ".2%")
        body.append([row.preset, row.label, seconds, steps, f"{len(reached)} of {len(row.trials)}", accuracy])
    return head, body


def agreement(results: Benchmark) -> Table:
    """How far the first losses of each row are from the median of all rows."""
    body = [[*key[:1], f"{key[1]} {key[2]}", f"{gap:.1e}"] for key, gap in loss_gaps(results).items()]
    return ("preset", "variant", "first losses: relative difference from the median"), body


def layers(results: Benchmark, preset: str) -> Table:
    """Every layer by itself: its work, the time attainable on one core, and the time of each track."""
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


def attainable_ms(results: Benchmark, layer: Layer) -> float:
    """The roofline: FLOPs at the GEMM peak or bytes at the memory bandwidth, whichever takes longer."""
    core = results["environment"]["one_core"]
    return float(max(layer["flops"] / core["gemm_gflops"], layer["bytes"] / core["memory"]) / 1e6)


def growth(results: Benchmark) -> Table:
    """Exponents b of cost ∝ sizeᵇ, fitted to the points of the sweep."""
    head = (
        "preset",
        "variant",
        "time by batch size",
        "time by FLOPs",
        "memory by batch size",
        "memory by steps",
        "MB at 1×, 16× steps",
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


def power(points: Sequence[Any], x: str, y: str) -> str:
    """The exponent of y over x, or a dash where y was not measured."""
    if any(point[y] is None for point in points):
        return "-"
    found = exponent([point[x] for point in points], [point[y] for point in points])
    return f"{round(found, 2) + 0.0:.2f}"  # no -0.00


def curve(results: Benchmark, key: Key, axis: str) -> list[Any]:
    """The points of one row along one axis that were measured."""
    return [
        point
        for point in results["sweep"]
        if (point["preset"], point["track"], point["variant"]) == key and point["axis"] == axis and "error" not in point
    ]

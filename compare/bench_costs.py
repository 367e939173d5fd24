"""The tables of what layers cost and of how cost grows, from the JSON of a benchmark."""

from __future__ import annotations

from typing import Any

from compare.bench_results import Results
from compare.bench_tables import Table, number
from compare.speeds import exponent


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

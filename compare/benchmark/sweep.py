"""The sweep: how the cost of a step and the memory of a process grow with the batch, the network and the steps."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from compare.benchmark import variants
from compare.benchmark.results import SweepPoint
from compare.config import Config
from compare.training.flops import chunk_of, training_flops

BATCHES = (0.25, 0.5, 1, 2, 4)  # of the preset's own
WIDTHS = (0.5, 1, 1.5, 2)
LENGTHS = (1, 4, 16)
WORK = 10e9  # FLOPs of a chunk
WIDTH_ARGUMENTS = ("hidden", "channels", "growth", "dim", "mlp_dim")


def points(config: Config) -> Iterator[tuple[str, Config, int]]:
    """(axis, what to train, steps per call): one quantity varies at a time.

    The learning rate is a hundredth of the preset's, so that small batches do not diverge; it does not change the cost.
    """
    config = dataclasses.replace(config, lr=config.lr / 100)
    for factor in BATCHES:
        yield _planned("batch", dataclasses.replace(config, batch_size=max(2, round(factor * config.batch_size))))
    for factor in WIDTHS:
        yield _planned("width", widened(config, factor))
    chunk = max(1, chunk_of(config, WORK) // 2)
    for factor in LENGTHS:
        yield "steps", dataclasses.replace(config, steps=5 * chunk * factor), chunk


def _planned(axis: str, config: Config) -> tuple[str, Config, int]:
    chunk = chunk_of(config, WORK)
    return axis, dataclasses.replace(config, steps=6 * chunk), chunk


def widened(config: Config, factor: float) -> Config:
    """The config with a network ``factor`` times as wide."""
    from compare.tracks import model_argument

    def wider(size: Any) -> Any:
        return type(size)(map(wider, size)) if isinstance(size, tuple | list) else max(1, round(factor * size))

    found = {}
    for name in WIDTH_ARGUMENTS:
        try:
            found[name] = wider(model_argument(config.model, config.model_args, name))
        except KeyError:  # this network has no such argument
            continue
    return dataclasses.replace(config, model_args={**config.model_args, **found})


def sweep(
    config: Config, names: list[variants.Variant], *, threads: int, folder: Path, note: Callable[[str], None]
) -> Iterator[SweepPoint]:
    """Measure every point once with each variant."""
    for axis, point, chunk in points(config):
        flops = training_flops(point) * point.batch_size
        for variant in names:
            trial = variants.measure(
                point, variant, threads=threads, chunk=chunk, folder=folder, evaluate=False, breakdown=False
            )
            row: Any = {name: trial[name] for name in ("preset", "track", "variant")}
            row |= {"axis": axis, "batch_size": point.batch_size, "step_flops": flops, "steps": point.steps}
            if "error" in trial:
                yield row | {"error": trial["error"]}
                continue
            row |= {"step_ms": statistics.median(trial["step_ms"]), "peak_rss_mb": trial["peak_rss_mb"]}
            size = f"batch {point.batch_size:>4}, {flops / 1e9:6.2f} GFLOP/step, {point.steps:>5} steps"
            note(f"{axis:<5}  {size}  {variant.label}: {row['step_ms']:.2f} ms, {row['peak_rss_mb'] or 0:.0f} MB")
            yield row

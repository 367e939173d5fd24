"""One benchmark in progress: parity first, then trials in turn; every trial is saved as it ends."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from compare import machine
from compare.benchmark import sweep, variants
from compare.benchmark.results import (
    EXTRA,
    KIND,
    SCHEMA,
    TENSORFLOW,
    Benchmark,
    Plan,
    Trial,
    cold_seconds,
    parity_problem,
)
from compare.config import Config
from compare.files import write_json
from compare.machine import disturbance, gemm

CHUNKS = 10  # of a trial at least: one warms up, nine are timed
WORK = 15e9  # FLOPs of a chunk: 0.1 to 0.2 s on two good cores
SHORTEST = 1e-3  # seconds that a chunk takes at least, however little work it has


@dataclasses.dataclass
class Session:
    """A benchmark in progress; ``results`` is what benchmark.json holds."""

    configs: list[Config]
    tracks: list[str]
    tensorflow: bool
    threads: int
    out: Path
    note: Callable[[str], None]
    results: Benchmark
    matmul_gflops: list[float] = dataclasses.field(default_factory=list)  # of large ones, since the last trial
    extra: dict[tuple[str, ...], int] = dataclasses.field(default_factory=dict)  # disturbed trials of each variant

    def save(self) -> None:
        """Write benchmark.json as far as it has come."""
        write_json(self.out / "benchmark.json", self.results)

    def check_parity(self) -> None:
        """Compare the tracks with each other, or a single one with another; one that fails is not measured."""
        from compare.parity import process as parity

        names = self.tracks if len(self.tracks) > 1 else [*self.tracks, other(self.tracks[0], self.configs[0].model)]
        self.note(f"checking parity of {' and '.join(names)}")
        wanted = parity.wanted(self.configs)
        self.results["parity"] += parity.check(wanted, names, hear=lambda text: self.note(f"  {text}"))
        for config, track in itertools.product(self.configs, self.tracks):
            problem = parity_problem(self.results, config.preset, track)
            if problem:
                self.note(f"{config.preset} {track}: not measured: {problem}")

    def measured(self, config: Config) -> list[variants.Variant]:
        """The variants of a preset that are measured: those of tracks at parity, and TensorFlow if asked for."""
        return [
            variant
            for variant in variants.of_tracks([*self.tracks, *([TENSORFLOW] if self.tensorflow else [])])
            if variant.fits(config, threads=self.threads)
            and not parity_problem(self.results, config.preset, variant.track)
        ]

    def repeat(self, number: int, target: float | None) -> None:
        """Every (preset, variant) once, A B C; with a target, each once more until it reaches that accuracy."""
        for config in self.configs:
            plan = self.results["presets"][config.preset]
            timed = dataclasses.replace(config, steps=plan["steps"])
            for variant in self.measured(config):
                self.trial(
                    timed, variant, number, "trials",
                    chunk=plan["chunk"], stop_after=plan["evaluated_step"], min_seconds=self.results["min_seconds"],
                )  # fmt: skip
        for config in self.configs if target is not None else ():
            for variant in self.measured(config):
                seeded = dataclasses.replace(config, seed=number)
                self.trial(seeded, variant, number, "cold", chunk=None, target=target, breakdown=False)

    def trial(
        self, config: Config, variant: variants.Variant, number: int, kind: Literal["trials", "cold"], **how: Any
    ) -> None:
        """One trial, repeated while other programs disturb it, up to ``EXTRA`` times for all repeats of a variant."""
        key = config.preset, variant.track, variant.name, kind
        while reason := self.attempt(config, variant, number, kind, **how):
            self.extra[key] = self.extra.get(key, 0) + 1
            if self.extra[key] > EXTRA:
                self.note(f"⚠ {config.preset} {variant.label} was disturbed and is marked: {reason}")
                return
            self.note(f"⚠ {config.preset} {variant.label} was disturbed and is repeated: {reason}")

    def attempt(
        self, config: Config, variant: variants.Variant, number: int, kind: Literal["trials", "cold"], **how: Any
    ) -> str | None:
        """One fresh process between two measurements of the matmul; saved, shown in a line; why it was disturbed."""
        before = self.matmul_gflops or machine.matmul_gflops(threads=self.threads)
        answer = variants.measure(config, variant, threads=self.threads, folder=self.out, **how)
        self.matmul_gflops = machine.matmul_gflops(threads=self.threads)
        speeds = gemm.around(answer, before, self.matmul_gflops, environment=self.results["environment"], config=config)
        trial: Any = {"repeat": number, **answer, "matmul_gflops": speeds, "gemm_gflops": None}
        if seen := trial.get("disturbance"):
            on_cpu = machine.on_cpu(answer.get("hardware"))
            seen["matmul_swing"] = disturbance.swing(before, self.matmul_gflops) if on_cpu else None
            trial["disturbed"] = disturbance.reason(seen)
        self.results[kind].append(trial)
        gemm.set_peaks([*self.results["trials"], *self.results["cold"]])
        self.note(f"{number + 1}/{self.results['repeats']}  {config.preset}  {variant.label:<16}  {describe(trial)}")
        self.results["environment"]["load"].append(machine.load())
        self.save()
        return cast(str | None, trial.get("disturbed"))

    def layers(self) -> None:
        """Every layer by itself on one core, and the limits of that core."""
        with variants.on_cores(1):
            limits = {"gemm_gflops": machine.gemm_gflops(threads=1)}
            limits |= {where: machine.bandwidth_gbs(where, threads=1) for where in machine.SIZES}
            self.results["environment"]["one_core"] = limits
            for config, track in itertools.product(self.configs, self.tracks):
                self.note(f"layers of {config.preset}, one by one on one core: {track}")
                answer: Any = variants.time_layers(config, track, folder=self.out)
                limits["gemm_gflops"] = max([limits["gemm_gflops"] or 0.0, *answer.pop("matmul_gflops", {}).values()])
                self.results["layers"].append({"preset": config.preset, "track": track, **answer})
                self.save()

    def sweep(self) -> None:
        """How cost grows with batch, width and steps, in the fast variant of each track."""
        for config in self.configs:
            names = variants.FAST if self.threads > 1 else ("numpy plain", *variants.FAST)
            fast = [variant for variant in self.measured(config) if variant.label in names]
            for point in sweep.sweep(config, fast, threads=self.threads, folder=self.out, note=self.note):
                self.results["sweep"].append(point)
                self.save()


def other(track: str, model: str) -> str:
    """A track to compare a single one with."""
    from compare import networks

    return next(each for each in networks.available(model, ["numpy", "torch", "jax"], asked=False) if each != track)


def begin(
    configs: Sequence[Config],
    *,
    repeats: int,
    target: float | None,
    min_seconds: float,
    threads: int,
    command: str,
) -> Benchmark:
    """The content of benchmark.json before anything has been measured."""
    environment = machine.describe(threads=threads)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "status": "running",
        "command": command,
        "environment": environment,
        "repeats": repeats,
        "min_seconds": min_seconds,
        "target": target,
        "seconds": None,
        "presets": {config.preset: plan(config, environment["gemm_gflops"], min_seconds) for config in configs},
        "parity": [],
        "trials": [],
        "cold": [],
        "layers": [],
        "sweep": [],
    }


def plan(config: Config, gemm_gflops: float | None, min_seconds: float) -> Plan:
    """Steps and chunks of a preset's trials, the same for all variants.

    The learning-rate schedule is long enough for ``min_seconds`` of timed steps at the speed of a large matmul, which
    no variant reaches; each trial stops when it has timed that many seconds.
    """
    from compare.training.flops import chunk_of, training_flops

    flops = training_flops(config)
    work = WORK
    if config.device != "cpu":  # an accelerator does a CPU's chunk in no time
        gemm_gflops = machine.accelerator_gflops(config.device, config.precision) or gemm_gflops
        work = 100 * WORK
    chunk = chunk_of(config, work)
    chunk_gflop = chunk * config.batch_size * flops / 1e9
    timed = math.ceil(min_seconds / max(chunk_gflop / gemm_gflops, SHORTEST)) if gemm_gflops else 0
    return {
        "model": config.model,
        "model_args": config.model_args,
        "dataset": config.dataset,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "precision": config.precision,
        "device": config.device,
        "flops_per_image": flops,
        "chunk": chunk,
        "steps": max(CHUNKS, 1 + timed) * chunk,
        "evaluated_step": CHUNKS * chunk,
    }


def describe(trial: Trial) -> str:
    """One line about a trial."""
    if "error" in trial:
        return f"failed: {trial['error']}"
    if trial["reached"] is not None:
        accuracy = f"validation accuracy {trial['val_accuracy']:.2%}"
        return f"{cold_seconds(trial):.1f} s, {accuracy}" + ("" if trial["reached"] else ": target not reached")
    return f"{statistics.median(trial['step_ms']):.2f} ms/step"

"""One benchmark under way: parity first, then trials in turns, each stage saved as it ends."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compare import machine, tracks
from compare.config import Config
from compare.workers import process

LAPS = 10  # chunks of a trial: one warms up, nine are timed
WORK = 15e9  # operations of a chunk: 0.1 to 0.2 s on two good cores


@dataclasses.dataclass
class Benchmark:
    """A benchmark under way; ``results`` is what benchmark.json holds."""

    configs: list[Config]
    tracks: list[str]
    tensorflow: bool
    threads: int
    out: Path
    note: Callable[[str], None]
    results: dict[str, Any]
    products: list[float] = dataclasses.field(default_factory=list)  # GFLOP/s of large ones, since the last trial

    def save(self) -> None:
        """Write what there is so far."""
        environment = self.results["environment"]
        environment["load"].append(machine.load())
        (self.out / "benchmark.json").write_text(json.dumps(self.results, indent=1), encoding="utf-8")

    def prove(self) -> None:
        """Hold the tracks against each other, or the only one against another; what fails is not measured."""
        from compare.parity.check import proof_of
        from compare.results import proof_problem

        names = list(dict.fromkeys(self.tracks)) if len(self.tracks) > 1 else [*self.tracks, other(self.tracks[0])]
        for precision in dict.fromkeys(("float64", *(config.precision for config in self.configs))):
            self.note(f"proving that {' and '.join(names)} are the same model in {precision}")
            wanted = [proof_of(config, precision) for config in self.configs]
            self.results["proof"] += process.call(
                *("compare.parity", "--json", json.dumps([config.to_json() for config in wanted]), "--tracks", *names),
                variables=tracks.device_variables(wanted[0]),
            )
        for config, track in itertools.product(self.configs, self.tracks):
            problem = proof_problem(self.results, {**config.to_json(), "track": track})
            if problem:
                self.note(f"{config.preset} {track}: not measured: {problem}")

    def chosen(self, config: Config) -> list[Any]:
        """The variants of a preset that are measured: those of the proven tracks, and TensorFlow if asked for."""
        from compare.benchmark import variants
        from compare.benchmark.results import SCRIPT, unproven

        return [
            variant
            for variant in variants.of_tracks([*self.tracks, *([SCRIPT] if self.tensorflow else [])])
            if variant.fits(config, threads=self.threads) and not unproven(self.results, config.preset, variant.track)
        ]

    def repeat(self, number: int, target: float | None) -> None:
        """Every (preset, variant) once, and once more until it reaches the target: A B C."""
        for config in self.configs:
            for variant in self.chosen(config):
                self.trial(config, variant, number, target=None)
        for config in self.configs if target is not None else ():
            for variant in self.chosen(config):
                self.trial(dataclasses.replace(config, seed=number), variant, number, target=target)

    def trial(self, config: Config, variant: Any, number: int, *, target: float | None) -> None:
        """One fresh process, and a line for the eyes of who waits."""
        from compare.benchmark import variants

        if target is None:
            plan = self.results["presets"][config.preset]
            config = dataclasses.replace(config, steps=plan["steps"])
            how: dict[str, Any] = {"chunk": plan["chunk"], "evaluate": number == 0, "split": number == 0}
        else:
            how = {"chunk": None, "target": target, "split": False}
        before = self.products or machine.products(threads=self.threads)
        answer = variants.measure(config, variant, threads=self.threads, folder=self.out, **how)
        self.products = machine.products(threads=self.threads)
        pace = machine.around(self.results["environment"], before, self.products)
        if not machine.on_cpu(answer.get("hardware")):
            pace = machine.accelerator_gflops(config.device, config.precision)
        answer["gemm_gflops"] = pace
        self.results["trials" if target is None else "cold"].append({"repeat": number, **answer})
        self.note(f"{number + 1}/{self.results['repeats']}  {config.preset}  {variant.label:<16}  {describe(answer)}")

    def layers(self) -> None:
        """Every layer by itself on one core, and that core's limits."""
        from compare.benchmark import variants

        with variants.on_cores(1):
            limits = {"gemm_gflops": machine.gemm_gflops(threads=1)}
            limits |= {where: machine.bandwidth_gbs(where, threads=1) for where in machine.SIZES}
            self.results["environment"]["one_core"] = limits
            for config, track in itertools.product(self.configs, self.tracks):
                self.note(f"layers of {config.preset}, one by one on one core: {track}")
                answer = variants.time_layers(config, track, folder=self.out)
                self.results["layers"].append({"preset": config.preset, "track": track, **answer})

    def sweep(self) -> None:
        """How cost grows."""
        from compare.benchmark import sweep, variants

        for config in self.configs:
            names = variants.FAST if self.threads > 1 else ("numpy plain", *variants.FAST)
            fast = [variant for variant in self.chosen(config) if variant.label in names]
            self.results["sweep"] += sweep.sweep(config, fast, threads=self.threads, folder=self.out, note=self.note)


def other(track: str) -> str:
    """A track to hold a lonely one against."""
    return "torch" if track == "numpy" else "numpy"


def begin(configs: list[Config], *, repeats: int, target: float | None, threads: int, command: str) -> dict[str, Any]:
    """The JSON of a benchmark that is about to start."""
    from compare.benchmark.results import SCHEMA
    from compare.training.flops import chunk_of, training_flops

    def preset(config: Config) -> dict[str, Any]:
        work = WORK if config.device == "cpu" else 100 * WORK  # an accelerator is through with a CPU's in a moment
        chunk = chunk_of(config, work)
        facts = ("model", "model_args", "dataset", "batch_size", "optimizer", "precision", "device")
        plan = {"flops_per_image": training_flops(config), "chunk": chunk, "steps": LAPS * chunk}
        return {name: getattr(config, name) for name in facts} | plan

    return {
        "schema": SCHEMA,
        "kind": "benchmark",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "environment": machine.describe(threads=threads),
        "repeats": repeats,
        "target": target,
        "seconds": None,  # that all of it took
        "presets": {config.preset: preset(config) for config in configs},
        "proof": [],
        "trials": [],
        "cold": [],
        "layers": [],
        "sweep": [],
    }


def describe(trial: dict[str, Any]) -> str:
    """One line about a trial."""
    from compare.benchmark.results import cold

    if "error" in trial:
        return f"failed: {trial['error']}"
    if trial["reached"] is not None:
        return f"{cold(trial):.1f} s, {trial['val_accuracy']:.2%}" + ("" if trial["reached"] else ", never reached")
    return f"{statistics.median(trial['step_ms']):.2f} ms a step"

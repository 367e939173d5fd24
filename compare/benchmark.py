"""The benchmark: every track in its plain and in its fast form, in fresh processes that take turns.

python -m compare.benchmark                               the MLP and the CNN, all tracks
python -m compare.benchmark cnn-mnist --tracks jax torch --repeats 9 --threads 1
python -m compare.benchmark mlp-mnist --target 0.98       also the cold time to a validation accuracy
python -m compare.benchmark mlp-mnist --sweep             also how cost grows with batch, width and steps
python -m compare.benchmark mlp-mnist --tensorflow        also a plain Keras script on the same batches
python -m compare.benchmark cnn-mnist --device gpu --precision bfloat16
python -m compare.benchmark mlp-mnist --against OLD.json  what became slower, beyond noise

No speed is measured before the tracks are proven to be one model, and none is shown of a process whose first losses
are not those of all the others. python -m compare.bench_report DIR writes the report and its pictures again.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import itertools
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compare import devices, machine, presets, tracks, workers
from compare.config import Config
from compare.errors import UserError, command_line

TRACKS = ("numpy", "jax", "torch")
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
        from compare.comparison import proof_of
        from compare.results import proof_problem

        names = list(dict.fromkeys(self.tracks)) if len(self.tracks) > 1 else [*self.tracks, other(self.tracks[0])]
        for precision in dict.fromkeys(("float64", *(config.precision for config in self.configs))):
            self.note(f"proving that {' and '.join(names)} are the same model in {precision}")
            wanted = [proof_of(config, precision) for config in self.configs]
            self.results["proof"] += workers.call(
                *("compare.parity", "--json", json.dumps([config.to_json() for config in wanted]), "--tracks", *names),
                variables=devices.variables(wanted[0]),
            )
        for config, track in itertools.product(self.configs, self.tracks):
            problem = proof_problem(self.results, {**config.to_json(), "track": track})
            if problem:
                self.note(f"{config.preset} {track}: not measured: {problem}")

    def chosen(self, config: Config) -> list[Any]:
        """The variants of a preset that are measured: those of the proven tracks, and TensorFlow if asked for."""
        from compare import variants
        from compare.bench_results import SCRIPT, unproven

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
        from compare import variants

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
        from compare import variants

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
        from compare import scaling, variants

        for config in self.configs:
            names = variants.FAST if self.threads > 1 else ("numpy plain", *variants.FAST)
            fast = [variant for variant in self.chosen(config) if variant.label in names]
            self.results["sweep"] += scaling.sweep(config, fast, threads=self.threads, folder=self.out, note=self.note)


def other(track: str) -> str:
    """A track to hold a lonely one against."""
    return "torch" if track == "numpy" else "numpy"


def begin(configs: list[Config], *, repeats: int, target: float | None, threads: int, command: str) -> dict[str, Any]:
    """The JSON of a benchmark that is about to start."""
    from compare.bench_results import SCHEMA
    from compare.flops import chunk_of, training_flops

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
    from compare.bench_results import cold

    if "error" in trial:
        return f"failed: {trial['error']}"
    if trial["reached"] is not None:
        return f"{cold(trial):.1f} s, {trial['val_accuracy']:.2%}" + ("" if trial["reached"] else ", never reached")
    return f"{statistics.median(trial['step_ms']):.2f} ms a step"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m compare.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("presets", nargs="*", metavar="PRESET", help=f"default: {' '.join(presets.DEFAULT)}")
    options.add_argument("--tracks", nargs="+", choices=TRACKS, default=list(TRACKS), metavar="TRACK")
    options.add_argument("--repeats", type=int, default=5, metavar="N", help="fresh processes for each (default: 5)")
    options.add_argument("--batch-size", type=int, metavar="N", help="instead of the preset's")
    options.add_argument("--precision", choices=("float32", "bfloat16"), help="of the products (default: the preset's)")
    options.add_argument("--device", type=devices.parse, metavar="auto|cpu|gpu[:i]", help="of JAX and PyTorch")
    options.add_argument("--threads", choices=("1", "all"), default="all", help="cores to use (default: all)")
    options.add_argument("--target", type=float, metavar="X", help="also the cold time to this validation accuracy")
    options.add_argument("--sweep", action="store_true", help="also how cost grows with batch, width and steps")
    options.add_argument("--tensorflow", action="store_true", help="also a plain Keras script, as a second yardstick")
    options.add_argument("--no-layers", action="store_true", help="no layers one by one, no roofline")
    options.add_argument("--against", type=Path, metavar="OLD", help="an earlier benchmark.json to compare with")
    options.add_argument("--data-dir", metavar="DIR", help="where datasets are that do not ship (or set NN_DATA_DIR)")
    options.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: runs/benchmark-DATE_TIME)")
    return options


def run(options: argparse.Namespace, configs: list[Config], command: str) -> dict[str, Any]:
    """Measure all that was asked for, in fresh processes on the same cores; each stage is saved as it ends."""
    from compare import variants

    start = time.perf_counter()
    threads = machine.cores() if options.threads == "all" else 1
    with variants.on_cores(threads):
        started = begin(configs, repeats=options.repeats, target=options.target, threads=threads, command=command)
        names = tracks.that_have(configs[0].precision, options.tracks)
        benchmark = Benchmark(configs, names, options.tensorflow, threads, options.out, _say, started)
        benchmark.prove()
        for number in range(options.repeats):
            benchmark.repeat(number, options.target)
            benchmark.save()
        if not options.no_layers and all(config.device == "cpu" for config in configs):  # a roofline of one core
            benchmark.layers()
        if options.sweep:
            benchmark.sweep()
        benchmark.results["seconds"] = round(time.perf_counter() - start)
        benchmark.save()
    return benchmark.results


def _say(text: str) -> None:
    print(text, flush=True)


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all went well, 1 if a speed cannot be shown or became slower, 2 for a wrong question."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: at least 1")
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: at least 1")
    if options.tensorflow and not importlib.util.find_spec("tensorflow"):
        raise UserError("--tensorflow: TensorFlow is not installed; pip install 'nn-three-ways[tensorflow]' brings it")
    folder = str(Path(options.data_dir).resolve()) if options.data_dir else None
    names = dict.fromkeys(options.presets or presets.DEFAULT)
    asked = {name: getattr(options, name) for name in ("batch_size", "precision", "device")}
    given = {"data_dir": folder} | {name: value for name, value in asked.items() if value is not None}
    configs = [dataclasses.replace(presets.get(name), **given) for name in names]
    from compare import bench_report, bench_results

    before = bench_results.read(options.against) if options.against else None
    options.out = options.out or Path("runs", f"benchmark-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    options.out.mkdir(parents=True, exist_ok=True)
    results = run(options, configs, command=shlex.join(["python", "-m", "compare.benchmark", *arguments]))
    print("\n" + bench_report.summary(results, before))
    for path in bench_report.write(results, options.out, before):
        print(path)
    return bench_report.status(results, before)


if __name__ == "__main__":
    sys.exit(main())

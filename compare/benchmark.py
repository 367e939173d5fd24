"""The benchmark: every track in its plain and in its fast form, in fresh processes that take turns.

    python -m compare.benchmark                               the MLP and the CNN, all tracks
    python -m compare.benchmark cnn-mnist --tracks jax torch --repeats 9 --threads 1
    python -m compare.benchmark mlp-mnist --target 0.98       also the cold time to a validation accuracy
    python -m compare.benchmark mlp-mnist --against OLD.json  what became slower, beyond noise

No speed is measured before the tracks are proven to be one model.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from compare import machine, presets, tracks, workers
from compare.config import CHUNK, Config
from compare.errors import UserError, command_line

SCHEMA = 1
STEPS = 10 * CHUNK  # of a trial: one chunk warms up, nine are timed

Trial = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A form in which people run a track."""

    track: str
    name: str
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # changes of the Config
    chunk: int | None = None  # steps per call, if not as planned
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)  # of init_state

    @property
    def label(self) -> str:
        """``jax scan``."""
        return f"{self.track} {self.name}"


VARIANTS = (
    Variant("numpy", "plain", {"numpy_threads": "blas"}),
    Variant("numpy", "threads", {"numpy_threads": "batch"}),
    Variant("jax", "jit", chunk=1),
    Variant("jax", "scan"),
    Variant("torch", "eager"),
    Variant("torch", "compiled", arguments={"compile": True}),
)


def run(
    configs: Sequence[Config],
    variants: Sequence[Variant],
    *,
    repeats: int,
    threads: int,
    target: float | None,
    path: Path,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Prove, then measure each (preset, variant) ``repeats`` times, in turns: A B C A B C.

    Returns the benchmark's JSON, ``environment``, ``proof`` and raw ``trials``, which after each repeat is also
    written to ``path``. An unproven preset is not measured.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "benchmark",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": machine.describe(threads=threads),
        "repeats": repeats,
        "target": target,
        "proof": [row for precision in ("float64", "float32") for row in prove(configs, variants, precision)],
        "trials": [],
    }
    unequal = {row["preset"] for row in results["proof"] if not row["passed"]}
    for name in sorted(unequal):
        note(f"{name}: not measured, its tracks are not the same model (python -m compare.parity says where)")
    proven = [config for config in configs if config.preset not in unequal]
    environment = results["environment"]
    for repeat in range(repeats):
        environment["gemm_gflops"] = max(environment["gemm_gflops"] or 0, machine.gemm_gflops(threads=threads) or 0)
        for config, variant in itertools.product(proven, variants):
            goals = [None] if target is None else [None, target]
            for goal in goals:
                trial = measure(config, variant, threads=threads, target=goal)
                results["trials"].append({"repeat": repeat, **trial})
                note(f"{repeat + 1}/{repeats}  {describe(trial)}")
        environment["load"].append(machine.load())
        path.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def prove(configs: Sequence[Config], variants: Sequence[Variant], precision: str) -> list[dict[str, Any]]:
    """Rows of the parity proof; none where there is only one track to measure."""
    names = list(dict.fromkeys(variant.track for variant in variants))
    if len(names) < 2:
        return []
    wanted = [dataclasses.replace(config, precision=precision).to_json() for config in configs]
    return list(workers.call("compare.parity", "--json", json.dumps(wanted), "--tracks", *names))


def measure(config: Config, variant: Variant, *, threads: int, target: float | None) -> Trial:
    """One trial in a fresh process."""
    config = dataclasses.replace(config, **variant.config)
    if target is None:
        config = dataclasses.replace(config, steps=STEPS)
    job = {
        "config": config.to_json(),
        "track": variant.track,
        "threads": threads,
        "chunk": variant.chunk,
        "target": target,
        "arguments": variant.arguments,
    }
    done = subprocess.run(
        [sys.executable, "-m", "compare.trial"],
        input=json.dumps(job),
        env=os.environ | tracks.environment(variant.track, config, threads=threads),
        cwd=workers.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        answer = {"error": f"exit code {done.returncode}: {last}"}
    return {"preset": config.preset, "track": variant.track, "variant": variant.name, "target": target, **answer}


def describe(trial: Trial) -> str:
    """One line for the eyes of who waits."""
    name = f"{trial['preset']} {trial['track']} {trial['variant']}"
    if "error" in trial:
        return f"{name}: failed: {trial['error']}"
    if trial["target"] is not None:
        how = f"{cold(trial):.1f} s to" if trial["reached"] else "never reached"
        return f"{name}: {how} {trial['target']:.2%}"
    return f"{name}: {statistics.median(trial['step_ms']):.2f} ms a step, {trial['images_per_second']:,.0f} images/s"


def cold(trial: Trial) -> float:
    """Seconds from an empty process to the last step: import, data, compile, train. Evaluation is not counted."""
    return sum(trial["seconds"][part] for part in ("import", "data", "compile", "train"))


def groups(results: dict[str, Any], *, target: bool = False) -> Iterator[tuple[tuple[str, str, str], list[Trial]]]:
    """((preset, track, variant), its repeats), of the timed trials or of those that ran for a target."""
    found: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in results["trials"]:
        if (trial["target"] is not None) == target:
            found.setdefault((trial["preset"], trial["track"], trial["variant"]), []).append(trial)
    yield from found.items()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m compare.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("presets", nargs="*", metavar="PRESET", help=f"default: {' '.join(presets.DEFAULT)}")
    options.add_argument("--tracks", nargs="+", choices=tracks.TRACKS, default=list(tracks.TRACKS), metavar="TRACK")
    options.add_argument("--repeats", type=int, default=5, metavar="N", help="fresh processes for each (default: 5)")
    options.add_argument("--threads", default="all", metavar="1|all", help="cores to use (default: all)")
    options.add_argument("--target", type=float, metavar="X", help="also the cold time to this validation accuracy")
    options.add_argument("--against", type=Path, metavar="OLD", help="an earlier benchmark.json to compare with")
    options.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: runs/benchmark-DATE_TIME)")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all went well, 1 if a trial or proof failed or a row became slower, 2 for a wrong question."""
    from compare import bench_report

    options = parser().parse_args(arguments)
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: at least 1")
    if options.threads not in ("1", "all"):
        raise UserError(f"--threads {options.threads}: it is 1 or all")
    before = bench_report.read(options.against) if options.against else None
    configs = [presets.get(name) for name in dict.fromkeys(options.presets or presets.DEFAULT)]
    out = options.out or Path("runs", f"benchmark-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    out.mkdir(parents=True, exist_ok=True)
    results = run(
        configs,
        [variant for variant in VARIANTS if variant.track in options.tracks],
        repeats=options.repeats,
        threads=machine.cores() if options.threads == "all" else 1,
        target=options.target,
        path=out / "benchmark.json",
        note=lambda text: print(text, flush=True),
    )
    slower = bench_report.show(results, before)
    bench_report.write(results, out)
    print(f"\n{out / 'benchmark.json'}\n{out / 'benchmark.md'}")
    bad = [trial for trial in results["trials"] if "error" in trial]
    return int(bool(bad or slower or any(not row["passed"] for row in results["proof"])))


if __name__ == "__main__":
    sys.exit(main())

"""A machine's entry, a file that can be sent in, with what a benchmark measured there: types, reader and checker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from compare import machine
from compare.benchmark import results
from compare.benchmark.results import Benchmark, Row
from compare.machine import disturbance
from compare.results import typed_json
from compare.results.schema import Machine

REPEATS = 3  # at least, so that a difference can be significant


class MeasuredMachine(Machine):
    """The processor and the software, and how fast it multiplies matrices and copies memory."""

    gemm_gflops: float | None
    memory_gbs: float | None


class Work(TypedDict):
    """What a step of a preset is."""

    model: str
    dataset: str
    batch_size: int
    precision: str
    device: str
    flops_per_image: int


class ParityOutcome(TypedDict):
    """Whether two tracks passed the parity check."""

    preset: str
    precision: str
    a: str
    b: str
    passed: bool


class Worst(TypedDict):
    """The figures that have a limit, the worst of the processes; see compare/machine/disturbance.py."""

    others: float | None
    throttled: float | None
    step_spread: float | None
    matmul_swing: float | None


class EntryRow(TypedDict):
    """A variant of a preset: medians over its processes, and whether they may be shown."""

    preset: str
    variant: str  # "jax scan"
    hardware: str | None
    step_ms: list[float]  # of each process
    gemm_share: float | None
    test_accuracy: float | None
    peak_rss_mb: float | None
    left_out: int  # disturbed processes
    disturbance: Worst
    disturbed: str | None
    problem: str | None  # why the speed may not be shown


class Entry(TypedDict):
    """The whole file."""

    schema: Literal[1]
    kind: Literal["machine"]
    created: str  # ISO 8601
    status: Literal["running", "finished", "interrupted"]
    command: str
    environment: MeasuredMachine
    presets: dict[str, Work]
    parity: list[ParityOutcome]
    rows: list[EntryRow]


def of_benchmark(found: Benchmark) -> Entry:
    """The entry of a benchmark."""
    environment = {name: found["environment"].get(name) for name in MeasuredMachine.__annotations__}
    plans: dict[str, Any] = {
        name: {key: cast(Any, plan)[key] for key in Work.__annotations__} for name, plan in found["presets"].items()
    }
    parity: list[Any] = [
        {key: cast(Any, pair)[key] for key in ParityOutcome.__annotations__} for pair in found["parity"]
    ]
    return {
        "schema": 1,
        "kind": "machine",
        "created": found["created"],
        "status": found["status"],
        "command": found["command"],
        "environment": cast(MeasuredMachine, environment),
        "presets": plans,
        "parity": parity,
        "rows": [_row(found, row) for row in results.rows(found) if row.trials],
    }


def _row(found: Benchmark, row: Row) -> EntryRow:
    plan = found["presets"][row.preset]
    seen: list[Any] = [trial.get("disturbance") or {} for trial in row.trials]
    worst: Any = {
        name: max((figures[name] for figures in seen if figures.get(name) is not None), default=None)
        for name in disturbance.LIMITS
    }
    return {
        "preset": row.preset,
        "variant": row.label,
        "hardware": row.trials[0].get("hardware"),
        "step_ms": row.times,
        "gemm_share": row.gemm_share(plan["batch_size"] * plan["flops_per_image"]),
        "test_accuracy": row.median("test_accuracy"),
        "peak_rss_mb": row.median("peak_rss_mb"),
        "left_out": row.left_out,
        "disturbance": worst,
        "disturbed": row.disturbed,
        "problem": row.problem,
    }


def read(path: Path) -> Entry:
    """The entry in a file; UserError, which lists what is wrong, if it is none."""
    return cast(Entry, typed_json.read(path, Entry, "entry.json"))


def refusals(entry: Entry) -> list[str]:
    """Why an entry is not accepted: disturbed, not at parity, unfinished, or of code that nobody has; [] if it is."""
    commit = entry["environment"]["git_commit"]
    found = [f"the benchmark is not finished: {entry['status']}"] if entry["status"] != "finished" else []
    if not machine.is_clean(commit):
        found.append("its code is no commit: measure in a checkout without uncommitted changes")
    found += [
        f"{pair['preset']}: {pair['a']} and {pair['b']} are not at parity in {pair['precision']}"
        for pair in entry["parity"]
        if not pair["passed"]
    ]
    for row in entry["rows"]:
        name = f"{row['preset']}, {row['variant']}"
        if row["preset"] not in entry["presets"]:
            found.append(f"{name}: its preset is not described")
        if not any(pair["preset"] == row["preset"] for pair in entry["parity"]):
            found.append(f"{name}: parity was not checked")
        if row["problem"]:
            found.append(f"{name}: {row['problem']}")
        if reason := row["disturbed"] or disturbance.reason(cast(Any, row["disturbance"])):
            found.append(f"{name} was disturbed: {reason}")
        if row["disturbance"]["others"] is None:
            found.append(f"{name}: nothing tells whether other programs disturbed it")
        if len(row["step_ms"]) < REPEATS:
            found.append(f"{name}: {len(row['step_ms'])} processes, and {REPEATS} are needed: measure with --repeats 5")
    return found if entry["rows"] else [*found, "it has no rows"]

"""benchmark.md, its plots and the summary in the terminal, from benchmark.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compare import machine
from compare.benchmark import tables
from compare.benchmark.results import COMPARED, COMPARED_KINKED, EXTRA, Benchmark, read, rows
from compare.benchmark.tables import table
from compare.files import write_atomically


def summary(results: Benchmark, before: Benchmark | None = None) -> str:
    """For the terminal: the table of speeds and the verdicts."""
    stopped = ["Interrupted: the figures are those of the processes that had ended.", ""]
    lines = [table(*tables.speed(results)), "", *verdict(results, before)]
    return "\n".join([*(stopped if results["status"] == "interrupted" else []), *lines]) + "\n"


def figures(results: Benchmark, folder: Path, before: Benchmark | None = None) -> dict[str, Any]:
    """For a program: the speed of every variant, unrounded, why it is not shown or not ranked, and the verdicts."""
    shown = []
    for row in rows(results):
        known: dict[str, Any] = {
            "preset": row.preset,
            "track": row.track,
            "variant": row.variant,
            "problem": row.problem,
        }
        if row.problem is None:
            plan = results["presets"][row.preset]
            known |= {
                "disturbed": row.disturbed,
                "images_per_second": row.images_per_second(plan),
                "step_ms": row.step_ms,
                "step_ms_of_processes": row.times,
                "gemm_share": row.gemm_share(plan["batch_size"] * plan["flops_per_image"]),
                "peak_rss_mb": row.median("peak_rss_mb"),
                "test_accuracy": row.median("test_accuracy"),
            }
        shown.append(known)
    kept = {"folder": str(folder), "kind": results["kind"], "status": results["status"]}
    return {**kept, "variants": shown, "verdict": verdict(results, before)}


def verdict(results: Benchmark, before: Benchmark | None) -> list[str]:
    """Sentences: who is faster, what is not shown and why, what compilation costs, what changed since ``before``."""
    return [
        *tables.verdicts(results),
        *tables.disagreements(results),
        *tables.compilations(results),
        *tables.missed_targets(results),
        *(line for line, _ in (against(results, before) if before else [])),
    ]


def against(results: Benchmark, before: Benchmark) -> list[tuple[str, bool]]:
    """For each row of both: a sentence, and whether it became slower. Nothing is compared across machines."""
    if different := _other_machine(results, before):
        return [(f"Not compared with the earlier benchmark, which ran on another machine: {different}.", False)]
    peaks = [found["environment"]["gemm_gflops"] for found in (before, results)]
    said = [(f"GEMM peak: {tables.number(peaks[0])} GFLOP/s before, {tables.number(peaks[1])} now.", False)]
    old = {row.key: row for row in tables.ranked(before)}
    for preset, found in tables.by_preset(row for row in tables.ranked(results) if row.key in old):
        if _work(results, preset) != _work(before, preset):
            said.append((f"{preset}: not compared, since the network, the batch or the device has changed.", False))
            continue
        for row in found:
            ratio = tables.speedup(row, old[row.key])
            changed = f"{ratio.outcome} than before, " if ratio.significant else "against before: "
            slower = ratio.outcome == "slower"
            said.append((f"{preset}: {row.label}, {changed}{ratio.describe(add=tables.MORE)}.", slower))
    return said


def _other_machine(results: Benchmark, before: Benchmark) -> str:
    """Where two benchmarks differ in processor, cores or the hardware of a track; "" if they do not."""
    facts = []
    for found in (before, results):
        hardware = {f"hardware of {trial['track']}": trial.get("hardware") for trial in found["trials"]}
        facts.append(hardware | {name: found["environment"].get(name) for name in ("cpu", "threads")})
    then, now = facts
    common = [name for name in now if name in then and now[name] != then[name] and None not in (now[name], then[name])]
    return "; ".join(f"{name} {then[name]}, now {now[name]}" for name in common)


def _work(results: Benchmark, preset: str) -> dict[str, Any]:
    """What a step of a preset does; a longer schedule is the same work."""
    return {
        name: value for name, value in results["presets"][preset].items() if name not in ("steps", "evaluated_step")
    }


def status(results: Benchmark, before: Benchmark | None) -> int:
    """1 if parity or a trial failed, a row cannot be shown, or something became slower, else 0."""
    trials: list[Any] = [*results["trials"], *results["cold"], *results["sweep"], *results["layers"]]
    slower = before is not None and any(worse for _, worse in against(results, before))
    failed = any("error" in each for each in trials) or not all(pair["passed"] for pair in results["parity"])
    return int(slower or failed or any(row.problem for row in rows(results)))


def write(results: Benchmark, out: Path, before: Benchmark | None = None) -> list[Path]:
    """Write benchmark.md and the plots beside benchmark.json; returns all paths."""
    from compare.benchmark import plots

    files = {"benchmark.md": document(results, before).encode(), "speeds.png": plots.speeds(results)}
    if any("layers" in entry for entry in results["layers"]):
        files["roofline.png"] = plots.roofline(results)
    if results["sweep"]:
        files["sweep.png"] = plots.sweep(results)
    return [out / "benchmark.json", *(write_atomically(out / name, content) for name, content in files.items())]


def document(results: Benchmark, before: Benchmark | None = None) -> str:
    """The whole of benchmark.md."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("report.md.j2").render(**_figures(results, before)).rstrip() + "\n"


def _figures(results: Benchmark, before: Benchmark | None) -> dict[str, Any]:
    """Everything that the template shows."""
    environment = results["environment"]
    layered = dict.fromkeys(entry["preset"] for entry in results["layers"] if "layers" in entry)
    counts = {name: tables.first_run_steps(results, name) for name in results["presets"]}
    facts = {name: environment.get(name) for name in ("cpu", "cores", "threads", "platform", "python", "git_commit")}
    facts |= {"measured": results["created"]} | environment["versions"]
    hardware = {trial["track"]: trial.get("hardware") for trial in results["trials"]}
    seconds = results["seconds"]
    return {
        **results,
        "verdict": verdict(results, before),
        "processes": tables.processes(results),
        "extra": EXTRA,
        "single": results["repeats"] < 2,
        "cores": f"{environment['threads']} core{'s' if environment['threads'] > 1 else ''}",
        "accelerators": "".join(f", {track} on {name}" for track, name in hardware.items() if not machine.on_cpu(name)),
        "steps": " and ".join(f"{count:,} steps of {name}" for name, count in counts.items()),
        "peak": tables.number(environment["gemm_gflops"]),
        "speed": table(*tables.speed(results)),
        "ratios": [(preset, table(*tables.ratios(results, preset))) for preset in results["presets"]],
        "parts": table(*tables.parts(results)),
        "start": table(*tables.start(results)),
        "targets": table(*tables.targets(results)),
        "core": environment.get("one_core"),
        "layers": [(preset, table(*tables.layers(results, preset))) for preset in layered],
        "growth": table(*tables.growth(results)),
        "passed": sum(pair["passed"] for pair in results["parity"]),
        "precisions": " and ".join(dict.fromkeys(pair["precision"] for pair in results["parity"])),
        "compared": COMPARED,
        "compared_kinked": COMPARED_KINKED,
        "agreement": table(*tables.agreement(results)),
        "load": _load([value for value in environment["load"] if value is not None]),
        "machine": table(("", ""), [[name, str(value)] for name, value in facts.items()]),
        "seconds_text": "an unknown time" if seconds is None else f"{seconds / 60:.1f} minutes",
    }


def _load(values: list[float]) -> str:
    if len(values) < 2:
        return "unknown"
    return f"{values[0]:.1f} before the first trial, {min(values[1:]):.1f} to {max(values[1:]):.1f} after each one"


def again(path: Path) -> dict[str, Any]:
    """Write benchmark.md and the plots of a benchmark.json, or of the one in a folder, again; returns its figures."""
    found, folder = read(path), path if path.is_dir() else path.parent
    for file in write(found, folder):
        print(file)
    return figures(found, folder)

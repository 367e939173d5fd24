"""Write benchmark.md and its plots again, and the summary that the terminal shows, from benchmark.json alone.

python -m compare.benchmark.report DIR...      writes them again
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compare import cli, machine
from compare.benchmark import tables
from compare.benchmark.results import KINKED, SHOWN, Results, read, rows
from compare.benchmark.statistics import false_alarms, times_as_fast
from compare.cli import command_line
from compare.errors import UserError


def summary(results: Results, before: Results | None = None) -> str:
    """For the terminal: the table of speeds and the verdicts."""
    lines = [tables.table(*tables.speed(results)), "", *verdict(results, before)]
    return "\n".join(lines) + "\n"


def verdict(results: Results, before: Results | None) -> list[str]:
    """Sentences."""
    changes = [line for line, _ in against(results, before)] if before else []
    return [*tables.verdicts(results), *tables.disagreements(results), *tables.compilations(results), *changes]


def document(results: Results, before: Results | None = None) -> str:
    """The whole of benchmark.md."""
    sections = {
        "In short": "\n".join(f"- {line}" for line in verdict(results, before)),
        "Speed": f"{_how(results)}\n\n{tables.table(*tables.speed(results))}\n\n![Speeds](speeds.png)",
        "Which is faster, and how much": _ratios(results),
        "What a step is made of": _parts(results),
        "From an empty process": _start(results),
        "Time to accuracy": _targets(results),
        "Layer by layer": _layers(results),
        "How cost grows": _growth(results),
        "The same model": _proof(results),
        "Known unfairness": _unfairness(results),
        "Machine": _machine(results),
        "To reproduce": f"```\n{results['command']}\n```\n\n{_duration(results)}",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return f"# Benchmark\n\n{body}\n"


def against(results: Results, before: Results) -> list[tuple[str, bool]]:
    """For each row that both have: a sentence, and whether it is slower beyond noise."""
    old = {row.key: row for row in rows(before) if row.problem is None}
    peaks = [found["environment"]["gemm_gflops"] for found in (before, results)]
    said = [(f"The best large product ran at {peaks[0]:,.0f} GFLOP/s before, and at {peaks[1]:,.0f} now.", False)]
    machines = [[found["environment"].get(name) for name in ("cpu", "threads")] for found in (before, results)]
    if machines[0] != machines[1]:
        said.append(
            (f"The earlier benchmark ran on {machines[0]}, this one on {machines[1]}: no fair comparison.", False)
        )
    earlier = {name: {"device": "cpu"} | facts for name, facts in before["presets"].items()}
    changed = {name for name, facts in results["presets"].items() if facts != earlier.get(name, facts)}
    said += [(f"{name} was another network or another amount of work: not compared.", False) for name in changed]
    for row in tables.shown(results):
        if row.key in old and row.preset not in changed:
            change = times_as_fast(row.times, old[row.key].times)
            slower = change.sure and change.value < 1
            verdict = "slower" if slower else "faster" if change.sure else "not told from noise"
            said.append((f"{row.preset}: {row.label} is {change} times as fast as before: {verdict}.", slower))
    return said


def status(results: Results, before: Results | None) -> int:
    """1 if a proof or a trial failed, a row cannot be shown, or something became slower, else 0."""
    trials = [*results["trials"], *results["cold"], *results["sweep"], *results["layers"]]
    slower = bool(before and any(worse for _, worse in against(results, before)))
    failed = any("error" in each for each in trials) or not all(pair["passed"] for pair in results["proof"])
    return int(slower or failed or any(row.problem for row in rows(results)))


def write(results: Results, out: Path, before: Results | None = None) -> list[Path]:
    """Write benchmark.md and the pictures beside benchmark.json; returns all paths."""
    from compare.benchmark import plots

    pictures = {"speeds.png": plots.speeds(results)}
    if any("layers" in entry for entry in results["layers"]):
        pictures["roofline.png"] = plots.roofline(results)
    if results["sweep"]:
        pictures["sweep.png"] = plots.sweep(results)
    try:
        for name, picture in pictures.items():
            (out / name).write_bytes(picture)
        (out / "benchmark.md").write_text(document(results, before), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}; choose another folder.") from error
    return [out / name for name in ("benchmark.json", "benchmark.md", *pictures)]


def _how(results: Results) -> str:
    environment, repeats = results["environment"], results["repeats"]
    cores = f"{environment['threads']} core{'s' if environment['threads'] > 1 else ''}"
    interval = "in brackets the 95 % bootstrap interval of that" if repeats > 2 else "too few repeats for an interval"
    steps = " and ".join(f"{plan['steps']:,} steps of {name}" for name, plan in results["presets"].items())
    where = {trial["track"]: trial.get("hardware") for trial in results["trials"]}
    there = "".join(f", {track} on {name}" for track, name in where.items() if not machine.on_cpu(name))
    return (
        f"{tables.processes(results)} for each row, in turns, on {cores} of {environment['cpu']}{there}, {steps} in "
        "each: a tenth warms up, the rest is timed. A figure is the median over processes of the median of one; "
        f"{interval}. *p10 to p90* is the spread of all timed calls. *Of products*: arithmetic counted on paper, as a "
        "share of what NumPy's large float32 products reached just before and after each process (the median; the best "
        f"of all: {environment['gemm_gflops']:,.0f} GFLOP/s); on an accelerator, of what PyTorch's products reach "
        "there in the precision of the run. *To reference*: times as fast as a plain PyTorch script. *Accuracy*: "
        "after those few steps, all test images counted; so early equal models may be points apart, and it is the "
        "first losses that show that they are equal."
    )


def _ratios(results: Results) -> str:
    repeats = results["repeats"]
    chance = (
        f"With {repeats} repeats, {false_alarms(repeats):.0%} of equal pairs would be called different."
        if repeats > 2
        else "Differences are called from three repeats on; five make them trustworthy."
    )
    how = "Times that the form of a line is as fast as that of a column; in brackets where the interval holds 1."
    parts = [f"{how} {chance}"]
    parts += [f"`{preset}`\n\n{tables.table(*tables.ratios(results, preset))}" for preset in results["presets"]]
    return "\n\n".join(parts)


def _parts(results: Results) -> str:
    how = (
        "Frameworks fuse these parts, so none can be cut out of a running step. *Input* is gathering the images; "
        "*update* is a step on two images, that is the update and whatever else does not grow with the images; "
        "*forward* is what evaluating the batch takes beyond evaluating two images; *backward* is what a timed step "
        "took beyond these three. Measured in the first repeat."
    )
    return f"{tables.table(*tables.parts(results))}\n\n{how}"


def _start(results: Results) -> str:
    how = (
        "Caches of compiled programs are off, so *compile* is what a first run pays: setting up the state, and what "
        "the first call and the first evaluation took beyond the others. Memory is the largest resident, child "
        "processes added, what they share counted in each; *to reference* is against the plain PyTorch script."
    )
    return f"{tables.table(*tables.start(results))}\n\n{how}"


def _targets(results: Results) -> str:
    if results["target"] is None:
        return ""
    how = (
        f"Import, data, compilation and training until an evaluation first showed {results['target']:.2%} of the "
        "validation images; the whole preset as it is, repeat n with seed n. Evaluations are not counted."
    )
    return f"{how}\n\n{tables.table(*tables.targets(results))}"


def _layers(results: Results) -> str:
    presets = dict.fromkeys(entry["preset"] for entry in results["layers"] if "layers" in entry)
    if not presets:
        return ""
    core = results["environment"]["one_core"]
    how = (
        f"Each layer by itself, forward and backward, on one core, which multiplies {core['gemm_gflops']:,.0f} GFLOP/s "
        f"and copies {core['memory']:,.0f} GB/s in memory, {core['cache']:,.0f} GB/s in its cache. *Attainable* is the "
        "larger of FLOPs by the first and bytes by the second; a layer whose arrays stay in the cache can beat it. "
        "Normalisation, recurrence and attention are not taken apart."
    )
    found = [f"`{preset}`\n\n{tables.table(*tables.layers(results, preset))}" for preset in presets]
    return "\n\n".join([how, "![Roofline](roofline.png)", *found])


def _growth(results: Results) -> str:
    if not results["sweep"]:
        return ""
    how = (
        "Exponents b of cost = a · sizeᵇ, fitted to the points of the picture: 1 is growth in proportion, 0 is none. "
        "Below 1 a fixed cost per step is spread over more work; above 1 arrays leave the caches. One process a point."
    )
    return f"{tables.table(*tables.growth(results))}\n\n{how}\n\n![Sweep](sweep.png)"


def _proof(results: Results) -> str:
    proven = sum(pair["passed"] for pair in results["proof"])
    precisions = " and ".join(dict.fromkeys(pair["precision"] for pair in results["proof"]))
    how = (
        f"{proven} of {len(results['proof'])} pairs of tracks passed the proof (logits, gradients, losses, parameters, "
        f"optimizer state; {precisions}). Forms of a track, and the reference, are held against each other in "
        f"the very processes that were timed: the first {SHOWN} losses ({KINKED} where kinks are many), from the same "
        "weights on the same batches."
    )
    return f"{how}\n\n{tables.table(*tables.agreement(results))}"


def _unfairness(results: Results) -> str:
    load = ", ".join(f"{value:.1f}" for value in results["environment"]["load"] if value is not None)
    lines = [
        f"One-minute load before the first repeat, and after each stage: {load}. The benchmark itself makes one of "
        "about the number of cores; more is somebody else.",
        "Forms take turns in a fixed order: one that follows a hot one may meet a processor that has slowed down.",
        "The reference has its images normalised before the clock starts, the tracks get bytes and normalise them "
        "in the step; it draws whole batches of floats instead.",
        "The reference is what people write, not the best that PyTorch can do: that is `torch eager`.",
        "The peak is that of NumPy's BLAS; another library may exceed it.",
        "Two of the processor's cores may share more or less cache from one minute to the next where it is virtual.",
        "The sum of the processes' memories counts shared pages several times.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _duration(results: Results) -> str:
    seconds = results["seconds"]
    return "It did not run to its end." if seconds is None else f"It took {seconds / 60:.1f} minutes."


def _machine(results: Results) -> str:
    environment = results["environment"]
    names = ("cpu", "cores", "threads", "platform", "python", "git_commit")
    facts = {name: environment.get(name) for name in names} | {"measured": results["created"]} | environment["versions"]
    return tables.table(("", ""), [[name, str(value)] for name, value in facts.items()])


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m compare.benchmark.report``."""
    options = cli.parser("benchmark.report", "Write the report of a benchmark and its plots again.")
    options.add_argument("directories", metavar="DIR", nargs="+", type=cli.path, help="a folder with a benchmark.json")
    return options


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Return 0 if all files were written, 2 for invalid arguments."""
    for directory in parser().parse_args(arguments).directories:
        results = read(directory)
        for path in write(results, directory if directory.is_dir() else directory.parent):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a benchmark found, in words and tables, from its JSON alone."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from compare.benchmark import SCHEMA, Trial, cold, groups
from compare.errors import UserError
from compare.flops import training_flops
from compare.presets import PRESETS
from compare.speeds import Interval, median, steps_to_pay_off, times_as_fast

Results = dict[str, Any]
Key = tuple[str, str, str]  # preset, track, variant


def read(path: Path) -> dict[str, Any]:
    """Load a benchmark.json, or the one in a folder."""
    path = path / "benchmark.json" if path.is_dir() else path
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): give a benchmark.json, or the folder of one") from error
    found = (results.get("kind"), results.get("schema")) if isinstance(results, dict) else None
    if found != ("benchmark", SCHEMA):
        raise UserError(f"{path} is not a benchmark of schema {SCHEMA}: it says {found}; measure again")
    return dict(results)


def document(results: Results, before: Results | None = None) -> str:
    """The whole of benchmark.md."""
    environment = results["environment"]
    threads, peak = environment["threads"], environment["gemm_gflops"]
    parts = [
        "# Benchmark\n",
        f"{results['repeats']} fresh processes for each row, in turns, on {threads} "
        f"core{'s' if threads > 1 else ''} of {environment['cpu']}; NumPy's best float32 product of 2048 x 2048 "
        f"reached {peak:,.0f} GFLOP/s. Figures are medians over the processes (95 % bootstrap interval).\n",
        table(("preset", "track", "images/s", "step ms", "GFLOP/s", "of peak", "cold s", "compile s", "peak MB"),
              [speed_row(results, key, trials) for key, trials in groups(results)]),
        "## What a step is made of, in ms\n",
        table(("preset", "track", "input", "forward", "backward", "update"),
              [split_row(key, trials) for key, trials in groups(results)]),
        "## Which is faster\n",
        "\n".join(f"- {line}" for line in comparisons(results)) or "Only one row: nothing to compare.",
    ]  # fmt: skip
    if results["target"] is not None:
        title = f"## Cold time to {results['target']:.2%} of the validation images\n"
        parts += [title, table(("preset", "track", "seconds", "reached"),
                               [target_row(key, trials) for key, trials in groups(results, target=True)])]  # fmt: skip
    if before is not None:
        parts += ["## Against the earlier benchmark\n", "\n".join(f"- {line}" for line, _ in against(results, before))]
    return "\n".join(parts) + "\n"


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def good(trials: list[Trial]) -> list[Trial]:
    """The trials that did not fail."""
    return [trial for trial in trials if "error" not in trial]


def times(trials: list[Trial]) -> list[float]:
    """One step time in ms for each process: the median of its steps."""
    return [statistics.median(trial["step_ms"]) for trial in good(trials)]


def failure(key: Key, trials: list[Trial], columns: int) -> list[str] | None:
    """The row of a variant of which no trial succeeded: its reason."""
    if good(trials):
        return None
    preset, track, variant = key
    return [preset, f"{track} {variant}", f"failed: {trials[0]['error']}", *["-"] * (columns - 3)]


def speed_row(results: Results, key: Key, trials: list[Trial]) -> list[str]:
    """Speed, what it is of the peak, cold times and memory."""
    if row := failure(key, trials, 9):
        return row
    preset, track, variant = key
    step, batch = median(times(trials)), PRESETS[preset].batch_size
    speed = 1000 * batch / step.value
    gflops = speed * training_flops(PRESETS[preset]) / 1e9
    middle = {
        name: statistics.median(trial["seconds"][name] for trial in good(trials)) for name in ("compile", "train")
    }
    return [
        f"`{preset}`",
        f"{track} {variant}",
        f"{speed:,.0f} ({1000 * batch / step.high:,.0f} to {1000 * batch / step.low:,.0f})",
        str(step),
        f"{gflops:,.0f}",
        f"{gflops / results['environment']['gemm_gflops']:.0%}",
        f"{statistics.median(map(cold, good(trials))) - middle['train']:.1f}",
        f"{middle['compile']:.1f}",
        f"{statistics.median(trial['peak_rss_mb'] for trial in good(trials)):,.0f}",
    ]


def split_row(key: Key, trials: list[Trial]) -> list[str]:
    """Where a step's time goes."""
    if row := failure(key, trials, 6):
        return row
    preset, track, variant = key
    parts = [
        statistics.median(t["split_ms"][part] for t in good(trials))
        for part in ("input", "forward", "backward", "update")
    ]
    return [f"`{preset}`", f"{track} {variant}", *(f"{part:.2f}" for part in parts)]


def target_row(key: Key, trials: list[Trial]) -> list[str]:
    """Cold seconds to the target, of the trials that reached it."""
    if row := failure(key, trials, 4):
        return row
    reached = [cold(trial) for trial in good(trials) if trial["reached"]]
    seconds = str(median(reached)) if reached else "-"
    return [f"`{key[0]}`", f"{key[1]} {key[2]}", seconds, f"{len(reached)} of {len(trials)}"]


def comparisons(results: Results) -> list[str]:
    """Sentences: each pair of rows of a preset, fastest first, and when a compilation pays off."""
    sentences = []
    by_preset = itertools.groupby(groups(results), key=lambda item: item[0][0])
    for preset, items in by_preset:
        rows = sorted(
            ((key, trials) for key, trials in items if good(trials)), key=lambda item: statistics.median(times(item[1]))
        )
        for (fast, a), (slow, b) in itertools.combinations(rows, 2):
            names = f"`{preset}`: {fast[1]} {fast[2]}", f"{slow[1]} {slow[2]}"
            found = times_as_fast(times(a), times(b))
            sentences.append(
                f"{names[0]} is {found} times as fast as {names[1]}"
                if found.sure
                else f"{names[0]} and {names[1]}: no difference is shown, the ratio is {found}"
            )
            if fast[1] == slow[1]:
                cost = [statistics.median(t["seconds"]["compile"] for t in good(trials)) for trials in (b, a)]
                steps = steps_to_pay_off((cost[0], cost[1]), (statistics.median(times(b)), statistics.median(times(a))))
                sentences.append(
                    f"`{preset}`: what {fast[1]} {fast[2]} takes longer to start pays off after {steps:,.0f} steps"
                )
    return sentences


def against(results: Results, before: Results) -> list[tuple[str, bool]]:
    """For each row that both have: a sentence, and whether it is slower beyond noise."""
    old, found = dict(groups(before)), []
    for key, trials in groups(results):
        if key in old and good(trials) and good(old[key]):
            change: Interval = times_as_fast(times(trials), times(old[key]))
            verdict = (
                "slower" if change.sure and change.value < 1 else "faster" if change.sure else "not told from noise"
            )
            found.append(
                (f"`{key[0]}` {key[1]} {key[2]}: {change} times as fast as before: {verdict}", verdict == "slower")
            )
    return found or [("the two have no row in common", False)]


def show(results: Results, before: Results | None) -> bool:
    """Print the document; return whether something became slower."""
    print(document(results, before))
    return before is not None and any(slower for _, slower in against(results, before))


def write(results: Results, out: Path, before: Results | None = None) -> Path:
    """Write benchmark.md beside benchmark.json."""
    path = out / "benchmark.md"
    path.write_text(document(results, before), encoding="utf-8")
    return path

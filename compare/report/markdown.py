"""The words and tables of report.md: the verdict first, then what it rests on, then what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from compare import machine
from compare.report.limitations import one_line, unfairness, unfinished
from compare.report.summary import verdict
from compare.results import (
    Results,
    Run,
    cold_seconds,
    drift_from_numpy,
    groups,
    numbers,
    order,
    size,
    speed_withheld,
    spread,
    target_accuracy,
    tested,
)

COLUMNS = (  # a line break is where a narrow table may break a cell
    "preset",
    "track",
    "test\naccuracy",
    "test\nloss",
    "images/s",
    "of\nproducts",
    "step ms\n[p10 p90]",
    "compile\ns",
    "peak\nMB",
    "largest gap\nto NumPy",
)


def document(results: Results) -> str:
    """The whole of report.md."""
    found = sections(results)
    found["Curves"] += "\n\n![Loss, accuracy, gaps and speed](curves.png)"
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in found.items() if text)
    return f"# The same networks, track by track\n\n{body}\n"


def sections(results: Results) -> dict[str, str]:
    """Titles and texts in Markdown, in their order; a text is empty where there is nothing to say."""
    return {
        "Verdict": verdict(results),
        "Results": _results(results),
        "Curves": (
            "Losses are running means over a fortieth of the run. Several seeds are thin lines around their mean. "
            "The gap is that of the losses of two tracks on the same batch, having started from the same weights."
        ),
        "The same model: the proof": _proof(results),
        "Drift: the end of training": _drift(results),
        "Where the time goes": _time(results),
        "What they get wrong": _errors(results),
        "Known unfairness": unfairness(results),
        "What did not finish": unfinished(results),
        "Machine": _machine(results),
        "To reproduce": f"```\n{results.get('command') or 'the command was not recorded'}\n```",
    }


def row(results: Results, preset: str, track: str, runs: list[Run]) -> list[str]:
    """One row of the table of results, a cell's parts on lines of their own; several seeds: mean ± deviation."""
    speed, share, step = _speed(results, runs)
    gap = drift_from_numpy(results, preset, track)
    reference = "the reference" if track == "numpy" else "-"
    cells = [
        preset,
        track,
        *_quality(runs),
        speed,
        share,
        step,
        spread(numbers(runs, "seconds", "compile"), ".1f"),
        spread(numbers(runs, "peak_rss_mb"), ",.0f"),
        f"{size(gap['max_abs'])}\n{(gap['worst_leaf'] or '').removeprefix('params/')}" if gap else reference,
    ]
    return [cell.replace(" ± ", "\n± ") for cell in cells]


def _quality(runs: list[Run]) -> tuple[str, str]:
    """Test accuracy and loss, or what kept the runs from having them."""
    done = tested(runs)
    if not done:
        return ", ".join(sorted({run["status"] for run in runs})), "-"
    accuracy = spread([100 * value for value in numbers(done, "test_accuracy")])
    counts = " or ".join(f"{count:,}" for count in sorted({run["test_count"] for run in done}))
    missing = f", {len(done)} of {len(runs)} seeds" if len(done) < len(runs) else ""
    return f"{accuracy} %\nof {counts}{missing}", spread(numbers(done, "test_loss"), ".4f")


def _speed(results: Results, runs: list[Run]) -> tuple[str, str, str]:
    """Images/s, share of large products' speed and step time: only beside an accuracy, only of a proven model."""
    reason = speed_withheld(results, runs)
    if reason:
        return reason, "-", "-"
    runs = tested(runs)
    percent = [100 * value for value in numbers(runs, "gemm_share")]
    share = spread(percent, ".0f" if min(percent, default=1) >= 1 else ".1f", unit="%")
    median, low, high = (numbers(runs, "step_ms", name) for name in ("median", "p10", "p90"))
    form = ".2f" if max(median, default=0) < 10 else ".1f"
    step = spread(median, form) + (f"\n[{min(low):{form}} {max(high):{form}}]" if low and high else "")
    return spread(numbers(runs, "images_per_second"), ",.0f"), share, step


def _results(results: Results) -> str:
    lines = [row(results, preset, track, runs) for preset, track, runs in _each(results)]
    notes = [
        f"- {run['preset']} {run['track']} seed {run['seed']}: {one_line(run['compile_note'])}"
        for run in results["runs"]
        if run.get("compile_note")
    ]
    how = (
        "Accuracy counts every test image. A speed stands only beside its accuracy and only if the track proved to be "
        "the same model; otherwise its cell says why. Steps are timed in chunks: the first is warm-up, and what it "
        "took beyond the median of the others is in *compile s*. *Of products*: the network's arithmetic, counted "
        "on paper, per second, as a share of what NumPy's large fp32 matrix products reached just before and just "
        f"after the run (their median; the best of all: {_peak(results)}); on an accelerator, of what PyTorch's reach. "
        "Several seeds: mean ± standard deviation."
    )
    return "\n\n".join([markdown(COLUMNS, lines), how, *(["\n".join(notes)] if notes else [])])


def _proof(results: Results) -> str:
    """A line for each thing compared, a column for each pair of tracks."""
    proof = results.get("proof") or []
    if not proof:
        return "No proof was made, so nothing here may be read as a comparison of speed."
    names = sorted({(pair["a"], pair["b"]) for pair in proof}, key=lambda names: [order(name) for name in names])
    found: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    for pair in proof:
        for check in pair["checks"]:
            line = (pair["preset"], pair["precision"], check["what"], f"{check['tolerance']:.0e}")
            leaf = check.get("worst_leaf")
            cell = f"{size(check['max_rel'])} {leaf if leaf and leaf != check['what'] else ''}"
            found.setdefault(line, {})[pair["a"], pair["b"]] = cell if check["passed"] else f"**DIFFERS: {cell}**"
    lines = [[*line, *(cells.get(pair, "-") for pair in names)] for line, cells in found.items()]
    headers = ("preset", "precision", "what", "tolerance", *(f"{a} - {b}" for a, b in names))
    steps = " or ".join(str(steps) for steps in sorted({pair["steps"] for pair in proof}))
    kinked = sorted({pair["preset"] for pair in proof if pair.get("sensitivity")})
    nudge = (
        f" In {', '.join(kinked)} rounding decides some relus of every batch: the tolerance in float32 is, where that "
        "is more than usual, twice as far as exact arithmetic moves if each parameter is changed by 1e-5 of itself; "
        "what that moves by more than 10 % is left out."
        if kinked
        else ""
    )
    return (
        f"The first {steps} steps, from the same weights on the same batches. Each cell is the largest relative "
        f"difference of two tracks, and where it is.{nudge}\n\n{markdown(headers, lines)}"
    )


def _drift(results: Results) -> str:
    if not results["parity"]:
        return ""
    lines = [
        [
            entry["preset"],
            str(entry["seed"]),
            f"{entry['a']} - {entry['b']}",
            size(entry["first_loss_gap"]),
            size(entry["max_loss_gap"]),
            entry["worst_leaf"] or "-",
            size(entry["max_abs"]),
            size(entry["max_rel"]),
        ]
        for entry in results["parity"]
    ]
    headers = ("preset", "seed", "pair", "first loss gap", "largest loss gap", "worst leaf", "max abs", "max rel")
    return (
        "Sums taken in another order round differently, and training magnifies it, most suddenly where a ReLU or a "
        "maximum within rounding of its kink takes the other branch in one track: thousands of steps later the same "
        "model, trained on the same batches, stands at other weights that are equally good.\n\n"
        f"{markdown(headers, lines)}"
    )


def _time(results: Results) -> str:
    clocks = ("import", "data", "compile", "train", "eval", "total")
    lines, targets = [], {preset: target_accuracy(tracks) for preset, tracks in groups(results).items()}
    for preset, track, runs in _each(results):
        target = targets[preset]
        cold = [] if target is None else [s for run in tested(runs) if (s := cold_seconds(run, target)) is not None]
        reached = f"{spread(cold, '.1f')} (to {100 * target:.1f} %)" if cold and target else "-"
        lines.append([preset, track, *(spread(numbers(runs, "seconds", clock), ".1f") for clock in clocks), reached])
    note = (
        "Seconds of one process from its start. *Cold to accuracy*: import, data and compilation plus training until "
        "an evaluation first showed the validation accuracy named, which every tested run of that preset reached."
    )
    return f"{markdown(('preset', 'track', *clocks, 'cold to accuracy'), lines)}\n\n{note}"


def _errors(results: Results) -> str:
    """Mistakes per track, and which digit is taken for which."""
    lines = []
    for preset, track, runs in _each(results):
        looked_into = [run["insight"] for run in runs if (run.get("insight") or {}).get("confusion")]
        if not looked_into:
            continue
        counts = np.sum([found["confusion"] for found in looked_into], axis=0)
        np.fill_diagonal(counts, 0)
        classes, seeds = looked_into[0]["classes"], len(looked_into)
        often = [divmod(int(place), len(counts)) for place in np.argsort(-counts, axis=None, kind="stable")[:3]]
        named = [f"{classes[a]} as {classes[b]} ({counts[a, b] / seeds:.3g})" for a, b in often if counts[a, b]]
        lines.append([preset, track, f"{counts.sum() / seeds:,.4g}", ", ".join(named) or "-"])
    if not lines:
        return ""
    return "Of all test images, by the state whose accuracy is reported; of several seeds the mean.\n\n" + markdown(
        ("preset", "track", "mistakes", "most often"), lines
    )


def _machine(results: Results) -> str:
    environment = results["environment"]
    facts = {name: environment.get(name) for name in ("cpu", "cores", "threads", "platform", "python", "git_commit")}
    for run in results["runs"]:
        if not machine.on_cpu(run.get("hardware")):
            memory = f", {run['peak_device_mb']:,.0f} MB of its memory" if run["peak_device_mb"] else ""
            facts[f"{run['preset']} {run['track']} on"] = f"{run['hardware']}, {run['products']}{memory}"
    memory = results["environment"].get("memory_gbs")
    facts |= {"best matmul": _peak(results), "copying in memory": memory and f"{memory:,.0f} GB/s"}
    facts |= {"measured": results.get("created"), **(environment.get("versions") or {})}
    return markdown(("what", "value"), [[name, "-" if value is None else str(value)] for name, value in facts.items()])


def _peak(results: Results) -> str:
    peak = results["environment"].get("gemm_gflops")
    return "unmeasured rate" if peak is None else f"{peak:,.0f} GFLOP/s"


def _each(results: Results) -> Iterable[tuple[str, str, list[Run]]]:
    return [(preset, track, runs) for preset, tracks in groups(results).items() for track, runs in tracks.items()]


def markdown(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A pipe table."""
    lines = [list(headers), *([cell.replace("|", "\\|") for cell in cells] for cells in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines)

"""The sections of report.md: tables from results.json in the prose of templates/report.md.j2."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compare import machine
from compare.report import status
from compare.report.configuration import configurations
from compare.report.style import order
from compare.report.summary import summary, title
from compare.results.parity import closeness, describe, difference, drift_from_numpy, speed_remark, speed_withheld
from compare.results.runs import (
    WARNING,
    Tracks,
    cold_seconds,
    confusions,
    disturbed,
    examples,
    groups,
    loss_in_bits,
    numbers,
    spread,
    target_accuracy,
    tested,
    unit,
)
from compare.results.schema import ParityRow, Results, RunResult

if TYPE_CHECKING:
    from jinja2 import Template

TITLES = {  # of the sections, in their order, by the name of their block in the template
    "summary": "Summary",
    "unfinished": "Unfinished runs",
    "results": "Accuracy and speed",
    "configuration": "Configuration",
    "curves": "Training curves",
    "time": "Time per phase",
    "memory": "Memory",
    "roofline": "Roofline",
    "errors": "Error analysis",
    "filters": "First-layer filters",
    "parity": "Parity check",
    "drift": "Drift after training, as expected",
    "limitations": "Limitations",
    "reproduce": "Reproduce",
}
FOLDED = {"parity": "parity_quantities"}  # more of a section, which report.html folds
FIGURES_ONLY = ("memory", "roofline", "filters")  # have no tables, and no place in report.md
COLUMNS = (  # a line break is where a narrow table may break a cell
    "preset",
    "track",
    "test\naccuracy",
    "test\nloss",
    "images/s",
    "% of GEMM\npeak",
    "step ms\n[p10 p90]",
    "compile\ns",
    "peak\nMB",
    "drift from\nNumPy",
)


def document(results: Results) -> str:
    """The whole of report.md."""
    found = {name: text for name, text in sections(results).items() if text and name not in FIGURES_ONLY}
    for name, more in folded(results).items():
        found[name] += f"\n\n{more}"
    found["curves"] += "\n\n![Training loss, validation accuracy, loss gap and speed](curves.png)"
    body = "\n\n".join(f"## {TITLES[name]}\n\n{text}" for name, text in found.items())
    return f"# {title(results)}\n\n{_first_screen(results)}\n\n{body}\n"


def _first_screen(results: Results) -> str:
    """The status strip, the line about disturbed runs, and the small table of each network."""
    parts = [" · ".join(f"**{check.name}** {check.mark} {check.text}" for check in status.strip(results))]
    if line := status.amber(results):
        parts.append(f"> {line}")
    parts += [f"**{card.preset}**\n\n{markdown(card.headers, card.rows)}" for card in status.cards(results)]
    return "\n\n".join(parts)


def sections(results: Results) -> dict[str, str]:
    """The text of each section in Markdown, by the names of ``TITLES``; empty where there is nothing to say."""
    return _blocks(results, TITLES)


def folded(results: Results) -> dict[str, str]:
    """What report.html folds, by the name of the section."""
    blocks = _blocks(results, FOLDED.values())
    return {name: blocks[more] for name, more in FOLDED.items()}


def _blocks(results: Results, names: Iterable[str]) -> dict[str, str]:
    context, template = _context(results), _template()
    return {name: "".join(template.blocks[name](template.new_context(context))).strip() for name in names}


@cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        autoescape=False,  # Markdown; report.html escapes when it renders it
    )
    environment.filters["one_line"] = one_line
    return environment.get_template("report.md.j2")


def _context(results: Results) -> dict[str, Any]:
    """Everything that the template needs."""
    runs, load = results["runs"], results["environment"]["load"]
    return {
        "summary": summary(results),
        "results_table": markdown(COLUMNS, [row(results, *each) for each in _each(results)]),
        "configuration_table": markdown(*configurations(results)),
        "gemm_peak": _gemm_peak(results),
        "parity_summary": _parity_summary(results),
        "parity_table": _parity_table(results),
        "parity_steps": " or ".join(str(steps) for steps in sorted({pair["steps"] for pair in results["parity"]})),
        "perturbed": sorted({pair["preset"] for pair in results["parity"] if pair["sensitivity"]}),
        "drift_table": _drift_table(results),
        "time_table": _time_table(results),
        "errors_table": _errors_table(results),
        "alone": speed_remark(results) is not None,
        "disturbed": disturbed(runs) is not None,
        "seeds": len({run["seed"] for run in runs}),
        "chunk": max((run["chunk"] or 0 for run in runs), default=0),
        "load": ", ".join(f"{load[when]:.1f} {when}" for when in ("before", "after") if load[when] is not None),
        "remarked": [run for run in runs if run["status"] == "finished" and run["message"]],
        "unfinished": [run for run in runs if run["status"] != "finished"],
        "machine_table": _machine_table(results),
        "command": results["command"],
    }


def row(results: Results, preset: str, track: str, runs: list[RunResult]) -> list[str]:
    """One row of the table of results, a cell's parts on lines of their own; several seeds: mean ± deviation."""
    speed, share, step = _speed(results, runs)
    drift = drift_from_numpy(results, preset, track)
    cells = [
        preset,
        track,
        *_quality(runs),
        speed,
        share,
        step,
        spread(numbers(runs, "seconds", "compile"), ".1f"),
        spread(numbers(runs, "peak_rss_mb"), ",.0f"),
        f"{difference(drift['max_abs'])}\n{drift['worst_leaf'].removeprefix('params/')}" if drift else "-",
    ]
    return [cell.replace(" ± ", "\n± ") for cell in cells]


def _quality(runs: list[RunResult]) -> tuple[str, str]:
    """Test accuracy and loss, or the status of runs that have none."""
    done = tested(runs)
    if not done:
        return ", ".join(sorted({run["status"] for run in runs})), "-"
    accuracy = spread([100 * value for value in numbers(done, "test_accuracy")])
    counts = " or ".join(f"{count:,.0f}" for count in sorted({*numbers(done, "test_count")}))
    missing = f", {len(done)} of {len(runs)} seeds" if len(done) < len(runs) else ""
    bits = loss_in_bits(done)
    in_bits = f"\n{spread(bits, '.3f')} bits\nper {unit(done[0]).removesuffix('s')}" if bits else ""
    return f"{accuracy} %\nof {counts}{missing}", f"{spread(numbers(done, 'test_loss'), '.4f')}{in_bits}"


def _speed(results: Results, runs: list[RunResult]) -> tuple[str, str, str]:
    """Images/s, % of GEMM peak and step time, or why they are not shown."""
    reason = speed_withheld(results, runs)
    if reason:
        return reason, "-", "-"
    runs = tested(runs)
    percent = [100 * value for value in numbers(runs, "gemm_share")]
    share = spread(percent, ".0f" if min(percent, default=1) >= 1 else ".1f", unit="%")
    median, low, high = (numbers(runs, "step_ms", name) for name in ("median", "p10", "p90"))
    form = ".2f" if max(median, default=0) < 10 else ".1f"
    step = spread(median, form) + (f"\n[{min(low):{form}} {max(high):{form}}]" if low and high else "")
    speed = spread(numbers(runs, "images_per_second"), ",.0f")
    if runs and examples(runs[0]) != "images":  # which the header says
        speed += f"\n{examples(runs[0])}/s"
    if remark := speed_remark(results):
        speed += f"\n{remark}"
    mark = f" {WARNING}" if disturbed(runs) else ""
    return f"{speed}{mark}", f"{share}{mark}", f"{step}{mark}"


def _parity_summary(results: Results) -> str:
    """A line for each network: the outcome in each precision, with the check nearest to its tolerance."""
    found: dict[str, dict[str, list[ParityRow]]] = {}
    for pair in results["parity"]:
        found.setdefault(pair["preset"], {}).setdefault(pair["precision"], []).append(pair)
    precisions = [*dict.fromkeys(pair["precision"] for pair in results["parity"])]
    rows = [[preset, *(_outcome(pairs.get(each, [])) for each in precisions)] for preset, pairs in found.items()]
    return markdown(("preset", *precisions), rows)


def _outcome(pairs: list[ParityRow]) -> str:
    """``passed: at most 8 % of a tolerance (gradients hidden/0/kernel 1.2e-16 ≤ 1e-10)``."""
    checks = [check for pair in pairs for check in pair["checks"]]
    if not checks:
        return "-"
    worst = max(checks, key=closeness)
    if not all(pair["passed"] for pair in pairs):
        return f"**FAILED:** {describe(worst)}"
    return f"passed: at most {100 * closeness(worst):.2g} % of a tolerance ({describe(worst)})"


def _parity_table(results: Results) -> str:
    """A line for each quantity, a column for each pair of tracks; empty without a parity check."""
    rows = results["parity"]
    names = sorted({(pair["a"], pair["b"]) for pair in rows}, key=lambda names: [order(name) for name in names])
    found: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    for pair in rows:
        for check in pair["checks"]:
            line = (pair["preset"], pair["precision"], check["what"], f"{check['tolerance']:.0e}")
            leaf = check["worst_leaf"]
            cell = f"{difference(check['max_rel'])} {leaf if leaf and leaf != check['what'] else ''}".strip()
            found.setdefault(line, {})[pair["a"], pair["b"]] = cell if check["passed"] else f"**EXCEEDED: {cell}**"
    headers = ("preset", "precision", "quantity", "tolerance", *(f"{a} - {b}" for a, b in names))
    return markdown(headers, [[*line, *(cells.get(pair, "-") for pair in names)] for line, cells in found.items()])


def _drift_table(results: Results) -> str:
    lines = [
        [
            entry["preset"],
            str(entry["seed"]),
            f"{entry['a']} - {entry['b']}",
            difference(entry["first_loss_gap"]),
            difference(entry["max_loss_gap"]),
            entry["worst_leaf"],
            difference(entry["max_abs"]),
            difference(entry["max_rel"]),
        ]
        for entry in results["drift"]
    ]
    headers = ("preset", "seed", "pair", "first loss gap", "largest loss gap", "worst leaf", "max abs", "max rel")
    return markdown(headers, lines)


def _time_table(results: Results) -> str:
    clocks = ("import", "data", "compile", "train", "eval", "total")
    lines, targets = [], {preset: target_accuracy(tracks) for preset, tracks in groups(results).items()}
    for preset, track, runs in _each(results):
        target = targets[preset]
        cold = [] if target is None else [s for run in tested(runs) if (s := cold_seconds(run, target)) is not None]
        reached = f"{spread(cold, '.1f')} (to {100 * target:.1f} %)" if cold and target else "-"
        lines.append([preset, track, *(spread(numbers(runs, "seconds", clock), ".1f") for clock in clocks), reached])
    return markdown(("preset", "track", *clocks, "time to accuracy"), lines)


def _errors_table(results: Results) -> str:
    """Misclassified test images per track, and which class is taken for which."""
    lines = []
    for preset, track, runs in _each(results):
        known = confusions(runs)
        if not known:
            continue
        counts = np.sum([count for _, count in known], axis=0)
        np.fill_diagonal(counts, 0)
        (classes, _), seeds = known[0], len(known)
        often = [divmod(int(place), len(counts)) for place in np.argsort(-counts, axis=None, kind="stable")[:3]]
        named = [f"{classes[a]} → {classes[b]} ({counts[a, b] / seeds:.3g})" for a, b in often if counts[a, b]]
        lines.append([preset, track, f"{counts.sum() / seeds:,.4g}", ", ".join(named) or "-"])
    return markdown(("preset", "track", "misclassified", "most frequent, label → prediction"), lines)


def _machine_table(results: Results) -> str:
    environment = results["environment"]
    bandwidth = environment["memory_gbs"]
    facts: dict[str, Any] = {
        "CPU": environment["cpu"],
        "cores": environment["cores"],
        "threads": environment["threads"],
        "platform": environment["platform"],
        "Python": environment["python"],
        "git commit": environment["git_commit"],
    }
    for run in results["runs"]:
        if not machine.on_cpu(run["hardware"]):
            memory = f", {run['peak_device_mb']:,.0f} MB of its memory" if run["peak_device_mb"] else ""
            facts[f"{run['preset']} {run['track']} on"] = f"{run['hardware']}, {run['matmul_precision']}{memory}"
    facts |= {"GEMM peak": _gemm_peak(results), "memory bandwidth": bandwidth and f"{bandwidth:,.0f} GB/s"}
    facts |= {"date": results["created"], **(environment["versions"] or {})}
    known = [[name, "-" if value is None else str(value)] for name, value in facts.items()]
    return markdown(("property", "value"), known)


def _gemm_peak(results: Results) -> str:
    peak = results["environment"]["gemm_gflops"]
    return "not measured" if peak is None else f"{peak:,.0f} GFLOP/s"


def _each(results: Results) -> Iterable[tuple[str, str, list[RunResult]]]:
    presets: dict[str, Tracks] = groups(results)
    return [(preset, track, runs) for preset, tracks in presets.items() for track, runs in tracks.items()]


def markdown(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A pipe table; empty without rows."""
    body = [[cell.replace("|", "\\|") for cell in cells] for cells in rows]
    lines = [list(headers), *body]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |" for line in lines) if body else ""


def one_line(text: str) -> str:
    """A message of any length, shortened to a line of a report."""
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:400]}..."

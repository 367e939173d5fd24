"""The words and tables of report.md: the verdict first, then what it rests on, then what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable

from compare.results import (
    Results,
    Run,
    drift_from_numpy,
    groups,
    numbers,
    proof_problem,
    size,
    spread,
    worst_check,
)

NAMES = {"numpy": "NumPy", "jax": "JAX", "torch": "PyTorch"}
COLUMNS = (
    "preset",
    "track",
    "test accuracy",
    "test loss",
    "images/s",
    "of matmul peak",
    "step ms [p10 p90]",
    "compile s",
    "peak MB",
    "largest gap to NumPy",
)


def row(results: Results, preset: str, track: str, runs: list[Run]) -> list[str]:
    """One row of the table of results; several seeds are shown as mean ± standard deviation."""
    accuracy, loss = _quality(runs)
    speed, share, step = _speed(results, runs)
    compile_seconds = spread(numbers(runs, "seconds", "compile"), ".1f")
    memory = spread(numbers(runs, "peak_rss_mb"), ",.0f")
    return [preset, track, accuracy, loss, speed, share, step, compile_seconds, memory, _gap(results, preset, track)]


def _quality(runs: list[Run]) -> tuple[str, str]:
    """Test accuracy and loss, or what kept the runs from having them."""
    tested = [run for run in runs if run.get("test_accuracy") is not None]
    if not tested:
        return ", ".join(sorted({run["status"] for run in runs})), "-"
    accuracy = spread([100 * value for value in numbers(tested, "test_accuracy")])
    counts = " or ".join(f"{count:,}" for count in sorted({run["test_count"] for run in tested}))
    missing = f", {len(tested)} of {len(runs)} seeds" if len(tested) < len(runs) else ""
    return f"{accuracy} % of {counts}{missing}", spread(numbers(tested, "test_loss"), ".4f")


def _speed(results: Results, runs: list[Run]) -> tuple[str, str, str]:
    """Images/s, share of the matmul peak and step time: only beside an accuracy, only of a proven model."""
    reason = speed_withheld(results, runs)
    if reason:
        return reason, "-", "-"
    trained = [run for run in runs if run.get("test_accuracy") is not None]
    share = spread([100 * value for value in numbers(trained, "gemm_share")], ".0f", unit="%")
    median, low, high = (numbers(trained, "step_ms", name) for name in ("median", "p10", "p90"))
    step = f"{spread(median)} [{min(low):.2f} {max(high):.2f}]" if median and low and high else spread(median)
    return spread(numbers(trained, "images_per_second"), ",.0f"), share, step


def speed_withheld(results: Results, runs: list[Run]) -> str | None:
    """Why no speed is shown for these runs of one track, or None."""
    if not numbers(runs, "test_accuracy"):
        return "no test accuracy"
    return next((problem for run in runs if (problem := proof_problem(results, run))), None)


def _gap(results: Results, preset: str, track: str) -> str:
    gap = drift_from_numpy(results, preset, track)
    if gap is None:
        return "the reference" if track == "numpy" else "-"
    return f"{size(gap['max_abs'])} {gap['worst_leaf']}"


def document(results: Results) -> str:
    """The whole of report.md."""
    return "# Comparison\n\n" + markdown(COLUMNS, (row(results, p, t, r) for p, ts in groups(results).items() for t, r in ts.items())) + "\n"


def markdown(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A pipe table."""
    lines = [list(headers), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

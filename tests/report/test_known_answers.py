"""Known answers for every published figure, from numbers whose mean is not their median, nor 90 % of them 95 %."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from support.fake_results import fake_results

from compare import machine, presets
from compare.benchmark import results as benchmark_results
from compare.benchmark import tables
from compare.checkpoint import store
from compare.loaders import report as loaders_report
from compare.parity.drift import drift
from compare.report import status
from compare.report.html import bars, roof
from compare.report.html.content import side_by_side
from compare.report.markdown import COLUMNS, document, row
from compare.report.series import mean, smooth
from compare.report.summary import _accuracy_gap
from compare.results.runs import groups, spread, trajectory
from compare.statistics import mean_interval, ratio_of_medians
from compare.training.clocks import Stopwatch, Timings
from compare.training.flops import training_flops
from compare.transfer import report as transfer_report

PRESET = "mlp-mnist"
SPEEDS = (10_000.0, 20_000.0, 90_000.0)  # median 20,000, mean 40,000, standard deviation 43,589
ACCURACIES = (0.90, 0.91, 0.98)  # median 91 %, mean 93 %, standard deviation 4.36 points


def skewed() -> Any:
    """A comparison of three seeds, where every figure of PyTorch is skewed."""
    results: Any = fake_results(presets=(PRESET,), seeds=(0, 1, 2))
    for run, speed, accuracy in zip(groups(results)[PRESET]["torch"], SPEEDS, ACCURACIES, strict=True):
        run |= {
            "images_per_second": speed,
            "test_accuracy": accuracy,
            "gflops": speed / 1000,
            "peak_rss_mb": speed / 10,
        }
        run |= {"gemm_share": speed / 1e6, "import_rss_mb": speed / 100, "test_loss": accuracy / 10}
        run["step_ms"] = {"median": speed / 1e4, "p10": speed / 2e4, "p90": speed / 5e3}
        run["seconds"] = dict.fromkeys(run["seconds"], speed / 10000.0)
        history: Any = [{"val_accuracy": reached, "seconds": 10.0 * k} for k, reached in ((1, 0.5), (2, 0.99))]
        run["history"] = [row | new for row, new in zip(run["history"][:2], history, strict=True)]
    return results


# --- reports ----------------------------------------------------------------------------------------------------------


def test_the_table_shows_means_and_sample_deviations():
    results = skewed()
    found = row(results, PRESET, "torch", groups(results)[PRESET]["torch"])
    cells = dict(zip((" ".join(name.split()) for name in COLUMNS), (" ".join(c.split()) for c in found), strict=True))
    assert cells["test accuracy"] == "93.00 ± 4.36 % of 10,000"
    assert cells["test loss"] == "0.0930 ± 0.0044"
    assert cells["images/s"] == "40,000 ± 43,589"
    assert cells["% of GEMM peak"] == "4 ± 4 %"
    assert cells["step ms [p10 p90]"] == "4.00 ± 4.36 [0.50 18.00]"
    assert cells["compile s"] == "4.0 ± 4.4"
    assert cells["peak MB"] == "4,000 ± 4,359"


def test_spread_is_the_mean_and_the_deviation_of_a_sample():
    assert spread([1.0, 2.0, 6.0]) == "3.00 ± 2.65"
    assert transfer_report.signed([1.0, 2.0, 6.0]) == "+3.00 ± 2.65 points"


def test_the_summary_shows_medians_of_speed():
    results = skewed()
    assert "PyTorch 20,000, JAX" not in document(results)  # JAX is faster than this median
    assert "JAX 36,360, NumPy 20,200, PyTorch 20,000 images/s" in document(results)
    table = side_by_side([("one", results), ("two", results)])
    line = next(line for line in table.splitlines() if "PyTorch" in line)
    assert "| 93.00 ± 4.36 % | 20,000 | 93.00 ± 4.36 % | 20,000; no significant difference (1.00×" in line


def test_the_card_and_the_bars_show_means():
    results = skewed()
    (card,) = status.cards(results)
    cells = dict(zip(card.headers, next(line for line in card.rows if line[0] == "PyTorch"), strict=True))
    assert cells["images/s, 95 % CI"] == "40,000 ± 108,290"  # 4.303 · 43,589 / √3
    assert (cells["step ms"], cells["peak MB"]) == ("4.00", "4,000")
    # start-up of three clocks of 1, 2 and 9 s, and 20 s until the second evaluation
    assert next(value for name, value in cells.items() if name.startswith("cold start to")) == "32.0"
    assert (
        "PyTorch 40,000"
        in bars.speeds(
            results,
        )[PRESET][0].about
    )
    assert "PyTorch 4,000, of which imports 400" in bars.memory(results)[PRESET][0].about
    assert roof._speeds(results, groups(results)[PRESET])["torch"] == pytest.approx(40.0)


def test_time_to_accuracy_is_the_mean_of_cold_starts():
    line = next(line for line in document(skewed()).splitlines() if line.startswith(f"| {PRESET} | torch | 4.0 ± 4.4"))
    assert "32.0 ± 13.1 (to " in line  # 23, 26 and 47 s


def test_the_range_that_chance_allows_is_that_of_95_percent():
    results = fake_results(presets=(PRESET,), tracks=("numpy", "torch"))
    for run, accuracy in zip(results["runs"], (0.91, 0.89), strict=True):
        run |= {"test_accuracy": accuracy, "test_count": 2500}
    found = _accuracy_gap(groups(results)[PRESET])
    assert found
    _, gap, chance, count = found
    z = stats.norm.ppf(0.975)
    assert (gap, count) == (pytest.approx(0.02), 2500)
    assert chance == pytest.approx(z * math.sqrt(2 * 0.9 * 0.1 / 2500), rel=1e-4)


@pytest.mark.parametrize("other", [0.9, 0.99])
def test_intervals_are_those_of_95_percent_and_of_no_other(other: float):
    a, b = [9.0, 10.0, 12.0], [4.0, 5.0, 5.5]
    sample = [1.0, 2.0, 4.0, 4.5]
    logs = np.log([a, b])
    error = np.sqrt(logs.var(axis=1, ddof=1).sum() / 3)
    ratio, interval = ratio_of_medians(a, b), mean_interval(sample)
    for level, same in ((0.95, True), (other, False)):
        wanted = math.exp(stats.t.interval(level, 2, loc=logs[0].mean() - logs[1].mean(), scale=error)[1])
        assert (abs(ratio.high / wanted - 1) < 1e-3) == same
        wanted = stats.t.interval(level, 3, loc=np.mean(sample), scale=stats.sem(sample))[1]
        assert (abs(interval.high / wanted - 1) < 1e-3) == same
    assert ratio.value == pytest.approx(10 / 5)
    assert interval.mean == pytest.approx(2.875)  # the median is 3


def test_curves_are_means_and_running_means():
    x = np.arange(3)
    found = mean([(x, np.array([y, y, y])) for y in (1.0, 2.0, 6.0)])
    assert found[1].tolist() == [3.0] * 3
    assert smooth([1.0, 4.0, 4.0], 2) == pytest.approx([1.0, 3.0, 25 / 7])  # weights 1; 1, 2; 1, 2, 4
    run = {"step_loss": [1.0, 2.0, 6.0, 5.0], "chunk": 3, "history": []}
    assert trajectory(run) == [(3, {"train_loss": 3.0}), (4, {"train_loss": 5.0})]


# --- clocks, work, memory ---------------------------------------------------------------------------------------------


def test_clocks_of_skewed_laps():
    laps = [2.0, 0.1, 0.2, 0.2, 0.3, 1.2]  # the first is a warm-up; of the others, median 0.2, mean 0.4
    assert Stopwatch(laps).warm_up == pytest.approx(1.8)
    assert Stopwatch(laps).work == pytest.approx(2.2)
    timings = Timings({"import": 1.0, "data": 2.0, "set-up": 3.0}, chunks=Stopwatch(laps))
    timings.input = Stopwatch([1.0, 0.01, 0.02, 0.02, 0.03, 0.9])
    figures = timings.figures(chunk=2, batch_size=30)
    assert figures["step_ms"] == pytest.approx({"median": 100.0, "p10": 70.0, "p90": 420.0})
    assert figures["images_per_second"] == pytest.approx(300.0)
    assert figures["input_share"] == pytest.approx(0.1)
    assert figures["seconds"]["compile"] == pytest.approx(3.0 + 1.8)


def test_flops_of_recurrent_networks_and_attention_by_hand():
    def flops(model: str, **args: Any) -> int:
        return training_flops(dataclasses.replace(presets.get(PRESET), model=model, model_args=args))

    steps = 2 * 6 * (4 * 3 + 3 * 3)  # six rows of 4 pixels, a state of 3
    output = 2 * 3 * 10
    assert flops("rnn", input_shape=(6, 4, 1), hidden=3) == 3 * (steps + output)
    assert flops("lstm", input_shape=(6, 4, 1), hidden=3) == 3 * (4 * steps + output)
    # four patches of 2×2 pixels and the class token; 4 features in two heads, an inner layer of 6
    patches, t = 2 * 4 * 4 * 4, 5
    block = 4 * 2 * t * 4 * 4 + 2 * 2 * t * t * 4 + 2 * 2 * t * 4 * 6
    vit = flops("vit", input_shape=(4, 4, 1), patch=2, dim=4, depth=1, heads=2, mlp_dim=6)
    assert vit == 3 * (patches + block + 2 * 4 * 10) - patches


def test_memory_is_in_units_of_two_to_the_twenty(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("Name:\tx\nVmHWM:\t  307200 kB\nVmRSS:\t 1 kB\n")
    assert machine._kilobytes(tmp_path / "status", "VmHWM") == 300 * 1024
    monkeypatch.setattr(machine, "_kilobytes", lambda file, name: 300 * 1024)
    monkeypatch.setattr(machine, "_descendants", lambda process: [Path("a"), Path("b")])
    assert machine.peak_rss_mb() == 900.0


# --- benchmark --------------------------------------------------------------------------------------------------------

PLAN = {"batch_size": 100, "flops_per_image": 2_000_000, "precision": "float32", "device": "cpu"}
LAPS = ([1.0, 2.0, 9.0], [3.0, 4.0, 50.0], [5.0, 30.0, 31.0])  # medians 2, 4 and 30: their median is 4, their mean 12


def trials() -> list[dict[str, Any]]:
    """Three processes: every figure is skewed inside a process and over the processes."""
    return [
        {
            "preset": PRESET,
            "track": "numpy",
            "variant": "plain",
            "step_ms": laps,
            "losses": [1.0],
            "gemm_gflops": gemm,
            "peak_rss_mb": 10 * size,
            "import_rss_mb": size,
            "test_accuracy": size / 1000,
            "seconds": {"import": size, "data": 1.0, "compile": 2.0, "train": 4.0, "eval": 50.0},
        }
        for laps, gemm, size in zip(LAPS, (100.0, 200.0, 50.0), (100.0, 200.0, 900.0), strict=True)
    ]


def test_a_benchmark_row_shows_medians_over_processes_of_medians_in_each():
    found = benchmark_results.Row(PRESET, "numpy", "plain", trials(), None)
    assert found.times == [2.0, 4.0, 30.0]
    assert found.step_ms == 4.0
    assert found.images_per_second(PLAN) == pytest.approx(1000 * 100 / 4.0)
    # 2e8 FLOPs in 2, 4, 30 ms: 100, 50 and 6.67 GFLOP/s, of 100, 200 and 50
    assert found.gemm_share(2e8) == pytest.approx(0.25)
    assert found.median("peak_rss_mb") == 2000.0
    assert found.median("seconds", "import") == 200.0
    assert benchmark_results.cold_seconds(found.trials[1]) == 207.0  # evaluation is not counted
    results: Any = {"trials": trials(), "presets": {PRESET: PLAN}, "parity": [], "repeats": 3}
    results["parity"] = [
        {"preset": PRESET, "precision": "float32", "a": "numpy", "b": "torch", "passed": True, "checks": []}
    ]
    head, ((*cells,),) = tables.speed(results)
    shown = dict(zip(head, cells, strict=True))
    assert shown["images/s"] == "25,000 [3,333–50,000]"
    assert shown["step ms"] == "4.00 [2.00–30.00]"
    assert shown["p10–p90 ms"] == "2.00–31.00"
    assert (shown["GFLOP/s"], shown["% of GEMM peak"], shown["test accuracy"]) == ("50", "25%", "20.00%")


def test_loaders_show_medians():
    rows = [
        {"loader": "memory", "repeat": number, "order": "x", "images": "x", "chunks": 1}
        | {"images_per_second": size, "start_seconds": size, "memory_mb": size, "step_ms": size, "input_share": size}
        for number, size in enumerate((1.0, 2.0, 9.0))
    ]
    console = Console(file=io.StringIO(), width=120)
    monkey = {"dataset": "mnist", "track": "numpy", "trials": rows, "loaders": ["memory"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders_report, "problems", lambda trials: {})
        loaders_report.show(monkey, console)
    text = " ".join(console.file.getvalue().split())
    assert "2 │ 2.0 │ 2 │ 2.00 │ 200.0%" in text


# --- drift ------------------------------------------------------------------------------------------------------------


def test_drift_of_two_checkpoints_is_their_known_distance(tmp_path: Path):
    """Apart by (0.3, 0.4) of (3, 4) in one leaf, and by 0.6 of 100 in the other, which is the largest |a - b|."""
    kernels = {"numpy": [3.0, 4.0], "torch": [2.7, 3.6]}
    runs = []
    for number, (track, kernel) in enumerate(kernels.items()):
        params = {"a": {"kernel": np.array(kernel)}, "b": {"bias": np.array([100.0 + 0.6 * number])}}
        store.save(tmp_path / track, 3, {"params": params}, {"config": {}})
        losses = [1.0, 2.0 + 0.5 * number, 3.0 + 0.25 * number, 4.0][: 4 - number]
        run = {"preset": "p", "seed": 0, "track": track, "status": "finished"}
        runs.append(run | {"checkpoint": f"{track}/3", "step_loss": losses})
    other = runs[1] | {"seed": 1}
    stopped = runs[1] | {"status": "interrupted"}
    (found,) = drift([*runs, other, stopped], tmp_path)
    assert (found["a"], found["b"], found["seed"]) == ("numpy", "torch", 0)
    assert (found["first_loss_gap"], found["max_loss_gap"]) == (0.0, 0.5)
    assert found["worst_leaf"] == "a/kernel"
    assert found["max_abs"] == pytest.approx(0.6)
    assert found["max_rel"] == pytest.approx(0.5 / math.hypot(2.7, 3.6))

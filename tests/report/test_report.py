"""The report says what results.json holds: no more than was proven, and no less than went wrong."""

from __future__ import annotations

import copy
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from support.fake_results import fail_parity, fake_results, stop_run

from compare import presets as known_presets
from compare.errors import UserError
from compare.report import __main__ as report
from compare.report import status, write
from compare.report.figure import DPI, HEAD, ROW, WIDTH, figure
from compare.report.figure import _speed as draw_speed
from compare.report.html.content import page, side_by_side
from compare.report.markdown import COLUMNS, TITLES, document, row
from compare.report.series import loss_gap, smooth
from compare.report.style import track_styles
from compare.report.summary import headline
from compare.results.parity import parity_problem
from compare.results.runs import cold_seconds, groups, spread, target_accuracy


def cells(results: dict[str, Any], preset: str, track: str) -> dict[str, str]:
    """A row of the table by column, each cell on one line."""
    found = row(results, preset, track, groups(results)[preset][track])
    return {" ".join(name.split()): " ".join(cell.split()) for name, cell in zip(COLUMNS, found, strict=True)}


def shown(results: dict[str, Any], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    write.show(results, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def picture(results: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(figure(results)))


# --- the table --------------------------------------------------------------------------------------------------------


def test_table_row_holds_the_measured_values():
    results = fake_results()
    results["runs"][1] |= {"test_accuracy": 0.9831, "test_loss": 0.05678, "images_per_second": 36_000.4}
    assert cells(results, "mlp-mnist", "jax") == {
        "preset": "mlp-mnist",
        "track": "jax",
        "test accuracy": "98.31 % of 10,000",
        "test loss": "0.0568",
        "images/s": "36,000",
        "% of GEMM peak": "53 %",
        "step ms [p10 p90]": "3.56 [3.41 4.27]",
        "compile s": "1.4",
        "peak MB": "640",
        "drift from NumPy": "1.3e-02 layers/1/kernel",
    }
    assert cells(results, "mlp-mnist", "numpy")["drift from NumPy"] == "-"
    assert "Drift is expected" in shown(results)
    assert "Drift" not in shown({**results, "drift": []})


def test_a_text_is_counted_in_characters_and_its_loss_in_bits():
    results = fake_results()
    for run in groups(results)["mlp-mnist"].values():
        run[0] |= {"dataset": "shakespeare", "test_count": 98_304, "test_loss": 1.5 * math.log(2)}
    found = cells(results, "mlp-mnist", "jax")
    assert found["test accuracy"].endswith(" % of 98,304")
    assert found["test loss"] == "1.0397 1.500 bits per character"
    assert found["images/s"].endswith(" windows/s")
    assert " points on 98,304 characters." in document(results)
    assert " points on 10,000 images." in document(results)  # of the other preset


def test_several_seeds_show_mean_and_standard_deviation():
    results = fake_results(seeds=(0, 1, 2))
    for run, accuracy in zip(groups(results)["cnn-mnist"]["torch"], (0.991, 0.992, 0.993), strict=True):
        run["test_accuracy"] = accuracy
    found = cells(results, "cnn-mnist", "torch")
    assert found["test accuracy"] == "99.20 ± 0.10 % of 10,000"
    assert found["images/s"] == "2,929 ± 29"
    assert found["drift from NumPy"].startswith("3.9e-02")  # the worst seed
    stop_run(groups(results)["cnn-mnist"]["torch"][0], "failed", step=5)
    assert cells(results, "cnn-mnist", "torch")["test accuracy"] == "99.25 ± 0.07 % of 10,000, 2 of 3 seeds"


def test_no_speed_without_a_parity_check():
    results = fake_results()
    results["parity"] = [pair for pair in results["parity"] if pair["preset"] != "mlp-mnist"]
    found = cells(results, "mlp-mnist", "torch")
    assert (found["images/s"], found["% of GEMM peak"], found["step ms [p10 p90]"]) == ("parity not checked", "-", "-")
    assert found["test accuracy"].startswith("98.")
    assert cells(results, "cnn-mnist", "torch")["images/s"] == "2,900"


def test_a_parity_check_in_another_precision_does_not_count():
    results = fake_results()
    for pair in results["parity"]:
        pair["precision"] = "float64"
    assert cells(results, "mlp-mnist", "jax")["images/s"] == "parity not checked"


def test_the_track_that_disagrees_with_the_others_has_no_speed():
    results = fake_results()
    fail_parity(results, "mlp-mnist", "jax")
    assert (
        cells(results, "mlp-mnist", "jax")["images/s"]
        == "parity check failed: gradients layers/1/kernel 3.0e-02 > 1e-04"
    )
    assert cells(results, "mlp-mnist", "numpy")["images/s"] == "20,000"
    assert cells(results, "mlp-mnist", "torch")["images/s"] == "40,000"


def test_if_the_only_pair_disagrees_neither_has_a_speed():
    results = fake_results(tracks=("numpy", "torch"))
    fail_parity(results, "mlp-mnist", "torch")
    for run in groups(results)["mlp-mnist"].values():
        assert "parity check failed" in (parity_problem(results["parity"], run[0]) or "")


def test_no_speed_is_shown_without_an_accuracy():
    results = fake_results()
    stop_run(results["runs"][2], "interrupted", step=300)
    results["runs"][2]["images_per_second"] = 40_000.0
    found = cells(results, "mlp-mnist", "torch")
    assert found["test accuracy"] == "interrupted"
    assert found["images/s"] == "no test accuracy"


def test_unfinished_run_shows_no_figures():
    results = fake_results(seeds=(0, 1))
    half = groups(results)["mlp-mnist"]["torch"][1]
    half |= {"status": "interrupted", "test_accuracy": 0.5}  # evaluated, and then stopped
    assert cells(results, "mlp-mnist", "torch")["test accuracy"].endswith("1 of 2 seeds")
    assert "no significant difference in test accuracy" in headline(results)


def test_what_a_finished_run_has_to_say_is_in_the_report():
    results = fake_results()
    results["runs"][0]["message"] = "the schedule has 428 steps instead of 214: the learning rate changes"
    assert "- mlp-mnist numpy seed 0: the schedule has 428 steps instead of 214" in document(results)
    assert "the schedule has" not in document(fake_results())


def test_non_finite_difference_is_reported():
    results = fake_results(tracks=("numpy", "jax"))
    fail_parity(results, "mlp-mnist", "jax")
    results["parity"][0]["checks"][1]["max_rel"] = None
    assert "gradients layers/1/kernel not finite > 1e-04" in cells(results, "mlp-mnist", "jax")["images/s"]


@pytest.mark.parametrize("width", [80, 120])
def test_table_fits_the_width(width: int):
    results = fake_results(seeds=(0, 1))
    fail_parity(results, "mlp-mnist", "jax")
    text = shown(results, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for word in ("mlp-mnist", "cnn-mnist", "numpy", "torch", "20,100", "10,000"):
        assert word in text


# --- report.md --------------------------------------------------------------------------------------------------------


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_summary_of_a_finished_comparison():
    text = document(fake_results())
    summary = section(text, "Summary")
    assert "**Parity:** passed." in summary
    assert "10 steps agree" in summary
    assert "5 % of its tolerance, is mlp-mnist, NumPy and JAX: logits 5.0e-07 ≤ 1e-05." in summary
    speeds = "PyTorch 40,000, JAX 36,000, NumPy 20,000 images/s"
    assert f"{speeds}; one run each: not ranked; add --seeds 0 1 2." in summary
    assert "Unfinished runs" not in text
    assert "python compare/run_all.py mlp-mnist cnn-mnist" in section(text, "Reproduce")
    assert "Imaginary CPU" in section(text, "Reproduce")
    assert "one-minute load average: 0.4 before, 1.9 after" in section(text, "Limitations")
    assert list(TITLES)[-3:] == ["drift", "limitations", "reproduce"]
    card = section(text, "Configuration")
    assert "| network | mlp(input_shape=[28, 28, 1], hidden=[512, 512], " in card
    assert "| hardware | Imaginary CPU @ 2.50GHz, 2 cores |" in card
    parity = section(text, "Parity check")
    assert "| mlp-mnist | passed: at most 5 % of a tolerance (logits 5.0e-07 ≤ 1e-05) |" in parity
    leaf = "5.0e-06 layers/1/kernel"
    assert f"| mlp-mnist | float32 | gradients | 1e-04 | {leaf} | {leaf} | {leaf} |" in parity
    assert "| mlp-mnist | float32 | logits | 1e-05 | 5.0e-07 | 5.0e-07 | 5.0e-07 |" in parity
    assert section(text, "Drift after training, as expected").count("| numpy - jax |") == 2
    assert "(to 9" in section(text, "Time per phase")


def test_the_summary_names_the_largest_difference():
    results = fake_results()
    fail_parity(results, "cnn-mnist", "torch")
    text = document(results)
    assert "**Parity:** failed for 2 of 6 pairs of tracks." in section(text, "Summary")
    assert "gradients convs/0/kernel 3.0e-02 > 1e-04" in section(text, "Summary")
    assert "Not ranked: PyTorch" in section(text, "Summary")
    assert section(text, "Parity check").count("**EXCEEDED: 3.0e-02 convs/0/kernel**") == 2


def test_a_difference_is_significant_only_if_the_interval_excludes_1():
    results = fake_results(presets=("mlp-mnist",), seeds=(0, 1, 2))
    (card,) = status.cards(results)  # 36,360 ± 360 images/s is mean ± standard deviation; t(2) = 4.303
    assert (
        dict(zip(card.headers, card.rows[1], strict=True))["images/s, 95 % CI"]
        == f"36,360 ± {4.303 * 360 / 3**0.5:,.0f}"
    )
    text = section(document(results), "Summary")
    assert "PyTorch is 1.11× as fast as JAX (95 % CI 1.07–1.15, n = 3)" in text
    assert "one run each" not in text
    for run, speed in zip(groups(results)["mlp-mnist"]["jax"], (30_000.0, 40_000.0, 50_000.0), strict=True):
        run["images_per_second"] = speed
    undecided = "no significant difference between PyTorch and JAX (1.01×, 95 % CI"
    assert undecided in section(document(results), "Summary")
    assert undecided in headline(results)


def disturb(run: dict[str, Any]) -> None:
    run["disturbed"] = "other programs took 50% of the cores"


def test_a_disturbed_run_is_marked_and_in_no_ratio():
    results = fake_results(presets=("mlp-mnist",), seeds=(0, 1, 2))
    disturb(groups(results)["mlp-mnist"]["torch"][1])  # the fastest
    text = document(results)
    summary = section(text, "Summary")
    assert "JAX is 1.80× as fast as NumPy" in summary
    assert "Not ranked: ⚠ PyTorch: other programs took 50% of the cores." in summary
    assert "PyTorch is" not in text
    assert "training speed on mlp-mnist: JAX is 1.80× as fast as NumPy" in headline(results)
    assert headline(results).endswith("n = 3), PyTorch not ranked (disturbed).")
    assert cells(results, "mlp-mnist", "torch")["images/s"] == "40,400 ± 400 ⚠"
    assert cells(results, "mlp-mnist", "jax")["images/s"] == "36,360 ± 360"
    assert "**Timing quality** ⚠ 1 of 9 runs disturbed: other programs took 50% of the cores" in text
    assert "> ⚠ The times of disturbed runs are excluded from ratios and rankings: mlp-mnist torch seed 1.\n" in text
    assert "⚠ Timing quality: 1 of 9 runs disturbed" in " ".join(shown(results).split())
    found = side_by_side([("quiet", fake_results(presets=("mlp-mnist",), seeds=(0, 1, 2))), ("busy", results)])
    assert next(line for line in found.splitlines() if "PyTorch" in line).endswith("| 40,400 ⚠ |")
    axes, tracks = Figure().subplots(), groups(results)["mlp-mnist"]
    draw_speed(axes, results, tracks, track_styles(tracks))
    assert [text.get_text() for text in axes.texts][1:] == ["JAX  36,360", "PyTorch  40,400 ⚠ disturbed"]
    for run in results["runs"]:
        disturb(run)
    assert "**Speed, mlp-mnist:** not ranked. ⚠ " in document(results)


def test_no_ratio_across_machines_or_steps():
    first, same, machine, shorter = (fake_results(presets=("mlp-mnist",), seeds=(0, 1, 2)) for _ in range(4))
    machine["environment"]["cpu"] = "another CPU"
    for run in shorter["runs"]:
        run["steps"] = 10
    table = side_by_side([("a", first), ("b", same), ("c", machine), ("d", shorter)])
    cells = next(line for line in table.splitlines() if "PyTorch" in line).split(" | ")
    speeds = [cell.removesuffix(" |").partition("; ")[2] for cell in cells[3::2]]
    assert speeds[0] == ""
    assert speeds[1].startswith("no significant difference (1.00×")
    assert speeds[2:] == ["no ratio: other machine", "no ratio: other steps"]


def test_the_status_strip():
    results = fake_results()
    assert [check[:3] for check in status.strip(results)] == [
        ("Parity", "✓", "passed"),
        ("Accuracy", "✓", "tie"),
        ("Timing quality", "✓", "undisturbed"),
    ]
    fail_parity(results, "cnn-mnist", "torch")
    results["runs"][1]["test_accuracy"] = 0.9
    results["runs"][2]["disturbance"]["others"] = None
    assert [check[:3] for check in status.strip(results)] == [
        ("Parity", "✗", "failed for 2 of 6 pairs"),
        ("Accuracy", "✗", "differs"),
        ("Timing quality", "–", "1 of 6 runs not judged"),
    ]
    results["parity"] = []
    assert [check.mark for check in status.strip(results)] == ["–", "✗", "–"]
    assert status.strip(fake_results(presets=()))[2].mark == "–"


def test_a_single_track_shows_its_speed_without_parity():
    results = fake_results(presets=("mlp-mnist",), tracks=("jax",))
    assert cells(results, "mlp-mnist", "jax")["images/s"] == "36,000 parity not checked"
    (card,) = status.cards(results)
    assert card.rows == [["JAX", card.rows[0][1], "36,000 (parity not checked)", "3.56", card.rows[0][4], "640"]]
    assert "36,000" in section(document(results), "Summary")
    assert "36,000 (parity not checked)" in page([("alone", results)])


def test_the_configuration_of_every_network():
    text = section(document(fake_results(seeds=(0, 2))), "Configuration")
    assert "| setting | mlp-mnist | cnn-mnist |" in text
    assert "| parameters | 669,706 | 669,706 |" in text
    assert "| seeds | 0, 2 | 0, 2 |" in text
    mlp = known_presets.get("mlp-mnist")
    assert f"| {mlp.batch_size:,} |" in text
    assert f"| learning rate | {mlp.lr:g} |" in text


def test_unfinished_runs_are_listed():
    results = fake_results()
    results["status"] = "interrupted"
    stop_run(results["runs"][3], "failed", step=40, message="cnn-mnist numpy: the loss is NaN\nat step 41 | stop")
    stop_run(results["runs"][4], "interrupted", step=300)
    stop_run(results["runs"][5], "not started", step=0)
    text = document(results)
    assert "This comparison was interrupted" in section(text, "Summary")
    unfinished = section(text, "Unfinished runs")
    assert "cnn-mnist numpy seed 0: failed after 40 steps: cnn-mnist numpy: the loss is NaN at step 41" in unfinished
    assert "cnn-mnist jax seed 0: interrupted after 300 steps" in unfinished
    assert "cnn-mnist torch seed 0: not started" in unfinished
    assert "not shown; the table gives the reason" in section(text, "Summary")


def test_cold_time_to_an_accuracy():
    history = [{"val_accuracy": accuracy, "seconds": 10.0 * n} for n, accuracy in enumerate((0.90, 0.975, 0.98), 1)]
    seconds = {"import": 1.0, "data": None, "compile": 2.0}
    run = {"history": history, "seconds": seconds, "test_accuracy": 0.98, "status": "finished"}
    assert target_accuracy({"jax": [run]}) == 0.977
    assert cold_seconds(run, 0.97) == 23.0
    assert cold_seconds(run, 0.99) is None
    assert target_accuracy({"jax": [run | {"test_accuracy": None}]}) is None


def test_spread_of_accuracies():
    assert spread([]) == "-"
    assert spread([1.234], ".1f", unit="%") == "1.2 %"
    assert spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"


def awkward() -> dict[str, dict[str, Any]]:
    """Comparisons as they can end, from nothing at all to a variant nobody has heard of."""
    half = fake_results()
    for run in half["runs"][2:]:
        stop_run(run, "not started", step=0)
    half["runs"][1] |= {"seconds": None, "step_ms": None, "test_accuracy": None}  # killed before it could tell
    half |= {"status": "interrupted", "parity": [], "drift": []}
    bare = fake_results(presets=("mlp-mnist",))
    bare["environment"] |= dict.fromkeys(bare["environment"].keys() - {"python", "load", "disturbed"})
    for run in bare["runs"]:
        stop_run(run, "failed", step=0, message="out of memory")
    lost = fake_results(presets=("mlp-mnist",), seeds=(0, 1))
    lost["runs"][0]["step_loss"][50:] = [None] * (len(lost["runs"][0]["step_loss"]) - 50)
    lost["runs"][2]["step_loss"] = [None] * 7
    lost["runs"][3]["step_loss"] = [float("inf"), float("nan"), 1.0]
    variant = fake_results(tracks=("numpy", "torch"))
    for run in copy.deepcopy(variant["runs"]):
        variant["runs"].append(run | {"track": f"{run['track']}-compiled"})
    return {
        "empty": fake_results(presets=()),
        "one track": fake_results(tracks=("jax",)),
        "two steps": fake_results(presets=("mlp-mnist",), steps=2),
        "one step": fake_results(presets=("mlp-mnist",), steps=1),
        "half": half,
        "bare": bare,
        "lost": lost,
        "variant": variant,
    }


@pytest.mark.parametrize("name", awkward())
def test_report_is_written_for_every_ending(name: str, tmp_path: Path):
    (tmp_path / "results.json").write_text(json.dumps(awkward()[name]))
    results = report.read(tmp_path)
    shown(results)
    text = document(results)
    for line in text.splitlines():
        assert "None" not in line
        assert "nan" not in line.split()
    assert picture(results).size == size_of(results)
    assert page([(name, results)]).count("<h2") >= 4


# --- curves.png -------------------------------------------------------------------------------------------------------


def size_of(results: dict[str, Any]) -> tuple[int, int]:
    return round(WIDTH * DPI), int((HEAD + ROW * max(1, len(groups(results)))) * DPI)


def test_figure_has_a_row_per_preset_and_every_colour():
    results = fake_results(seeds=(0, 1))
    image = picture(results)
    assert image.size == size_of(results)
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for color in ((0x00, 0x72, 0xB2), (0xE5, 0x8A, 0x00), (0xD0, 0x1C, 0x6B)):
        assert (pixels == color).all(axis=1).sum() > 2000


def test_smoothing_keeps_a_constant_and_starts_at_the_first_value():
    np.testing.assert_allclose(smooth(np.full(50, 3.0), 10), 3.0)
    assert smooth(np.array([5.0, 1.0]), 10)[0] == pytest.approx(5.0)
    np.testing.assert_array_equal(smooth(np.arange(4.0), 1), np.arange(4.0))


def test_loss_difference_ends_with_the_shorter_run():
    a = {"step_loss": [1.0, 2.0, 3.0], "precision": "float32"}
    b = {"step_loss": [1.0, 2.5], "precision": "float32"}
    np.testing.assert_allclose(loss_gap(a, b), [2.0**-23, 0.5])


# --- files ------------------------------------------------------------------------------------------------------------


def test_write_creates_three_whole_files(tmp_path: Path):
    results = fake_results(presets=("mlp-mnist",))
    paths = write.write(results, tmp_path / "new")
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "new").iterdir())
    assert paths[0].read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert paths[1].read_text(encoding="utf-8") == document(results)
    with Image.open(paths[2]) as image:
        assert image.size == size_of(results)


def test_unwritable_folder_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/.* cannot be written"):
        write.write(fake_results(presets=()), tmp_path / "file" / "out")


def test_command_rewrites_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "results.json").write_text(json.dumps(fake_results(presets=("mlp-mnist",))))
    assert report.main([str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert str(tmp_path / "curves.png") in output
    assert "98." in output
    assert report.main([str(tmp_path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert {each["track"]: each["seeds"] for each in found["tracks"]} == {"numpy": [0], "jax": [0], "torch": [0]}
    assert found["tracks"][1]["images_per_second"] == {"mean": 36_000.0, "sd": None}
    assert found["checks"][0]["text"] == "passed"
    assert report.main([str(tmp_path / "absent")]) == 2
    assert "absent cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        ('{"schema": 3, "kind": "comparison"}', "schema 3, and this version reads 2"),
        ('{"schema": 1, "runs": []}', "lacks environment, parity"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_file_that_is_not_results_is_refused(tmp_path: Path, content: str | bytes, message: str):
    path = tmp_path / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        report.read(path)


def test_importing_the_report_loads_no_framework():
    program = (
        "import sys, compare.report, compare.tracking, compare.progress\n"
        "print(*{'jax', 'flax', 'orbax', 'torch', 'mlflow', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""

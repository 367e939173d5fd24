"""The benchmark: its report, what it refuses to show, its order of work, and real trials."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare import machine, presets
from compare.benchmark import __main__ as benchmark
from compare.benchmark import plots, report, roofline, session, sweep, tables, trial, variants
from compare.benchmark.results import PARTS, read, rows
from compare.errors import UserError
from compare.machine import disturbance, gemm
from compare.training.flops import training_flops
from compare.workers import process
from compare.workers.protocol import Job

MLP = dataclasses.replace(presets.PRESETS["mlp-mnist"], model_args={"hidden": (8,)})


# --- the report -------------------------------------------------------------------------------------------------------


def invented(step_ms: dict[str, list[float]], **losses: list[float]) -> dict[str, Any]:
    """Results of ``{"numpy plain": [ms of each process]}``; the first losses of all are equal, but for those given."""
    trials = []
    for name, times in step_ms.items():
        track, variant = name.split()
        for repeat, ms in enumerate(times):
            seconds = {"import": 1.0, "data": 0.5, "compile": 0.2, "train": 3.0, "eval": 0.3, "total": 5.0}
            trials.append(
                {"preset": "mlp-mnist", "track": track, "variant": variant, "repeat": repeat, "seconds": seconds}
                | {"step_ms": [ms, ms, ms], "losses": losses.get(variant, [2.0, 1.5]), "test_accuracy": 0.9}
                | {"breakdown_ms": {"input": 0.1, "forward": 1.0, "backward": 2.0, "update": 0.5}}
                | {"import_rss_mb": 40.0, "peak_rss_mb": 99.0, "gemm_gflops": 200.0}
            )
    plan = {
        "batch_size": 128,
        "flops_per_image": 3_209_216,
        "steps": 900,
        "evaluated_step": 600,
        "precision": "float32",
        "device": "cpu",
    }
    pair = {"preset": "mlp-mnist", "precision": "float32", "a": "numpy", "b": "torch", "passed": True, "checks": []}
    core = {"gemm_gflops": 100.0, "memory": 12.0, "cache": 50.0}
    return {
        "schema": 2,
        "kind": "benchmark",
        "status": "finished",
        "created": "today",
        "command": "python -m compare.benchmark",
        "repeats": 3,
        "min_seconds": 5.0,
        "target": None,
        "seconds": 90,
        "environment": {"threads": 2, "cpu": "a CPU", "gemm_gflops": 200.0, "one_core": core, "load": [0.5, 1.5]}
        | {"versions": {"numpy": "2"}},
        "presets": {"mlp-mnist": plan},
        "parity": [pair],
        "trials": trials,
        "cold": [],
        "layers": [],
        "sweep": [],
    }


def test_report_names_the_faster_track_and_a_failed_compiler() -> None:
    results = invented({"numpy plain": [8.0, 8.1, 8.2], "torch eager": [4.0, 4.1, 4.2]})
    failed = {"preset": "mlp-mnist", "track": "torch", "variant": "compiled", "error": "no C++ compiler"}
    results["trials"].append(failed)
    text = report.document(results)
    assert "mlp-mnist: torch eager is 1.98× as fast as numpy plain (95 % CI 1.85–2.11, n = 3)." in text
    assert "mlp-mnist: torch compiled is not shown: failed: no C++ compiler." in text
    assert "31,220 [30,476–32,000]" in text  # 128 images in 4.1 ms
    assert report.status(results, None) == 1


def test_no_speed_without_parity_or_with_other_losses() -> None:
    times = {"numpy plain": [8.0] * 3, "torch eager": [4.0] * 3, "torch compiled": [3.0] * 3}
    results = invented(times, compiled=[2.0, 1.6])
    problems = {row.label: row.problem for row in rows(results)}
    assert problems["torch eager"] is None
    assert "its first losses differ from the others' by 4e-02" in (problems["torch compiled"] or "")
    assert "42,667" not in report.document(results)  # its images per second
    results["parity"][0]["checks"] = [{"what": "losses", "tolerance": 0.05}]  # as in bfloat16
    assert {row.problem for row in rows(results)} == {None}
    results["parity"] = []
    assert None not in {row.problem for row in rows(results)}


def test_where_kinks_are_many_only_the_first_three_losses_are_compared() -> None:
    times = {"torch eager": [4.0] * 3, "torch compiled": [3.0] * 3}
    results = invented(times, compiled=[2.0, 1.5, 1.4, 1.9], eager=[2.0, 1.5, 1.4, 1.3])
    assert [row.problem is None for row in rows(results)] == [False, False]
    results["parity"][0]["sensitivity"] = {"losses": 1e-3}
    assert [row.problem for row in rows(results)] == [None, None]
    results["trials"][0]["losses"][2] = 1.5
    assert [row.problem is None for row in rows(results)] == [False, False]


def test_one_process_with_other_losses_and_a_failed_parity_check_are_noticed() -> None:
    results = invented({"numpy plain": [8.0] * 3, "torch eager": [4.0] * 3})
    assert report.status(results, None) == 0
    results["trials"][1]["losses"] = [2.0, 1.6]  # of the second of three processes
    assert [row.problem is None for row in rows(results)] == [False, True]
    results = invented({"numpy plain": [8.0] * 3, "torch eager": [4.0] * 3})
    results["parity"].append(results["parity"][0] | {"b": "jax", "passed": False})  # so JAX was not measured
    assert report.status(results, None) == 1
    assert "mlp-mnist: numpy and jax are not at parity in float32." in report.document(results)


def test_only_a_significant_change_against_an_earlier_benchmark_is_slower() -> None:
    before = invented({"numpy plain": [8.0, 8.1, 8.2], "torch eager": [4.0, 4.4, 4.8]})
    now = invented({"numpy plain": [9.0, 9.1, 9.2], "torch eager": [4.1, 4.4, 4.7]})
    now["presets"]["mlp-mnist"] |= {"steps": 1800}  # a longer schedule is the same work
    said = report.against(now, before)
    assert [slower for _, slower in said][1:] == [True, False]
    assert "numpy plain, slower than before, 0.89× (95 % CI" in said[1][0]
    assert "torch eager, against before: no significant difference (1.00×" in said[2][0]
    assert (report.status(now, before), report.status(before, now)) == (1, 0)


@pytest.mark.parametrize("change", [{"cpu": "another CPU"}, {"threads": 1}])
def test_a_benchmark_of_another_machine_gives_no_verdict(change: dict[str, Any]) -> None:
    before, now = invented({"numpy plain": [8.0] * 3}), invented({"numpy plain": [9.0] * 3})
    before["environment"] |= change
    ((sentence, slower),) = report.against(now, before)
    assert "ran on another machine" in sentence
    assert str(*change.values()) in sentence
    assert not slower
    assert report.status(now, before) == 0


def test_other_work_is_not_compared() -> None:
    before, now = invented({"numpy plain": [8.0] * 3}), invented({"numpy plain": [9.0] * 3})
    now["presets"]["mlp-mnist"] |= {"batch_size": 64}
    assert [line for line, _ in report.against(now, before)][1:] == [
        "mlp-mnist: not compared, since the network, the batch or the device has changed."
    ]


def test_single_runs_are_not_ranked() -> None:
    results = invented({"numpy plain": [8.0], "torch eager": [4.0], "torch baseline": [5.0]}) | {"repeats": 1}
    lines = report.verdict(results, None)
    assert lines == ["mlp-mnist: one run each: not ranked; add --repeats 5."]
    text = report.document(results)
    assert "not ranked" in text
    assert "1.25" not in text.partition("## Speed\n")[2].partition("## Step breakdown")[0].replace("(1.25)", "")


def test_an_interrupted_benchmark_says_so() -> None:
    results = invented({"numpy plain": [8.0, 8.1], "torch eager": [4.0]}) | {"status": "interrupted"}
    assert "This benchmark was interrupted after 1.5 minutes" in report.document(results)
    assert report.summary(results).startswith("Interrupted")


def test_a_target_that_no_run_reached_is_said() -> None:
    results = invented({"numpy plain": [8.0] * 3}) | {"target": 0.999}
    results["cold"] = [row | {"reached": False, "val_accuracy": 0.9, "steps": 600} for row in results["trials"]]
    assert "mlp-mnist: numpy plain did not reach the target of 99.90% in 3 runs." in report.document(results)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 1, "runs": []}', "is not of the kind 'benchmark'"),
        ("[]", "holds no JSON object"),
        ("{", "cannot be read"),
        ('{"kind": "benchmark", "schema": 3}', "has schema 3, and this version reads 2"),
        ('{"kind": "benchmark", "schema": 2, "trials": []}', "lacks cold, command, created"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "benchmark.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "none.json")


def test_schema_1_is_read_by_the_names_of_today(tmp_path: Path) -> None:
    now = invented({"numpy plain": [8.0] * 3, "torch baseline": [4.0] * 3})
    old = {name: value for name, value in now.items() if name not in ("parity", "status", "min_seconds")}
    old |= {"schema": 1, "proof": now["parity"], "trials": []}
    for row in now["trials"]:
        variant = row["variant"].replace("baseline", "reference")
        old["trials"].append(row | {"variant": variant, "split_ms": row["breakdown_ms"], "products": "float32"})
        del old["trials"][-1]["breakdown_ms"]
        row["matmul_precision"] = "float32"
    (tmp_path / "benchmark.json").write_text(json.dumps(old))
    assert read(tmp_path) == now | {"min_seconds": 0.0}


def test_plots_and_tables_of_every_section(tmp_path: Path) -> None:
    names = ("numpy processes", "jax scan", "torch eager", "torch baseline")
    results = invented({name: [4.0, 4.1, 4.2] for name in names})
    results["parity"].append(results["parity"][0] | {"b": "jax"})
    one = {"op": "linear", "count": 1, "flops": 25e6, "bytes": 5e6, "ms": 0.4, "label": "linear 784→512"}
    relu = {"op": "relu", "count": 2, "flops": 0, "bytes": 2e5, "ms": 0.01, "label": "relu 512"}
    results["layers"] = [{"preset": "mlp-mnist", "track": track, "layers": [one, relu]} for track in ("numpy", "jax")]
    for axis, x in (("batch", "batch_size"), ("width", "step_flops"), ("steps", "steps")):
        for size in (1, 2, 4):
            point: dict[str, Any] = {
                "batch_size": 128,
                "step_flops": 4e8,
                "steps": 60,
                "step_ms": 3.0 * size,
                "peak_rss_mb": 150.0,
            }
            point |= {"preset": "mlp-mnist", "track": "jax", "variant": "scan", "axis": axis, x: 100 * size}
            results["sweep"].append(point)
    (tmp_path / "benchmark.json").write_text(json.dumps(results))
    report.again(tmp_path)
    for name in ("speeds.png", "roofline.png", "sweep.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert tables.attainable_ms(results, one) == pytest.approx(5e6 / 12e9 * 1000)  # moving takes longer
    assert tables.growth(results)[1] == [
        ["mlp-mnist", "jax scan", "1.00", "1.00", "0.00", "0.00", "150, 150"],
    ]
    assert plots.speeds(invented({})).startswith(b"\x89PNG")


# --- measuring --------------------------------------------------------------------------------------------------------


def test_disturbed_trials_are_repeated_twice_at_most_and_then_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"preset": "mlp-mnist", "a": "numpy", "b": "torch", "passed": True, "checks": [], "precision": "float32"}
    busy = {"numpy plain": iter([0.5, 0.0, 0.0, 0.0]), "numpy processes": iter([0.5] * 9)}

    def one(config: Any, variant: Any, **_: Any) -> dict[str, Any]:
        found = invented({variant.label: [8.0]})["trials"][0] | {"reached": None}
        return found | {"disturbance": dict.fromkeys(disturbance.LIMITS) | {"others": next(busy[variant.label])}}

    monkeypatch.setattr(process, "call", lambda *_, **__: [pair])
    monkeypatch.setattr(variants, "measure", one)
    monkeypatch.setattr(variants, "VARIANTS", variants.VARIANTS[:2])
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "matmul_gflops", lambda **_: [200.0])
    options = ["mlp-mnist", "--repeats", "3", "--no-layers", "--json", "--out", str(tmp_path)]
    assert benchmark.main(options) == 0
    plain, processes = rows(read(tmp_path))
    assert (len(plain.trials), plain.left_out, plain.disturbed) == (3, 1, None)
    assert (len(processes.trials), processes.left_out) == (3 + 2, 0)
    out, printed = capsys.readouterr()
    assert json.loads(out) == report.figures(read(tmp_path), tmp_path)
    assert [each["disturbed"] for each in json.loads(out)["variants"]] == [None, processes.disturbed]
    printed += report.summary(read(tmp_path))
    assert printed.count("was disturbed and is repeated: other programs took 50% of the cores") == 3
    assert printed.count("was disturbed and is marked: other programs") == 3
    assert "mlp-mnist: numpy plain: 1 disturbed trial left out." in printed
    assert (
        "processes is excluded from ratios: every trial was disturbed: other programs took 50% of the cores." in printed
    )


def test_a_disturbed_row_is_marked_and_in_no_ratio_and_no_regression() -> None:
    before = invented({"numpy plain": [8.0, 8.1, 8.2], "torch eager": [4.0, 4.1, 4.2]})
    now = invented({"numpy plain": [16.0, 16.1, 16.2], "torch eager": [4.0, 4.1, 4.2]})
    for each in now["trials"][:3]:
        each["disturbed"] = "other programs took 50% of the cores"
    text = report.document(now)
    assert "numpy plain ⚠" in text
    assert "as fast as" not in text
    assert report.status(now, before) == report.status(before, now) == 0
    now["trials"][0]["disturbed"] = None  # what is left is one quiet trial
    assert [len(row.trials) for row in rows(now)] == [1, 3]


def test_they_take_turns_and_a_track_without_parity_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parity(*arguments: str, **_: Any) -> list[dict[str, Any]]:
        pairs = [("numpy", "jax", True), ("numpy", "torch", False), ("jax", "torch", False)]
        facts = {"preset": "mlp-mnist", "checks": []}
        return [facts | {"a": a, "b": b, "passed": p, "precision": "float32"} for a, b, p in pairs]

    def one(config: Any, variant: Any, **_: Any) -> dict[str, Any]:
        done.append(variant.label)
        return {"preset": config.preset, "track": variant.track, "variant": variant.name, "error": "-"}

    done: list[str] = []
    monkeypatch.setattr(process, "call", parity)
    monkeypatch.setattr(variants, "measure", one)
    monkeypatch.setattr(machine, "matmul_gflops", lambda **_: [200.0])
    options = benchmark.parser().parse_args(["--repeats", "2", "--no-layers", "--out", str(tmp_path)])
    benchmark.run(options, [presets.get("mlp-mnist")], "the command")
    turn = ["numpy plain", "numpy processes", "jax jit", "jax scan"]
    assert done == 2 * (turn if machine.cores() > 1 else [turn[0], *turn[2:]])
    written = read(tmp_path)
    assert [row["repeat"] for row in written["trials"]] == [0] * (len(done) // 2) + [1] * (len(done) // 2)


def test_ctrl_c_and_sigterm_report_the_processes_that_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = invented({"numpy plain": [8.0]})["trials"][0] | {"reached": None}

    def one(config: Any, variant: Any, **_: Any) -> dict[str, Any]:
        if variant.label != "numpy plain":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # until the handler has run
        return finished | {"preset": config.preset, "track": variant.track, "variant": variant.name}

    pair = {"preset": "mlp-mnist", "a": "numpy", "b": "torch", "passed": True, "checks": [], "precision": "float32"}
    monkeypatch.setattr(process, "call", lambda *_, **__: [pair])
    monkeypatch.setattr(variants, "measure", one)
    monkeypatch.setattr(machine, "matmul_gflops", lambda **_: [200.0])
    assert benchmark.main(["mlp-mnist", "--tracks", "numpy", "torch", "--out", str(tmp_path)]) == 143
    results = read(tmp_path)
    assert (results["status"], len(results["trials"])) == ("interrupted", 1)
    assert "Interrupted" in capsys.readouterr().out
    assert "This benchmark was interrupted" in (tmp_path / "benchmark.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats: invalid value '0': expected a whole number of at least 1"),
        (["--batch-size", "-1"], "--batch-size: invalid batch_size '-1'"),
        (["--min-time", "long"], "--min-time: invalid time 'long': expected seconds, like 5s"),
        (["--target", "98"], "--target: invalid value '98': expected a number above 0 and at most 1"),
        (["--quick", "--repeats", "3"], "not allowed with argument"),
    ],
)
def test_a_usage_error_names_the_flag(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "chunks"), [(0.0, 10), (5.0, 68)])
def test_a_plan_lasts_for_the_minimum_time_at_the_gemm_peak(seconds: float, chunks: int) -> None:
    plan = session.plan(presets.get("mlp-mnist"), 200.0, seconds)
    chunk_seconds = plan["chunk"] * plan["batch_size"] * plan["flops_per_image"] / 200e9
    assert (plan["steps"] - plan["chunk"]) * chunk_seconds / plan["chunk"] >= seconds
    assert plan["steps"] / plan["chunk"] == pytest.approx(chunks, rel=0.1)
    assert plan["evaluated_step"] == 10 * plan["chunk"]


def test_an_accelerator_is_compared_with_its_own_matmuls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parity(*_: str, **__: Any) -> list[dict[str, Any]]:
        pair = {"preset": "mlp-mnist", "a": "jax", "b": "torch", "passed": True, "checks": []}
        return [pair | {"precision": "float64"}, pair | {"precision": "bfloat16"}]

    def one(config: Any, variant: Any, **_: Any) -> dict[str, Any]:
        hardware = "NVIDIA H200" if variant.track == "jax" else "cpu"
        facts = {"preset": config.preset, "track": variant.track, "variant": variant.name}
        own = {"jax": 9e5} if variant.track == "jax" else {}
        return facts | {"hardware": hardware, "error": "-", "matmul_gflops": own}

    monkeypatch.setattr(process, "call", parity)
    monkeypatch.setattr(variants, "measure", one)
    monkeypatch.setattr(machine, "matmul_gflops", lambda **_: [200.0])
    monkeypatch.setattr(machine, "accelerator_gflops", lambda device, precision: {"bfloat16": 8e5}[precision])
    config = dataclasses.replace(MLP, device="gpu", precision="bfloat16")
    options = benchmark.parser().parse_args(["--repeats", "1", "--out", str(tmp_path)])
    found = benchmark.run(options, [config], "the command")
    pace = {trial["track"]: trial["gemm_gflops"] for trial in found["trials"]}
    assert pace == {"jax": 9e5, "torch": 200.0}  # NumPy has no bfloat16; JAX's own matmul is faster than PyTorch's
    assert found["layers"] == []  # the roofline is one of a CPU


def test_the_gemm_peak_is_that_of_the_fastest_library_around_each_row() -> None:
    rows = [
        {"matmul_gflops": {"numpy": 100.0}, "gflops": 90.0},
        {"matmul_gflops": {"numpy": 100.0, "jax": 160.0}, "gflops": 156.0},
        {"matmul_gflops": {"numpy": 50.0, "jax": 85.0}},  # in a slow minute
        {"matmul_gflops": {"numpy": 200.0, "torch": 180.0}},
        {"matmul_gflops": {"torch": 5e4, "jax": 4e4}, "hardware": "NVIDIA H200"},
        {"matmul_gflops": None},
    ]
    gemm.set_peaks(rows)
    gain = (1.6 + 1.7) / 2  # of JAX over NumPy, the median of two runs
    expected = [100 * gain, 100 * gain, 85.0, 200 * gain, 5e4, None]
    assert [row.get("gemm_gflops") for row in rows] == pytest.approx(expected)
    assert [row.get("gemm_share") for row in rows[:2]] == pytest.approx([90 / 165, 156 / 165])
    gemm.set_peaks(rows)
    assert [row.get("gemm_gflops") for row in rows] == pytest.approx(expected)


@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
def test_each_worker_times_the_matmul_of_its_own_library(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "_matrix", lambda platform: np.ones((256, 256), np.float32))
    found = gemm.own_gflops(library, device="cpu", precision="bfloat16", threads=1)
    assert list(found) == ([] if library == "numpy" else [library])
    assert all(0.1 < speed < 1e4 for speed in found.values())


def test_variant_sets_arguments_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(module: str, *, job: Any, variables: Any, log: Path) -> dict[str, Any]:
        asked.append((job["job"]["arguments"], variables["OPENBLAS_NUM_THREADS"], job["job"]["chunk"]))
        return {}

    asked: list[Any] = []
    monkeypatch.setattr(variants, "ask", ask)
    for variant in variants.VARIANTS[:3]:
        variants.measure(MLP, variant, threads=4, chunk=8, folder=tmp_path)
    assert asked == [({"threads": 1}, "4", 8), ({"threads": 4}, "1", 8), ({}, asked[2][1], 1)]


def test_dead_worker_is_a_row_with_its_reason(tmp_path: Path) -> None:
    found = process.ask(
        "compare.benchmark.trial", job={"layers": {}, "track": "numpy"}, variables={}, log=tmp_path / "log.txt"
    )
    assert "missing" in found["error"]


def test_trial_measures_and_stops_at_a_target(tmp_path: Path) -> None:
    job = Job(config=dataclasses.replace(MLP, steps=20), track="numpy", threads=1, folder=tmp_path, chunk=4)
    timed = trial.run(job, stop_after=12)
    assert (timed["steps"], timed["chunk"], len(timed["step_ms"])) == (12, 4, 2)
    assert trial.run(job, stop_after=4, min_seconds=1e9, breakdown=False)["steps"] == 20
    assert set(timed["breakdown_ms"]) == set(PARTS)
    assert min(timed["step_ms"]) > 0
    assert len(timed["losses"]) == 5
    assert timed["val_accuracy"] is None
    assert trial.run(dataclasses.replace(job, chunk=1), breakdown=False, evaluate=False)["test_accuracy"] is None
    long = dataclasses.replace(job, config=dataclasses.replace(MLP, epochs=3), chunk=None)
    early = trial.run(long, target=0.5, breakdown=False)
    assert early["reached"]
    assert early["steps"] < 3 * 429


@pytest.mark.parametrize("preset", ["mlp-mnist", "cnn-mnist", "speedrun-mnist"])
def test_baseline_script_is_the_same_model(preset: str, tmp_path: Path) -> None:
    small: dict[str, Any] = {"hidden": (8,)} if preset == "mlp-mnist" else {"channels": (2, 3), "hidden": 8}
    small |= {"batch_norm": True} if preset == "speedrun-mnist" else {}
    config = dataclasses.replace(presets.get(preset), model_args=small, batch_size=16, steps=10)
    nothing_else: dict[str, Any] = {"breakdown": False, "evaluate": False}
    found = [
        trial.run(Job(config=config, track=track, threads=1, folder=tmp_path, chunk=5), module=module, **nothing_else)
        for track, module in (("numpy", None), ("torch", "compare.benchmark.baseline_torch"))
    ]
    np.testing.assert_allclose(found[1]["losses"], found[0]["losses"], rtol=1e-5)  # observed: up to 1e-6


@pytest.mark.slow  # TensorFlow takes its time to be imported, and wants a process without PyTorch's compiler
@pytest.mark.parametrize("preset", ["mlp-mnist", "cnn-mnist"])
def test_keras_script_is_the_same_model(preset: str, tmp_path: Path) -> None:
    small: dict[str, Any] = (
        {"hidden": (8,)} if preset == "mlp-mnist" else {"channels": (2, 3), "hidden": 8, "padding": 1}
    )
    config = dataclasses.replace(presets.get(preset), model_args=small, batch_size=16, steps=10)
    numpy_plain, keras_script = variants.VARIANTS[0], variants.VARIANTS[-1]
    found = [
        variants.measure(config, variant, threads=1, chunk=5, folder=tmp_path, breakdown=False)
        for variant in (numpy_plain, keras_script)
    ]
    np.testing.assert_allclose(found[1]["losses"], found[0]["losses"], rtol=1e-5)
    assert abs(found[1]["test_accuracy"] - found[0]["test_accuracy"]) < 2e-3


def test_tensorflow_is_compared_with_the_tracks_by_its_losses_alone() -> None:
    results = invented({"numpy plain": [8.0] * 3, "torch eager": [4.0] * 3, "tensorflow baseline": [5.0] * 3})
    assert {row.label for row in rows(results) if row.problem is None} == {
        "numpy plain", "torch eager", "tensorflow baseline",
    }  # fmt: skip
    assert "mlp-mnist: torch eager is 1.25× as fast as tensorflow baseline (95 % CI 1.25–1.25, n = 3)." in (
        report.document(results)
    )
    assert plots.speeds(results).startswith(b"\x89PNG")
    results["trials"] = [trial for trial in results["trials"] if trial["track"] == "tensorflow"]
    assert [row.problem for row in rows(results)] == ["no track was measured whose losses it could be compared with"]


@pytest.mark.parametrize("preset", ["mlp-mnist", "cnn-mnist", "lenet5-mnist"])
def test_layer_flops_sum_to_the_network(preset: str) -> None:
    config = dataclasses.replace(presets.get(preset), batch_size=4)
    found = roofline.of_network(config)
    assert sum(count * layer.flops for layer, count in found.items()) == 4 * training_flops(config)
    assert [layer.need_dx for layer in found if layer.kernel][:2] == [False, True]


@pytest.mark.parametrize("track", ["numpy", "jax", "torch"])
def test_layer_is_timed_in_every_track(track: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.0)
    small = {"input_shape": (8, 8, 1), "channels": (2,), "kernel": 3, "hidden": 4}
    config = dataclasses.replace(presets.get("cnn-mnist"), batch_size=2, model_args=small)
    rows = roofline.measured(config, track)
    assert [row["label"] for row in rows][:3] == ["conv 3x3 1→2", "max pool 6x6x2", "relu 3x3x2"]
    assert all(row["ms"] > 0 for row in rows)


def test_sweep_varies_one_thing_at_a_time() -> None:
    points = list(sweep.points(presets.get("mlp-mnist")))
    assert [config.batch_size for axis, config, _ in points if axis == "batch"] == [128, 256, 512, 1024, 2048]
    assert next(config.model_args["hidden"] for axis, config, _ in points if axis == "width") == (256, 256)
    steps = [config.steps or 0 for axis, config, _ in points if axis == "steps"]
    assert steps[2] == 16 * steps[0]
    assert all((config.steps or 1) % chunk == 0 for _, config, chunk in points)


def test_memory_includes_child_processes() -> None:
    alone = machine.peak_rss_mb()
    if alone is None:
        pytest.skip("this system does not tell the memory of a process")
    program = "data = bytearray(b'x') * 100_000_000; print(1, flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as child:
        assert child.stdout
        child.stdout.readline()
        both = machine.peak_rss_mb()
        child.communicate(b"\n")
    assert both is not None
    assert both - alone > 90

"""The benchmark: its statistics on samples whose answer is known, its order of work, its refusals, one real trial."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare import machine, presets
from compare.benchmark import __main__ as benchmark
from compare.benchmark import plots, report, roofline, sweep, tables, trial, variants
from compare.benchmark.results import PARTS, read, rows
from compare.benchmark.statistics import exponent, false_alarms, steps_to_pay_off, times_as_fast
from compare.errors import UserError
from compare.training.flops import training_flops
from compare.workers import process
from compare.workers.protocol import Job

MLP = dataclasses.replace(presets.PRESETS["mlp-mnist"], model_args={"hidden": (8,)})


# --- statistics -------------------------------------------------------------------------------------------------------


def test_a_ratio_is_sure_only_where_the_samples_part() -> None:
    rng = np.random.default_rng(0)
    slow, fast = (10 + rng.random(7)).tolist(), (5 + rng.random(7)).tolist()
    found = times_as_fast(fast, slow)
    assert found.low < found.value < found.high
    assert found.sure
    assert found.value == pytest.approx(np.median(slow) / np.median(fast))
    assert not times_as_fast(slow, slow[::-1]).sure


def test_two_repeats_have_no_interval_and_show_no_difference() -> None:
    found = times_as_fast([1.0, 1.0], [2.0, 2.0])
    assert (str(found), found.sure) == ("2.00", False)


def test_noise_is_called_a_difference_as_often_as_is_said() -> None:
    rng = np.random.default_rng(1)
    pairs = rng.normal(10, 1, (100, 2, 5)).tolist()
    alarms = sum(times_as_fast(a, b).sure for a, b in pairs) / 100  # observed for three seeds: 0.02 to 0.05
    assert alarms == pytest.approx(false_alarms(5), abs=0.04)
    assert false_alarms(3) > 2 * false_alarms(5)


@pytest.mark.parametrize(
    ("cold", "step_ms", "steps"),
    [((0.0, 3.0), (5.0, 2.0), 1000.0), ((0.0, 3.0), (2.0, 5.0), math.inf), ((3.0, 1.0), (5.0, 2.0), 0.0)],
)
def test_when_a_compilation_pays_off(cold: Any, step_ms: Any, steps: float) -> None:
    assert steps_to_pay_off(cold, step_ms) == pytest.approx(steps)


def test_an_exponent_is_found() -> None:
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


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
                | {"split_ms": {"input": 0.1, "forward": 1.0, "backward": 2.0, "update": 0.5}}
                | {"import_rss_mb": 40.0, "peak_rss_mb": 99.0, "gemm_gflops": 200.0}
            )
    plan = {"batch_size": 128, "flops_per_image": 3_209_216, "steps": 600, "precision": "float32", "device": "cpu"}
    proof = {"preset": "mlp-mnist", "precision": "float32", "a": "numpy", "b": "torch", "passed": True, "checks": []}
    core = {"gemm_gflops": 100.0, "memory": 12.0, "cache": 50.0}
    return {
        "schema": 1,
        "kind": "benchmark",
        "created": "today",
        "command": "python -m compare.benchmark",
        "repeats": 3,
        "target": None,
        "seconds": 90,
        "environment": {"threads": 2, "cpu": "a CPU", "gemm_gflops": 200.0, "one_core": core, "load": [0.5, 1.5]}
        | {"versions": {"numpy": "2"}},
        "presets": {"mlp-mnist": plan},
        "proof": [proof],
        "trials": trials,
        "cold": [],
        "layers": [],
        "sweep": [],
    }


def test_the_report_says_who_is_faster_and_that_a_failed_compiler_failed() -> None:
    results = invented({"numpy plain": [8.0, 8.1, 8.2], "torch eager": [4.0, 4.1, 4.2]})
    failed = {"preset": "mlp-mnist", "track": "torch", "variant": "compiled", "error": "no C++ compiler"}
    results["trials"].append(failed)
    text = report.document(results)
    assert "mlp-mnist: torch eager is 1.98 (1.90 to 2.05) times as fast as numpy plain." in text
    assert "mlp-mnist: torch compiled is not shown: failed: no C++ compiler." in text
    assert "31,220 (30,476 to 32,000)" in text  # 128 images in 4.1 ms
    assert report.status(results, None) == 1


def test_no_speed_without_a_proof_or_with_other_losses() -> None:
    times = {"numpy plain": [8.0] * 3, "torch eager": [4.0] * 3, "torch compiled": [3.0] * 3}
    results = invented(times, compiled=[2.0, 1.6])
    problems = {row.label: row.problem for row in rows(results)}
    assert problems["torch eager"] is None
    assert "its first losses are 4e-02 from those of the others" in (problems["torch compiled"] or "")
    assert "42,667" not in report.document(results)  # its images per second
    results["proof"][0]["checks"] = [{"what": "losses", "tolerance": 0.05}]  # as in bfloat16
    assert {row.problem for row in rows(results)} == {None}
    results["proof"] = []
    assert {row.problem for row in rows(results)} == {"not proven"}


def test_where_kinks_are_many_only_the_very_first_losses_count() -> None:
    times = {"torch eager": [4.0] * 3, "torch compiled": [3.0] * 3}
    results = invented(times, compiled=[2.0, 1.5, 1.4, 1.9], eager=[2.0, 1.5, 1.4, 1.3])
    assert [row.problem is None for row in rows(results)] == [False, False]
    results["proof"][0]["sensitivity"] = {"losses": 1e-3}
    assert [row.problem for row in rows(results)] == [None, None]
    results["trials"][0]["losses"][2] = 1.5
    assert [row.problem is None for row in rows(results)] == [False, False]


def test_one_process_with_other_losses_and_a_failed_proof_are_not_overlooked() -> None:
    results = invented({"numpy plain": [8.0] * 3, "torch eager": [4.0] * 3})
    assert report.status(results, None) == 0
    results["trials"][1]["losses"] = [2.0, 1.6]  # of the second of three processes
    assert [row.problem is None for row in rows(results)] == [False, True]
    results = invented({"numpy plain": [8.0] * 3, "torch eager": [4.0] * 3})
    results["proof"].append(results["proof"][0] | {"b": "jax", "passed": False})  # so JAX was not measured
    assert report.status(results, None) == 1
    assert "mlp-mnist: numpy and jax are not the same model in float32." in report.document(results)


def test_against_an_earlier_one_only_what_is_beyond_noise_is_slower() -> None:
    before = invented({"numpy plain": [8.0, 8.1, 8.2], "torch eager": [4.0, 4.4, 4.8]})
    now = invented({"numpy plain": [9.0, 9.1, 9.2], "torch eager": [4.1, 4.4, 4.7]})
    assert [slower for _, slower in report.against(now, before)][1:] == [True, False]
    assert (report.status(now, before), report.status(before, now)) == (1, 0)


def test_reading_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text('{"schema": 1, "runs": []}')
    with pytest.raises(UserError, match="is not a benchmark of schema 1"):
        read(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "none.json")


def test_pictures_and_tables_of_everything(tmp_path: Path) -> None:
    names = ("numpy processes", "jax scan", "torch eager", "torch reference")
    results = invented({name: [4.0, 4.1, 4.2] for name in names})
    results["proof"].append(results["proof"][0] | {"b": "jax"})
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
    assert report.main([str(tmp_path)]) == 0
    for name in ("speeds.png", "roofline.png", "sweep.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert tables.attainable_ms(results, one) == pytest.approx(5e6 / 12e9 * 1000)  # moving takes longer
    assert tables.growth(results)[1] == [
        ["mlp-mnist", "jax scan", "1.00", "1.00", "0.00", "0.00", "150, 150"],
    ]
    assert plots.speeds(invented({})).startswith(b"\x89PNG")


# --- measuring --------------------------------------------------------------------------------------------------------


def test_they_take_turns_and_the_unproven_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def proof(*arguments: str, variables: Any) -> list[dict[str, Any]]:
        pairs = [("numpy", "jax", True), ("numpy", "torch", False), ("jax", "torch", False)]
        facts = {"preset": "mlp-mnist", "checks": []}
        return [facts | {"a": a, "b": b, "passed": p, "precision": "float32"} for a, b, p in pairs]

    def one(config: Any, variant: Any, **_: Any) -> dict[str, Any]:
        done.append(variant.label)
        return {"preset": config.preset, "track": variant.track, "variant": variant.name, "error": "-"}

    done: list[str] = []
    monkeypatch.setattr(process, "call", proof)
    monkeypatch.setattr(variants, "measure", one)
    monkeypatch.setattr(machine, "products", lambda **_: [200.0])
    options = benchmark.parser().parse_args(["--repeats", "2", "--no-layers", "--out", str(tmp_path)])
    benchmark.run(options, [presets.get("mlp-mnist")], "the command")
    turn = ["numpy plain", "numpy processes", "jax jit", "jax scan"]
    assert done == 2 * (turn if machine.cores() > 1 else [turn[0], *turn[2:]])
    written = read(tmp_path)
    assert [row["repeat"] for row in written["trials"]] == [0] * (len(done) // 2) + [1] * (len(done) // 2)


def test_an_accelerator_is_held_against_its_own_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def proof(*_: str, variables: Any) -> list[dict[str, Any]]:
        pair = {"preset": "mlp-mnist", "a": "jax", "b": "torch", "passed": True, "checks": []}
        return [pair | {"precision": "float64"}, pair | {"precision": "bfloat16"}]

    def one(config: Any, variant: Any, **_: Any) -> dict[str, Any]:
        hardware = "NVIDIA H200" if variant.track == "jax" else "cpu"
        facts = {"preset": config.preset, "track": variant.track, "variant": variant.name}
        return facts | {"hardware": hardware, "error": "-"}

    monkeypatch.setattr(process, "call", proof)
    monkeypatch.setattr(variants, "measure", one)
    monkeypatch.setattr(machine, "products", lambda **_: [200.0])
    monkeypatch.setattr(machine, "accelerator_gflops", lambda device, precision: {"bfloat16": 8e5}[precision])
    config = dataclasses.replace(MLP, device="gpu", precision="bfloat16")
    options = benchmark.parser().parse_args(["--repeats", "1", "--out", str(tmp_path)])
    found = benchmark.run(options, [config], "the command")
    pace = {trial["track"]: trial["gemm_gflops"] for trial in found["trials"]}
    assert pace == {"jax": 8e5, "torch": 200.0}  # NumPy has no bfloat16
    assert found["layers"] == []  # the roofline is one of a CPU


def test_a_variant_is_expressed_by_arguments_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(module: str, *, job: Any, variables: Any, log: Path) -> dict[str, Any]:
        asked.append((job["job"]["arguments"], variables["OPENBLAS_NUM_THREADS"], job["job"]["chunk"]))
        return {}

    asked: list[Any] = []
    monkeypatch.setattr(variants, "ask", ask)
    for variant in variants.VARIANTS[:3]:
        variants.measure(MLP, variant, threads=4, chunk=8, folder=tmp_path)
    assert asked == [({"threads": 1}, "4", 8), ({"threads": 4}, "1", 8), ({}, asked[2][1], 1)]


def test_a_worker_that_dies_is_a_row_with_its_reason(tmp_path: Path) -> None:
    found = process.ask(
        "compare.benchmark.trial", job={"layers": {}, "track": "numpy"}, variables={}, log=tmp_path / "log.txt"
    )
    assert "missing" in found["error"]


def test_a_trial_measures_and_stops_at_a_target(tmp_path: Path) -> None:
    job = Job(config=dataclasses.replace(MLP, steps=20), track="numpy", threads=1, folder=tmp_path, chunk=4)
    timed = trial.run(job)
    assert (timed["steps"], timed["chunk"], len(timed["step_ms"])) == (20, 4, 4)
    assert set(timed["split_ms"]) == set(PARTS)
    assert min(timed["step_ms"]) > 0
    assert len(timed["losses"]) == 5
    assert timed["val_accuracy"] is None
    assert trial.run(dataclasses.replace(job, chunk=1), split=False, evaluate=False)["test_accuracy"] is None
    long = dataclasses.replace(job, config=dataclasses.replace(MLP, epochs=3), chunk=None)
    early = trial.run(long, target=0.5, split=False)
    assert early["reached"]
    assert early["steps"] < 3 * 429


@pytest.mark.parametrize("preset", ["mlp-mnist", "cnn-mnist", "speedrun-mnist"])
def test_the_plain_script_is_the_same_model(preset: str, tmp_path: Path) -> None:
    small = {"hidden": (8,)} if preset == "mlp-mnist" else {"channels": (2, 3), "hidden": 8}
    small |= {"batch_norm": True} if preset == "speedrun-mnist" else {}
    config = dataclasses.replace(presets.get(preset), model_args=small, batch_size=16, steps=10)
    nothing_else: dict[str, Any] = {"split": False, "evaluate": False}
    found = [
        trial.run(Job(config=config, track=track, threads=1, folder=tmp_path, chunk=5), module=module, **nothing_else)
        for track, module in (("numpy", None), ("torch", "compare.benchmark.baseline_torch"))
    ]
    np.testing.assert_allclose(found[1]["losses"], found[0]["losses"], rtol=1e-5)  # observed: up to 1e-6


@pytest.mark.slow  # TensorFlow takes its time to be imported, and wants a process without PyTorch's compiler
@pytest.mark.parametrize("preset", ["mlp-mnist", "cnn-mnist"])
def test_the_keras_script_is_the_same_model(preset: str, tmp_path: Path) -> None:
    small = {"hidden": (8,)} if preset == "mlp-mnist" else {"channels": (2, 3), "hidden": 8, "padding": 1}
    config = dataclasses.replace(presets.get(preset), model_args=small, batch_size=16, steps=10)
    numpy_plain, keras_script = variants.VARIANTS[0], variants.VARIANTS[-1]
    found = [
        variants.measure(config, variant, threads=1, chunk=5, folder=tmp_path, split=False)
        for variant in (numpy_plain, keras_script)
    ]
    np.testing.assert_allclose(found[1]["losses"], found[0]["losses"], rtol=1e-5)
    assert abs(found[1]["test_accuracy"] - found[0]["test_accuracy"]) < 2e-3


def test_tensorflow_is_held_to_the_tracks_by_its_losses_alone() -> None:
    results = invented({"numpy plain": [8.0] * 3, "torch eager": [4.0] * 3, "tensorflow reference": [5.0] * 3})
    assert {row.label for row in rows(results) if row.problem is None} == {
        "numpy plain", "torch eager", "tensorflow reference",
    }  # fmt: skip
    assert "mlp-mnist: torch eager is 1.25 (1.25 to 1.25) times as fast as tensorflow reference." in (
        report.document(results)
    )
    assert plots.speeds(results).startswith(b"\x89PNG")
    results["trials"] = [trial for trial in results["trials"] if trial["track"] == "tensorflow"]
    assert [row.problem for row in rows(results)] == ["there is no track to hold it against"]


@pytest.mark.parametrize("preset", ["mlp-mnist", "cnn-mnist", "lenet5-mnist"])
def test_the_layers_do_all_the_multiplying(preset: str) -> None:
    config = dataclasses.replace(presets.get(preset), batch_size=4)
    found = roofline.of_network(config)
    assert sum(count * layer.flops for layer, count in found.items()) == 4 * training_flops(config)
    assert [layer.need_dx for layer in found if layer.kernel][:2] == [False, True]


@pytest.mark.parametrize("track", ["numpy", "jax", "torch"])
def test_a_layer_is_timed_in_every_track(track: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.0)
    small = {"input_shape": (8, 8, 1), "channels": (2,), "kernel": 3, "hidden": 4}
    config = dataclasses.replace(presets.get("cnn-mnist"), batch_size=2, model_args=small)
    rows = roofline.measured(config, track)
    assert [row["label"] for row in rows][:3] == ["conv 3x3 1→2", "max pool 6x6x2", "relu 3x3x2"]
    assert all(row["ms"] > 0 for row in rows)


def test_the_sweep_varies_one_thing_at_a_time() -> None:
    points = list(sweep.points(presets.get("mlp-mnist")))
    assert [config.batch_size for axis, config, _ in points if axis == "batch"] == [128, 256, 512, 1024, 2048]
    assert next(config.model_args["hidden"] for axis, config, _ in points if axis == "width") == (256, 256)
    steps = [config.steps or 0 for axis, config, _ in points if axis == "steps"]
    assert steps[2] == 16 * steps[0]
    assert all((config.steps or 1) % chunk == 0 for _, config, chunk in points)


def test_memory_counts_the_processes_that_were_started() -> None:
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

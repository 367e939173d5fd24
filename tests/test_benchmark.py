"""The benchmark: its statistics on samples whose answer is known, its order of work, its refusals, one real trial."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare import bench_report, benchmark, machine, presets, trial
from compare.errors import UserError
from compare.speeds import steps_to_pay_off, times_as_fast

MLP = dataclasses.replace(presets.PRESETS["mlp-mnist"], model_args={"hidden": (8,)})


def test_a_ratio_is_sure_only_where_the_samples_part() -> None:
    rng = np.random.default_rng(0)
    slow, fast = 10 + rng.random(7), 5 + rng.random(7)
    found = times_as_fast(fast, slow)
    assert found.low < found.value < found.high
    assert found.sure
    assert found.value == pytest.approx(np.median(slow) / np.median(fast))
    assert not times_as_fast(slow, slow + rng.normal(0, 0.3, 7)).sure


def test_noise_is_called_a_difference_one_time_in_twenty() -> None:
    rng = np.random.default_rng(1)
    pairs = rng.normal(10, 1, (200, 2, 7))  # observed for three seeds: 6 to 8 of 200
    assert sum(times_as_fast(a, b).sure for a, b in pairs) <= 10


@pytest.mark.parametrize(
    ("cold", "step_ms", "steps"),
    [((0.0, 3.0), (5.0, 2.0), 1000.0), ((0.0, 3.0), (2.0, 5.0), math.inf), ((3.0, 1.0), (5.0, 2.0), 0.0)],
)
def test_when_a_compilation_pays_off(cold: Any, step_ms: Any, steps: float) -> None:
    assert steps_to_pay_off(cold, step_ms) == pytest.approx(steps)


def invented(step_ms: dict[str, list[float]]) -> dict[str, Any]:
    """Results of ``{"numpy plain": [ms of each process]}``."""
    trials = []
    for name, times in step_ms.items():
        track, variant = name.split()
        for repeat, ms in enumerate(times):
            seconds = {"import": 1.0, "data": 0.5, "compile": 0.2, "train": 3.0, "eval": 0.3, "total": 5.0}
            trials.append(
                {"preset": "mlp-mnist", "track": track, "variant": variant, "target": None, "repeat": repeat}
                | {"seconds": seconds, "step_ms": [ms, ms, ms], "images_per_second": 128_000 / ms, "peak_rss_mb": 99.0}
                | {"split_ms": {"input": 0.1, "forward": 1.0, "backward": 2.0, "update": 0.5}}
            )
    environment = {"threads": 2, "cpu": "a CPU", "gemm_gflops": 200.0}
    return {
        "schema": 1,
        "kind": "benchmark",
        "repeats": 3,
        "target": None,
        "environment": environment,
        "trials": trials,
    }


def test_the_document_says_who_is_faster_and_that_a_failed_compiler_failed() -> None:
    results = invented({"numpy plain": [8.0, 8.1, 8.2], "torch eager": [4.0, 4.1, 4.2]})
    failed = {
        "preset": "mlp-mnist",
        "track": "torch",
        "variant": "compiled",
        "target": None,
        "error": "no C++ compiler",
    }
    results["trials"].append(failed)
    text = bench_report.document(results)
    assert "`mlp-mnist`: torch eager is 1.98 (1.90 to 2.05) times as fast as numpy plain" in text
    assert "| torch compiled | failed: no C++ compiler |" in text
    assert "31,220 (30,476 to 32,000)" in text  # 128 images in 4.1 ms


def test_against_an_earlier_one_only_what_is_beyond_noise_is_slower() -> None:
    before = invented({"numpy plain": [8.0, 8.1, 8.2], "torch eager": [4.0, 4.4, 4.8]})
    now = invented({"numpy plain": [9.0, 9.1, 9.2], "torch eager": [4.1, 4.4, 4.7]})
    assert [slower for _, slower in bench_report.against(now, before)] == [True, False]


def test_reading_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text('{"schema": 1, "runs": []}')
    with pytest.raises(UserError, match="is not a benchmark of schema 1"):
        bench_report.read(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        bench_report.read(tmp_path / "none.json")


def test_they_take_turns_and_the_unproven_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def proof(configs: Any, variants: Any, precision: str) -> list[dict[str, Any]]:
        return [{"preset": config.preset, "passed": config.preset == "mlp-mnist"} for config in configs]

    def one(config: Any, variant: Any, *, threads: int, target: float | None) -> dict[str, Any]:
        done.append(f"{config.preset} {variant.label}")
        return {"preset": config.preset, "track": variant.track, "variant": variant.name, "target": None, "error": "-"}

    done: list[str] = []
    monkeypatch.setattr(benchmark, "prove", proof)
    monkeypatch.setattr(benchmark, "measure", one)
    monkeypatch.setattr(machine, "gemm_gflops", lambda **_: 200.0)
    monkeypatch.setattr(benchmark.os, "sched_setaffinity", lambda *_: None)
    path, said = tmp_path / "benchmark.json", []
    configs = [presets.get(name) for name in ("mlp-mnist", "cnn-mnist")]
    chosen = benchmark.VARIANTS[:2]
    benchmark.run(configs, chosen, repeats=2, threads=1, target=None, path=path, note=said.append)
    assert done == ["mlp-mnist numpy plain", "mlp-mnist numpy threads"] * 2
    assert "cnn-mnist: not measured, its tracks are not the same model" in said[0]
    assert [row["repeat"] for row in json.loads(path.read_text())["trials"]] == [0, 0, 1, 1]


def test_a_trial_measures_and_stops_at_a_target() -> None:
    timed = trial.run(dataclasses.replace(MLP, steps=20), "numpy", threads=1)
    assert (timed["steps"], timed["chunk"], len(timed["step_ms"])) == (20, 4, 4)
    assert set(timed["split_ms"]) == {"input", "forward", "backward", "update"}
    assert min(timed["step_ms"]) > 0
    assert timed["test_count"] == 10_000
    assert trial.run(dataclasses.replace(MLP, steps=20), "numpy", threads=1, chunk=1)["chunk"] == 1
    early = trial.run(dataclasses.replace(MLP, epochs=3), "numpy", threads=1, target=0.5)
    assert early["reached"]
    assert early["steps"] < 3 * 429

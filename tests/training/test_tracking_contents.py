"""What MLflow is told of a comparison, worked out by hand, and how busy the machine is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.fake_results import fail_parity, fake_results, stop_run

from compare.machine import disturbance, usage
from compare.machine.disturbance import Counters
from compare.tracking import contents


def test_params_are_flat_json_that_can_be_read_back():
    settings = {
        "lr": 0.1,
        "name": "adam",
        "patience": None,
        "ema": True,
        "model_args": {"hidden": (8, 4), "a": {"b": 1}},
    }
    found = contents.params(settings)
    assert found == {"lr": "0.1", "name": "adam", "ema": "true", "model_args.hidden": "[8, 4]", "model_args.a.b": "1"}
    assert json.loads(found["model_args.hidden"]) == [8, 4]


def test_summary_has_the_mean_and_the_deviation_over_the_seeds():
    results = fake_results(presets=("mlp-mnist",), tracks=("numpy", "jax"), seeds=(0, 1), steps=100)
    for run, accuracy in zip(results["runs"], (0.96, 0.98, 0.9, 0.9), strict=True):
        run["test_accuracy"] = accuracy
    found = contents.summary_metrics(results)
    first, second = (run["images_per_second"] or 0 for run in results["runs"][:2])
    assert found["mlp-mnist/numpy/test_accuracy_mean"] == pytest.approx(0.97)
    assert found["mlp-mnist/numpy/test_accuracy_sd"] == pytest.approx(0.02 / 2**0.5)
    assert found["mlp-mnist/jax/test_accuracy_sd"] == 0
    assert found["mlp-mnist/numpy/images_per_second_mean"] == pytest.approx((first + second) / 2)


def test_summary_withholds_speeds_that_the_report_withholds():
    results = fake_results(presets=("mlp-mnist",), steps=100)
    fail_parity(results, "mlp-mnist", "torch")
    results["runs"][1]["disturbed"] = "other programs took half of the cores"
    found = contents.summary_metrics(results)
    assert [name for name in found if "images" in name] == ["mlp-mnist/numpy/images_per_second_mean"]
    assert not [name for name in found if name.endswith("_sd")]  # of one seed


def test_tags_say_what_may_be_filtered():
    results = fake_results(presets=("mlp-mnist",), steps=100)
    fail_parity(results, "mlp-mnist", "torch")
    results["runs"][1]["disturbed"] = "other programs took half of the cores"
    stop_run(results["runs"][2], "failed", step=40, message="the loss is NaN")
    together = {
        "preset": "mlp-mnist",
        "track": "numpy, jax, torch",
        "seed": "0",
        "parity": "failed",
        "disturbed": "true",
    }
    assert contents.comparison_tags(results) == together
    numpy, jax, torch = (contents.run_tags(results, run) for run in results["runs"])
    assert numpy == {"parity": "passed", "disturbed": "false"}
    assert jax["disturbed"] == "true"
    assert jax[contents.NOTE] == "Disturbed: other programs took half of the cores"
    assert torch["parity"] == "failed"
    assert torch[contents.NOTE].startswith("the loss is NaN\n\nparity check failed: gradients")
    results["parity"] = []
    assert contents.comparison_tags(results)["parity"] == "not checked"
    assert contents.run_tags(results, results["runs"][0])["parity"] == "not checked"


def test_description_is_the_report_without_pictures_and_fits():
    assert contents.note("# A\n\n![](x.png)\n\nb") == {contents.NOTE: "# A\n\n\nb"}
    long = "# A\n" + "".join(f"\n## {n}\n{'x' * 3000}\n" for n in range(5))
    text = contents.note(long)[contents.NOTE]
    assert len(text) < 8000
    assert "## 1" in text
    assert "## 2" not in text
    assert text.endswith("The rest is in report.md, among the artifacts.")


def test_the_last_evaluation_is_not_logged_twice():
    (run,) = fake_results(presets=("mlp-mnist",), tracks=("jax",), steps=100)["runs"]
    found = contents.closing_metrics(run)
    assert {"test_accuracy", "val_accuracy"}.isdisjoint(found)
    assert found["seconds_train"]
    run["test_accuracy"] = 0.5  # that of another step, which was kept as the best
    assert contents.closing_metrics(run)["test_accuracy"] == 0.5


def test_usage_is_sampled_at_most_once_an_interval(monkeypatch: pytest.MonkeyPatch):
    moments = iter([Counters(0.0, 2, 10.0, 1.0, None, 0), Counters(4.0, 2, 16.0, 3.0, None, 0)])
    clock = [100.0]
    monkeypatch.setattr(disturbance, "counters", lambda: next(moments))
    monkeypatch.setattr(usage.time, "monotonic", lambda: clock[0])
    sampler = usage.Sampler(interval=1.0)
    assert sampler.sample() == {}
    clock[0] += 1.5
    found = sampler.sample()
    assert found["system/cpu_utilization_percentage"] == 75  # 6 s of 4 s on 2 cores
    assert found["system/training_cpu_utilization_percentage"] == 25
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    clock[0] += 0.5
    assert sampler.sample() == {}


def test_usage_without_proc_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert usage.memory(tmp_path / "meminfo") == {}
    monkeypatch.setattr(disturbance, "counters", lambda: None)
    assert usage.Sampler(interval=0).sample() == {}

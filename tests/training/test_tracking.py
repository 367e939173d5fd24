"""MLflow: what it is told, and that nothing it does stops a training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fake_results import fake_results, stop_run
from support.paths import ROOT

from compare.results.runs import final_metrics, trajectory
from compare.results.schema import not_measured
from compare.tracking import Tracker, contents
from compare.tracking.__main__ import main
from compare.tracking.commands import log
from compare.tracking.store import client as client_of

SIZES = {"numpy": 0.25, "jax": 0.5}


@pytest.fixture
def results_dir(tmp_path: Path) -> Path:
    """A folder with a finished results.json and its report."""
    folder = tmp_path / "comparison"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(fake_results(presets=("mlp-mnist",), steps=100)))
    (folder / "report.md").write_text("# Report")
    return folder


def tracker(store: Path, warnings: list[str] | None = None) -> Tracker:
    warn = pytest.fail if warnings is None else warnings.append
    return Tracker(results_dir=store / "x", warn=warn, store=store)


def client(store: Path) -> Any:
    return client_of(f"sqlite:///{store / 'mlflow.db'}")


def children(mlflow: Any, parent: str) -> list[Any]:
    experiment = mlflow.get_run(parent).info.experiment_id
    return mlflow.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'", order_by=["start_time"])


def test_comparison_is_a_parent_with_a_child_per_run(store: Path):
    artifact = store / "curves.png"
    artifact.write_bytes(b"PNG")
    source = contents.source_tags("python -m compare.run_all --out runs/x", "0123456789")
    config = {"lr": 0.1, "optimizer": "adam", "keep_best": False, "patience": None, "model_args": {"hidden": (8, 4)}}
    with tracker(store) as mlflow:
        parent = mlflow.start("compare", "main", params={"seeds": [0]}, tags={"parity": "passed"}, source=source)
        child = mlflow.child("mlp-mnist", "jax", 0, params=config)
        mlflow.log_steps(child, [(64, {"loss": 0.5, "lr": 0.1}), (128, {"loss": float("nan"), "lr": None})])
        mlflow.log_steps(child, [(192, {"loss": 0.25})])
        mlflow.flush()
        mlflow.finish_child(child, "finished")
        documents = {"environment.json": {"cores": 2}}
        mlflow.finish("finished", metrics={"mean": 0.5}, tags={"b": 1}, documents=documents, artifacts=[artifact])

    stored = client(store)
    run, found = stored.get_run(parent), children(stored, parent)
    assert run.info.status == "FINISHED"
    assert {"parity": "passed", "b": "1"}.items() <= run.data.tags.items()
    assert run.data.metrics == {"mean": 0.5}
    assert run.data.params == {"seeds": "[0]"}
    for each in (run, *found):
        assert each.data.tags["mlflow.source.git.commit"] == "0123456789"
        assert each.data.tags["mlflow.source.name"] == "compare.run_all"
        assert each.data.tags["mlflow.user"]
    assert [it.info.run_id for it in found] == [child]
    assert found[0].info.run_name == "mlp-mnist jax seed 0"
    assert found[0].info.status == "FINISHED"
    names = {"preset": "mlp-mnist", "track": "jax", "seed": "0"}
    expected = {"lr": "0.1", "optimizer": "adam", "keep_best": "false", "model_args.hidden": "[8, 4]"}
    assert found[0].data.params == names | expected
    assert names.items() <= found[0].data.tags.items()
    assert [(it.step, it.value) for it in stored.get_metric_history(child, "loss")] == [(64, 0.5), (192, 0.25)]
    assert found[0].data.metrics == {"loss": 0.25, "lr": 0.1}
    assert [it.path for it in stored.list_artifacts(parent)] == ["curves.png", "environment.json"]
    assert (store / "mlartifacts" / parent / "artifacts" / "curves.png").read_bytes() == b"PNG"


def test_the_figures_of_two_runs_stay_with_their_own(store: Path):
    """Steps of the two come in turn, as those of workers that train at once, and the first ends first."""
    with tracker(store) as mlflow:
        parent = mlflow.start("compare", "main")
        runs = {track: mlflow.child("mlp-mnist", track, 0, params={"size": size}) for track, size in SIZES.items()}
        for step in (1, 2):
            for track, run in runs.items():
                mlflow.log_steps(run, [(step, {"loss": SIZES[track] * step})])
        for track, run in runs.items():
            mlflow.log_steps(run, [(2, {"test_accuracy": SIZES[track]})])
            mlflow.finish_child(run, "finished")
        mlflow.finish("finished")
    stored = client(store)
    assert stored.get_run(parent).data.metrics == {}
    for track, run in runs.items():
        size = SIZES[track]
        assert stored.get_run(run).data.params == {
            "preset": "mlp-mnist",
            "track": track,
            "seed": "0",
            "size": str(size),
        }
        assert stored.get_run(run).data.metrics == {"loss": 2 * size, "test_accuracy": size}
        assert [(it.step, it.value) for it in stored.get_metric_history(run, "loss")] == [(1, size), (2, 2 * size)]


def test_metrics_wait_for_flush_and_go_in_batches_mlflow_accepts(store: Path):
    with tracker(store) as mlflow:
        mlflow.start("compare", "main")
        child = mlflow.child("mlp-mnist", "numpy", 0, params={f"p{n}": n for n in range(150)})
        mlflow.log_steps(child, [(step, {"a": step, "b": -step}) for step in range(1300)])
        assert client(store).get_run(child).data.metrics == {}
        mlflow.flush()
        history = client(store).get_metric_history(child, "a")
        assert [it.step for it in history] == list(range(1300))
        assert len(client(store).get_run(child).data.params) == 153


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (RuntimeError, "FAILED")])
def test_every_run_is_ended_after_an_error(store: Path, error: type[BaseException], status: str):
    runs = []

    def compare() -> None:
        with tracker(store) as mlflow:
            runs.append(mlflow.start("compare", "main"))
            runs.append(mlflow.finish_child(mlflow.child("mlp-mnist", "numpy", 0), "finished"))
            runs.append(mlflow.child("mlp-mnist", "jax", 0))
            mlflow.log_steps(runs[-1], [(1, {"loss": 2.0})])
            raise error

    with pytest.raises(error):
        compare()
    parent, done, cut = runs
    statuses = {run: client(store).get_run(run).info.status for run in (parent, done, cut)}
    assert statuses == {parent: status, done: "FINISHED", cut: status}
    assert client(store).get_run(cut).data.metrics == {"loss": 2.0}


def test_deleted_experiment_is_restored(store: Path):
    with tracker(store) as mlflow:
        mlflow.start("compare", "first")
    stored = client(store)
    stored.delete_experiment(stored.get_experiment_by_name("compare").experiment_id)
    with tracker(store) as mlflow:
        assert mlflow.start("compare", "second")


TOGETHER = """
import sys
from pathlib import Path
from compare.tracking import Tracker
store = Path(sys.argv[1])
with Tracker(results_dir=store, warn=sys.exit, store=store) as tracker:
    tracker.start("compare", "main")
"""


def test_processes_that_start_together_make_one_database(tmp_path: Path):
    command = [sys.executable, "-c", TOGETHER, str(tmp_path / "runs")]
    started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in started] == [""] * 3
    stored = client(tmp_path / "runs")
    experiment = stored.get_experiment_by_name("compare")
    assert [run.info.status for run in stored.search_runs([experiment.experiment_id])] == ["FINISHED"] * 3


@pytest.mark.timeout(20)  # MLflow's own retries take four minutes
def test_unreachable_server_costs_one_warning_and_little_time(dead_server: str, store: Path):
    warnings: list[str] = []
    with tracker(store, warnings) as mlflow:
        assert mlflow.start("compare", "main") == ""
        child = mlflow.child("mlp-mnist", "jax", 0)
        mlflow.log_steps(child, [(1, {"loss": 1.0})])
        mlflow.flush()
        mlflow.finish_child(child, "finished")
        mlflow.finish("finished")
    (warning,) = warnings
    assert "Connection refused" in warning
    assert f"python -m compare.tracking log '{store / 'x'}'" in warning
    assert "secret" not in warning


def test_store_that_fails_midway_costs_one_warning(store: Path, monkeypatch: pytest.MonkeyPatch):
    warnings: list[str] = []

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with tracker(store, warnings) as mlflow:
        mlflow.start("compare", "main")
        child = mlflow.child("mlp-mnist", "jax", 0)
        monkeypatch.setattr(mlflow._client, "log_batch", full)
        mlflow.log_steps(child, [(1, {"loss": 1.0})])
        mlflow.finish_child(child, "finished")
        mlflow.child("mlp-mnist", "torch", 0)
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]


@pytest.mark.timeout(20)  # MLflow's own retries take a hundred seconds
@pytest.mark.parametrize("content", [b"not a database", None])
def test_broken_database_costs_one_warning_and_little_time(tmp_path: Path, content: bytes | None):
    warnings: list[str] = []
    if content is None:
        (tmp_path / "mlflow.db").mkdir()
    else:
        (tmp_path / "mlflow.db").write_bytes(content)
    with tracker(tmp_path, warnings) as mlflow:
        mlflow.start("compare", "main")
    assert len(warnings) == 1


def test_log_command_sends_results_from_disk(results_dir: Path, store: Path):
    parent = log(results_dir, store=store)
    stored = client(store)
    found = children(stored, parent)
    assert [run.data.tags["track"] for run in found] == ["numpy", "jax", "torch"]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert stored.get_run(parent).info.run_name == "comparison"
    assert {it.path for it in stored.list_artifacts(parent)} == {"results.json", "report.md", "environment.json"}
    written = json.loads((results_dir / "results.json").read_text())["runs"]
    for run, own in zip(found, written, strict=True):
        for name in ("test_accuracy", "images_per_second", "peak_rss_mb"):
            assert run.data.metrics[name] == own[name]
    assert found[0].data.metrics["seconds_train"] > 0
    assert [it.step for it in stored.get_metric_history(found[0].info.run_id, "train_loss")] == [43, 86, 100]
    assert len(stored.get_metric_history(found[0].info.run_id, "val_accuracy")) == 10


def test_log_command_keeps_the_status_of_each_run(results_dir: Path, store: Path):
    results = fake_results(presets=("mlp-mnist",), steps=100)
    stop_run(results["runs"][0], "failed", step=40, message="the loss is NaN")
    stop_run(results["runs"][1], "interrupted", step=20)
    stop_run(results["runs"][2], "not started", step=0)
    results["status"] = "interrupted"
    (results_dir / "results.json").write_text(json.dumps(results))
    parent = log(results_dir, store=store)
    found = children(client(store), parent)
    assert [run.info.status for run in found] == ["FAILED", "KILLED"]
    assert client(store).get_run(parent).info.status == "KILLED"


def test_log_command_names_the_error(results_dir: Path, dead_server: str, capsys: pytest.CaptureFixture[str]):
    assert main(["log", str(results_dir)]) == 2
    message = capsys.readouterr().err
    assert "was not logged" in message
    assert "MLFLOW_TRACKING_URI" in message
    assert "secret" not in message
    assert main(["log", str(results_dir / "nowhere")]) == 2
    assert "nowhere cannot be read" in capsys.readouterr().err


def test_chunk_losses_are_means_without_missing_values():
    run = {"step_loss": [1.0, 3.0, 2.0, None, 5.0], "chunk": 2, "history": [{"step": 5, "lr": 1, "val_accuracy": 0.5}]}
    assert trajectory(run) == [
        (2, {"train_loss": 2.0}),
        (4, {"train_loss": None}),
        (5, {"train_loss": 5.0}),
        (5, {"lr": 1, "val_accuracy": 0.5}),
    ]
    assert final_metrics({**not_measured()})["test_accuracy"] is None


def test_no_mlflow_creates_no_files(tmp_path: Path):
    with Tracker(results_dir=tmp_path / "x", warn=pytest.fail, store=tmp_path, enabled=False) as mlflow:
        mlflow.start("compare", "main")
        mlflow.log_steps(mlflow.child("mlp-mnist", "jax", 0), [(1, {"loss": 1.0})])
    assert list(tmp_path.iterdir()) == []

"""MLflow's store: runs that are continued, a database that is broken, and the page on it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fake_results import fake_results
from support.paths import ROOT

from compare.tracking import Tracker, commands
from compare.tracking import store as stores
from compare.tracking.__main__ import main
from compare.tracking.store import client as client_of


@pytest.fixture
def results_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "comparison"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(fake_results(presets=("mlp-mnist",), steps=100)))
    return folder


# --- runs that are continued ------------------------------------------------------------------------------------------


def run_until(store: Path, last: int, error: type[BaseException] | None) -> tuple[str, str]:
    """A comparison that logs its steps from the first on, as one that is resumed does, and ends with an error."""
    names: list[str] = []

    def compare() -> None:
        with Tracker(results_dir=store, warn=pytest.fail, store=store) as tracker:
            names.append(tracker.start("compare", "main", key="k"))
            names.append(tracker.child("mlp-mnist", "jax", 0, params={"lr": 0.1}))
            tracker.log_steps(names[1], [(step, {"train_loss": 1 / step}) for step in range(1, last + 1)])
            tracker.flush()
            if error:
                raise error
            tracker.finish_child(names[1], "finished")

    if error:
        with pytest.raises(error):
            compare()
    else:
        compare()
    return names[0], names[1]


def test_a_resumed_comparison_continues_its_runs_and_repeats_no_step(store: Path):
    first = run_until(store, 3, KeyboardInterrupt)
    client = client_of(f"sqlite:///{store / 'mlflow.db'}")
    assert [client.get_run(run).info.status for run in first] == ["KILLED", "KILLED"]
    assert run_until(store, 5, None) == first
    assert [client.get_run(run).info.status for run in first] == ["FINISHED", "FINISHED"]
    assert [it.step for it in client.get_metric_history(first[1], "train_loss")] == [1, 2, 3, 4, 5]
    assert len(client.search_runs([client.get_run(first[0]).info.experiment_id])) == 2


def test_log_completes_what_a_broken_connection_has_cut(results_dir: Path, store: Path, monkeypatch):
    results = json.loads((results_dir / "results.json").read_text())
    (run, *_) = results["runs"]
    with Tracker(results_dir=results_dir, warn=lambda text: None, store=store) as tracker:
        parent = commands.start(tracker, results, "main")
        child = tracker.child(run["preset"], run["track"], run["seed"])
        tracker.log_steps(child, [(43, {"train_loss": 1.0})])
        tracker.flush()
        tracker.error = OSError("the connection is broken")  # nothing is logged from here on
    assert commands.log(results_dir, store=store) == parent
    client = client_of(f"sqlite:///{store / 'mlflow.db'}")
    assert [it.step for it in client.get_metric_history(child, "train_loss")] == [43, 86, 100]
    runs = client.search_runs([client.get_run(parent).info.experiment_id])
    assert {it.info.status for it in runs} == {"FINISHED"}
    assert len(runs) == 4


# --- a database that is broken ----------------------------------------------------------------------------------------


def break_(database: Path, how: str) -> None:
    if how == "folder":
        database.unlink()
        database.mkdir()
    elif how == "text":
        database.write_bytes(b"not a database")
    elif how == "torn":
        content = bytearray(database.read_bytes())
        content[100:8192] = b"\xff" * (8192 - 100)
        database.write_bytes(content)
    elif how == "empty tables":
        with sqlite3.connect(database) as opened:
            opened.execute("ALTER TABLE experiments DROP COLUMN artifact_location")
        opened.close()


@pytest.mark.parametrize("how", ["folder", "text", "torn", "empty tables"])
def test_the_remedy_for_a_broken_database_works(how, results_dir: Path, store: Path, monkeypatch, capsys):
    runs = store.rename(store.parent / "runs")
    monkeypatch.chdir(runs.parent)
    break_(runs / "mlflow.db", how)
    assert main(["log", str(results_dir)]) == 2
    error = capsys.readouterr().err.strip()
    assert "The next command makes a new one if you move it away: " in error
    command = error.rpartition(": ")[2]
    assert shlex.split(command)[0] == "mv"
    subprocess.run(command, shell=True, check=True)
    again = [sys.executable, "-m", "compare.tracking", "log", str(results_dir)]
    subprocess.run(again, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    assert (runs / "mlflow.db.broken").exists()


def test_an_older_database_is_migrated_by_its_remedy(store: Path, results_dir: Path):
    file = store / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as database:
        head = database.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    uri = f"sqlite:///{file}"
    problem = RuntimeError(f"Detected out-of-date database schema (found version {head}, but expected 0)")
    text, command = stores.remedy(uri, problem).split(": ", 1)
    assert text == "An older MLflow wrote it. Back it up and migrate it"
    words = shlex.split(command)
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True, capture_output=True)
    assert commands.log(results_dir, store=store)


def test_a_newer_database_needs_a_newer_mlflow(store: Path, results_dir: Path, monkeypatch):
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    database.close()
    warnings: list[str] = []
    with Tracker(results_dir=results_dir, warn=warnings.append, store=store) as tracker:
        tracker.start("compare", "main")
    assert re.search("A newer MLflow wrote it. Update this one: python -m pip install --upgrade mlflow", warnings[0])


def test_no_remedy_is_invented_for_other_errors(store: Path):
    uri = f"sqlite:///{store / 'mlflow.db'}"
    assert stores.remedy(uri, OSError(28, "No space left on device")) == ""
    assert "unset MLFLOW_TRACKING_URI" in stores.remedy("http://me:secret@host", OSError("refused"))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_served_on_the_store_with_the_address_of_the_runs(store: Path, monkeypatch, capsys):
    monkeypatch.chdir(store.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")
    started: list[Any] = []
    monkeypatch.setattr(commands.os, "execv", lambda program, words: started.append((words, dict(commands.os.environ))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["ui", "--port", str(port)]) == 0
    ((words, environment),) = started
    number = client_of(f"sqlite:///{store / 'mlflow.db'}").get_experiment_by_name("compare").experiment_id
    address = f"http://127.0.0.1:{port}/#/experiments/{number}/runs?workflowType=machine_learning"
    assert capsys.readouterr().out.startswith(address)
    assert words[1:4] == ["-m", "mlflow", "server"]
    assert words[words.index("--port") + 1] == str(port)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{store / 'mlflow.db'}"
    assert not [word for word in words if "sqlite" in word]


def test_the_page_of_a_server_is_named_without_its_password(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.example/base/")
    monkeypatch.setattr(stores, "opened", lambda uri, experiment: (None, "7"))
    assert main(["ui"]) == 0
    printed = capsys.readouterr().out
    assert printed == "https://tracking.example/base/#/experiments/7/runs?workflowType=machine_learning\n"


def test_a_port_in_use_is_named(store: Path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 2
    assert f"port {port} is in use" in capsys.readouterr().err


def test_a_server_that_is_down_is_named(dead_server: str, capsys):
    assert main(["ui"]) == 2
    error = capsys.readouterr().err
    assert "MLflow's page cannot be opened" in error
    assert "secret" not in error

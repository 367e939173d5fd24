"""The command line, end to end: what a stranger types, what they read, what is on disk afterwards."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT

from compare import machine, run_all
from compare.errors import UserError
from compare.experiment import plan
from compare.machine import disturbance
from compare.progress import Progress
from compare.results import typed_json
from compare.results.schema import Results
from compare.weights import energy


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """What starts in here leaves the other core to the test beside this one: pools crawl that spin for a busy core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)


def run(*arguments: object, store: Path) -> tuple[int, str]:
    """The program as a user starts it, XLA optimising: exit status and everything printed."""
    with one_core():
        done = subprocess.run(
            [sys.executable, "compare/run_all.py", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db", "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
    return done.returncode, done.stdout


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The same in this process, which has loaded everything already; only the trainers have processes of their own."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(machine, "matmul_gflops", lambda *, threads: [100.0])
    monkeypatch.setattr(disturbance, "is_quiet", lambda: True)
    note = Progress.note

    def run_here(*arguments: object, uri: str = "", at: str = "", then: Callable[[], Any] = int) -> tuple[int, str]:
        """Exit status and everything printed; does something the first time that a line with these words is."""
        waiting = [then] if at else []

        def noted(self: Progress, text: str) -> None:
            note(self, text)
            if waiting and at in text:
                waiting.pop()()

        monkeypatch.setattr(Progress, "note", noted)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with one_core():
            code = run_all.main([str(each) for each in arguments])
        assert not waiting, f"nothing printed has {at!r} in it"
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run_here


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A small comparison of all tracks, once for several tests."""
    store, out = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("out") / "new"
    code, printed = run(
        "mlp-mnist",
        "--steps",
        20,
        "--batch-size",
        64,
        "--lr",
        0.1,
        "--seeds",
        4,
        "--wait",
        "0s",
        "--out",
        out,
        store=store,
    )
    assert code == 0, printed
    return json.loads((out / "results.json").read_text()), printed, out, store


def test_results_follow_the_schema(compared):
    results, *_ = compared
    assert typed_json.problems(results, Results) == []
    assert (results["schema"], results["kind"], results["status"]) == (2, "comparison", "finished")
    assert results["environment"]["load"]["after"] is not None
    assert [entry["track"] for entry in results["runs"]] == ["numpy", "jax", "torch"]
    for entry in results["runs"]:
        unknown = {name for name, value in entry.items() if value is None}
        assert unknown - {"disturbed"} == {"message", "best_step", "peak_device_mb"}
        assert (entry["status"], entry["seed"], entry["steps"], entry["batch_size"]) == ("finished", 4, 20, 64)
        assert (entry["test_count"], entry["val_count"]) == (10_000, 5_000)
        assert entry["parameters"] == 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
        assert entry["history"][-1]["test_accuracy"] == entry["test_accuracy"]
        assert len(entry["step_loss"]) == 20
        assert np.trace(entry["error_analysis"]["confusion"]) == round(10_000 * entry["test_accuracy"])
        parts = sum(value for name, value in entry["seconds"].items() if name != "total")
        assert entry["seconds"]["total"] == pytest.approx(parts)


def test_tracks_pass_the_parity_check_and_do_not_drift(compared):
    results, *_ = compared
    assert {(row["precision"], row["a"], row["b"]) for row in results["parity"]} == {
        (precision, *pair)
        for precision in ("float64", "float32")
        for pair in (("numpy", "jax"), ("numpy", "torch"), ("jax", "torch"))
    }
    assert all(row["passed"] for row in results["parity"])
    assert len(results["drift"]) == 3
    assert all(row["max_loss_gap"] < 1e-4 for row in results["drift"])  # 20 steps; observed: 2e-6
    accuracies = [entry["test_accuracy"] for entry in results["runs"]]
    assert max(accuracies) - min(accuracies) < 0.002
    assert min(accuracies) > 0.5


def test_written_files_are_named_and_exist(compared):
    _, printed, out, _ = compared
    for name in ("results.json", "report.html", "report.md", "curves.png"):
        assert str(out / name) in printed
        assert (out / name).stat().st_size > 1000
    assert "mlp-mnist jax seed 4: test accuracy" in printed


def test_checkpoints_hold_the_trained_network(compared):
    from compare.checkpoint import store
    from compare.data import load
    from numpy_nn import train

    results, _, out, _ = compared
    entry = results["runs"][1]
    snapshot, meta = store.restore((out / entry["checkpoint"]).parent)
    assert (meta["track"], meta["step"], int(snapshot["step"])) == ("jax", 20, 20)
    data = load("mnist", seed=4)
    schedule: dict[str, Any] = {"schedule": "one_cycle", "schedule_args": {"lr": 0.1, "steps": 20}}
    state = train.init_state(snapshot, model="mlp", optimizer="nesterov", **schedule, mean=data.mean, std=data.std)
    right = train.eval_batch(state, data.test_x, data.test_y)["correct"]
    assert right / 10_000 == pytest.approx(entry["test_accuracy"], abs=2e-4)
    scores = energy.score(train.logits(state, data.val_x[:1000]))
    lowest = pytest.approx(np.quantile(scores, 0.01), abs=1e-4)
    assert meta["energy_threshold"] == {"score": lowest, "share": 0.01, "images": 1000}


def test_mlflow_has_one_parent_with_a_child_per_run(compared):
    from mlflow import MlflowClient

    results, _, _, store = compared
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    everything = mlflow_runs(client)
    parent = next(each for each in everything if each.info.run_name == "new")
    children = [each for each in everything if each.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    runs = [parent, *children]
    assert {child.data.params["track"] for child in children} == {"numpy", "jax", "torch"}
    assert {each.info.status for each in runs} == {"FINISHED"}
    assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id)} >= {
        "results.json",
        "curves.png",
        "environment.json",
    }
    for child in children:
        entry = next(each for each in results["runs"] if each["track"] == child.data.params["track"])
        assert child.data.metrics["test_accuracy"] == pytest.approx(entry["test_accuracy"])


def test_existing_comparison_is_not_overwritten(compared, run_here):
    *_, out, _ = compared
    before = (out / "results.json").read_bytes()
    code, printed = run_here("mlp-mnist", "--steps", 1, "--out", out)
    assert code == 2
    assert "holds results already (results.json)" in printed
    assert (out / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "inf"], "invalid epochs 'inf': expected a number above 0 and at most 10,000"),
        (["--epochs", "1e300"], "invalid epochs '1e300'"),
        (["--epochs", "1e9"], "invalid epochs '1e9'"),
        (["--epochs", "nan"], "invalid epochs 'nan'"),
        (["--steps", str(10**18)], f"invalid steps '{10**18}': expected a whole number from 1 to 100,000,000"),
        (["--seeds", "-1"], "expected a whole number from 0 to 4,294,967,295"),
        (["--device", "x"], "argument --device: invalid device 'x': expected auto, cpu, gpu or gpu:N"),
        (["--augment", "flop"], "unknown augmentation 'flop'"),
        (["mnist"], "unknown preset 'mnist'. Did you mean mlp-mnist, cnn-mnist or rnn-mnist? Known:"),
        (["resnet"], "unknown preset 'resnet'. Did you mean resnet20-cifar10?"),
        (["mlp-minst"], "unknown preset 'mlp-minst'. Did you mean mlp-mnist? Known: mlp-mnist, cnn-mnist"),
        (["--tracks", "tensorflow"], "argument --tracks: unknown track 'tensorflow'. Known: numpy, jax, torch"),
        (["--epoch5"], "unrecognized arguments: --epoch5"),
        (
            ["--batch-size", "0"],
            "argument --batch-size: invalid batch_size '0': expected a whole number from 1",
        ),
        (["--lr", "nan"], "invalid lr 'nan': expected a number above 0"),
        (["--lr", "fast"], "invalid lr 'fast': expected a number above 0"),
        (["--epochs", "1", "--steps", "1"], "not allowed with argument"),
        (
            ["--out", "pyproject.toml/folder"],
            "pyproject.toml/folder (Not a directory); choose another folder",
        ),
        (
            ["--save-every", "soon"],
            "invalid interval 'soon': expected a number of steps, like 500, or",
        ),
        (["--resume", "nowhere"], "nowhere cannot be read (No such file or directory): give a results.json"),
        (["--resume", "nowhere", "--epochs", "1"], "--resume takes no other flag"),
        (["--resume-from", "nowhere"], "nowhere: give the folder of a run or of one of its steps"),
        (["mlp-mnist", "cnn-mnist", "--resume-from", "nowhere"], "starts one training: name one preset"),
    ],
)
def test_invalid_arguments_are_refused_at_once(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="2"):  # argparse exits, the command returns
        raise SystemExit(run_all.main(arguments))
    assert message in capsys.readouterr().err


def test_folder_without_locks_is_named(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    arguments = ["mlp-mnist", "--tracks", "numpy", "--steps", "2", "--skip-parity", "--no-mlflow"]
    assert run_all.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert "run cannot be locked (No locks available): choose a local folder with --out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_lock_that_belongs_to_another_user_is_named(tmp_path):
    (tmp_path / "lock").mkdir()  # cannot be opened, by root either
    message = r"cannot write to .*lock \(.*\): choose another folder, or work as the user"
    with pytest.raises(UserError, match=message), plan.locked(tmp_path):
        pass
    assert (tmp_path / "lock").exists()


def test_diverged_run_does_not_stop_the_others(tmp_path, run_here):
    out = tmp_path / "out"
    code, printed = run_here(
        *("mlp-mnist", "--tracks", "numpy", "torch", "--steps", 10, "--lr", 1e8, "--skip-parity", "--out", out),
        uri=f"http://127.0.0.1:{closed_port()}",  # and MLflow's server is down
    )
    assert code == 1, printed
    results = json.loads((out / "results.json").read_text())
    assert [entry["status"] for entry in results["runs"]] == ["failed", "failed"]
    for entry in results["runs"]:
        message = rf"mlp-mnist {entry['track']}: the loss became (nan|inf) at step \d; try a lower learning rate"
        assert re.match(message, entry["message"]), entry["message"]
    assert printed.count("MLflow tracking is off") == 1
    assert "python -m compare.tracking log" in printed
    assert (out / "report.md").exists()


def test_disturbed_run_is_marked_and_the_wait_for_a_quiet_machine_ends(tmp_path, run_here, monkeypatch):
    speeds = itertools.cycle([100.0, 40.0])
    monkeypatch.setattr(machine, "matmul_gflops", lambda *, threads: [next(speeds)])
    monkeypatch.setattr(disturbance, "is_quiet", lambda: False)
    code, printed = run_here(
        *("mlp-mnist", "--tracks", "numpy", "--steps", 5, "--batch-size", 64, "--wait", "0.01s"),
        "--out",
        tmp_path / "out",
    )
    assert code == 0, printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (entry,) = results["runs"]
    assert entry["disturbance"]["matmul_swing"] == 2.5
    assert "changed by a factor of 2.5" in entry["disturbed"]
    busy, marked = results["environment"]["disturbed"]
    assert busy == "other programs kept the machine busy for 0.01 s before the first run"
    assert marked == f"mlp-mnist numpy seed 0: {entry['disturbed']}"
    assert f"⚠ {marked.partition(':')[0]} was disturbed and is not ranked" in printed


def test_non_finite_weights_after_the_last_update_fail_the_run(tmp_path, run_here):
    flags = ("--tracks", "numpy", "--steps", 1, "--lr", 1e38, "--skip-parity", "--no-mlflow", "--out", tmp_path / "out")
    code, printed = run_here("mlp-mnist", *flags)
    assert code == 1, printed
    (entry,) = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert re.match(r"mlp-mnist numpy: the loss became (nan|inf) at step 1; try a lower", entry["message"])


def test_batch_larger_than_the_dataset_is_refused(tmp_path, run_here):
    flags = ("--tracks", "numpy", "--skip-parity", "--no-mlflow", "--out", tmp_path / "out")
    code, printed = run_here("mlp-mnist", "--batch-size", 60_000, *flags)
    assert code == 2
    assert re.search(r"60,?000.*55,?000|55,?000.*60,?000", printed), printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_interrupted_comparison_keeps_its_results(number, status, compared, tmp_path, run_here):
    from mlflow import MlflowClient

    *_, store = compared
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    before = {each.info.run_id for each in mlflow_runs(client)}
    out = tmp_path / "out"
    flags = ("--tracks", "numpy", "torch", "--epochs", 50, "--skip-parity", "--out", out)
    code, printed = run_here(
        *("mlp-mnist", *flags),
        uri=f"sqlite:///{store}/mlflow.db",
        at="accuracy",
        then=lambda: os.kill(os.getpid(), number),
    )
    assert code == status, printed
    results = json.loads((out / "results.json").read_text())
    assert results["status"] == "interrupted"
    assert [entry["status"] for entry in results["runs"]] == ["interrupted", "not started"]
    first = results["runs"][0]
    assert len(first["step_loss"]) == first["steps"] > 0
    assert (out / first["checkpoint"]).is_dir()
    assert (out / "report.md").exists()
    assert not workers_left(out)
    assert {each.info.status for each in mlflow_runs(client) if each.info.run_id not in before} == {"KILLED"}


def test_killed_worker_is_reported_and_resume_completes(tmp_path, run_here):
    out = tmp_path / "out"

    def kill() -> None:
        for pid in workers_left(out):
            os.kill(pid, signal.SIGKILL)

    flags = (
        "--tracks",
        "numpy",
        "--seeds",
        0,
        1,
        "--steps",
        40,
        "--lr",
        0.1,
        "--skip-parity",
        "--no-mlflow",
        "--out",
        out,
    )
    code, printed = run_here("mlp-mnist", *flags, at="numpy seed 0: 40 steps", then=kill)
    assert code == 1, printed
    killed, other = json.loads((out / "results.json").read_text())["runs"]
    assert (killed["status"], other["status"]) == ("failed", "finished")
    assert "was killed by SIGKILL (out of memory?)" in printed
    assert f"Resume with: python -m compare.run_all --resume {out}" in printed

    code, printed = run_here("--resume", out)
    assert code == 0, printed
    assert "numpy seed 1: " not in printed  # it was finished, and is not trained again
    mended, same = json.loads((out / "results.json").read_text())["runs"]
    assert (mended["status"], mended["steps"], len(mended["step_loss"])) == ("finished", 40, 40)
    assert same == other

    store = out / mended["checkpoint"]
    wrong = ("cnn-mnist", "--seeds", 3, "--resume-from", store, "--out", tmp_path / "new")
    code, printed = run_here(*wrong)
    assert code == 2
    for part in ("model is 'mlp', not 'cnn'", "batch_size is 512, not 64", "seed is 0, not 3"):
        assert part in printed
    longer = ("--tracks", "numpy", "--steps", 60, "--resume-from", store, "--skip-parity", "--no-mlflow")
    code, printed = run_here(*longer, "--out", tmp_path / "new")
    assert code == 0, printed
    (entry,) = json.loads((tmp_path / "new" / "results.json").read_text())["runs"]
    assert (entry["steps"], len(entry["step_loss"]), entry["resumed"][0]["step"]) == (60, 60, 40)
    assert entry["step_loss"][:40] == mended["step_loss"]


def test_losses_agree_in_every_track(compared):
    losses = np.array([entry["step_loss"] for entry in compared[0]["runs"]])
    assert (losses[:, -1] < losses[:, 0] / 2).all()
    np.testing.assert_allclose(losses[1:], np.broadcast_to(losses[0], losses[1:].shape), rtol=1e-4)  # observed: 3e-6


def mlflow_runs(client: Any) -> list[Any]:
    """Every run that the store has."""
    return client.search_runs([client.get_experiment_by_name("compare").experiment_id])


def closed_port() -> int:
    """A port on loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def workers_left(out: Path) -> list[int]:
    """Processes that still write the logs of this comparison."""
    time.sleep(0.2)
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(out / "logs") in os.readlink(link) for link in folder.iterdir()):
                found.append(int(folder.parent.name))
        except OSError:
            continue
    return found

"""A search: what one may type, what ranks the trials, and that nothing is lost when processes come and go."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_worker import FakeWorker
from support.paths import ROOT

from compare import overrides, presets, run_all
from compare.errors import UserError
from compare.search import __main__ as search
from compare.search import report, results, study, trials
from compare.workers import process

pytestmark = pytest.mark.long

MLP = presets.get("mlp-mnist")


# --- what one may type ------------------------------------------------------------------------------------------------


def test_space_parses_ranges_and_choices():
    texts = ["lr=1e-3:1:log", "ema=0.9:0.99", "batch_size=32:128", "accumulate=1,2", "optimizer=sgd,adamw"]
    fields = overrides.parse([*texts, "model_args.hidden=[256],[512,512]", "precision=float64"])
    assert fields["lr"] == overrides.Range("lr", 1e-3, 1, log=True)
    assert fields["ema"] == overrides.Range("ema", 0.9, 0.99)
    assert fields["accumulate"] == overrides.Choice("accumulate", (1, 2))
    assert fields["optimizer"].values == ("sgd", "adamw")
    assert fields["model_args.hidden"].labels == {"[256]": [256], "[512, 512]": [512, 512]}
    overrides.require_known(fields, MLP)
    whole = study.library().trial.FixedTrial({"batch_size": 64, "lr": 0.5, "model_args.hidden": "[256]"})
    assert [fields[name].suggested(whole) for name in ("batch_size", "lr", "model_args.hidden")] == [64, 0.5, [256]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "invalid setting 'lr': expected NAME=VALUES, like lr=1e-3:1:log"),
        ("lr=", "invalid setting 'lr='"),
        ("lr=1e-3:1:lug", "invalid range lr=1e-3:1:lug: expected LOW:HIGH or LOW:HIGH:log"),
        ("lr=0.1:log", "invalid range lr=0.1:log"),
        ("lr=0.1:nan", "invalid range lr=0.1:nan"),
        ("lr=1:0.1", "lr=1:0.1: 1 is not below 0.1"),
        ("lr=0:1:log", "a logarithmic range must be above 0"),
        ("model_args.hidden=[64", "put lists in [brackets]"),
        ("optimizer=sgd,,adam", "separate values by commas"),
        ("learning_rate=0.1,1", "unknown field 'learning_rate'. Known: augment, batch_size"),
        ("seed=0,1", "unknown field 'seed'"),
        ("optimizer_args.weight.decay=0,1", "unknown field 'optimizer_args.weight.decay'"),
        ("model_args.width=1,2", "unknown argument 'width' of mlp. Known: "),
        (
            "optimizer_args.weight_dekay=0:1",
            "unknown argument 'weight_dekay' of nesterov. Did you mean weight_decay? Known: weight_decay, clip_norm",
        ),
        ("optimizer=nesterov,adam optimizer_args.beta1=0:1", "unknown argument 'beta1' of nesterov. Known: "),
        ("schedule_args.warm_up=0:1", "unknown argument 'warm_up' of one_cycle. Did you mean warmup?"),
        ("loss_args.smoothing=0:1", "unknown argument 'smoothing' of cross_entropy. Did you mean label_smoothing?"),
        ("optimizer=adamm", "unknown optimizer 'adamm'. Did you mean adam? Known: sgd, momentum"),
        ("batch_size=0.5:2", "invalid batch_size 0.5: expected a whole number from 1 to 1,000,000"),
        ("lr=high,low", "invalid lr 'high': expected a number above 0"),
    ],
)
def test_invalid_space_is_named(text, message):
    with pytest.raises(UserError) as error:
        overrides.require_known(overrides.parse(text.split()), MLP)
    assert message in str(error.value)


def test_nested_arguments_may_be_searched():
    texts = "optimizer=nesterov,momentum optimizer_args.decay=0.8:0.99 loss=huber loss_args.delta=0.1,1".split()
    overrides.require_known(overrides.parse([*texts, "schedule=one_cycle", "schedule_args.div=10,25"]), MLP)


def test_set_flag_overrides_config_fields():
    options = ["mlp-mnist", "--set", "lr=0.5", "optimizer=adamw", "model_args.hidden=[8,8]", 'augment=["flip"]']
    (config,) = run_all.configs(run_all.parser().parse_args([*options, "optimizer_args.weight_decay=0.1"]))
    assert (config.lr, config.optimizer, config.augment) == (0.5, "adamw", ("flip",))
    assert (config.model_args, config.optimizer_args) == ({"hidden": (8, 8)}, {"weight_decay": 0.1})
    with pytest.raises(UserError, match="lr takes one value, not 2"):
        run_all.configs(run_all.parser().parse_args(["mlp-mnist", "--set", "lr=0.5,1"]))


# --- searches, with trainings that take no time -----------------------------------------------------------------------


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A search as it is typed, with fake trainings; returns search.json."""
    monkeypatch.setattr(trials.process, "trainer", lambda job, log: FakeWorker(job, log))

    def run(*arguments: str, status: int = 0, mlflow: bool = False) -> dict[str, Any]:
        logged = [] if mlflow else ["--no-mlflow"]
        out = tmp_path / "out"
        assert search.main(["mlp-mnist", *arguments, "--track", "numpy", "--out", str(out), *logged]) == status
        return json.loads((out / "search.json").read_text())

    return run


def test_best_validation_accuracy_wins(searched, tmp_path, capsys):
    found = searched("--trials", "8", "--space", "lr=1e-2:1:log", "--pruner", "none")
    accuracies = [trial["val_accuracy"] for trial in found["trials"]]
    assert (found["kind"], found["schema"], len(accuracies)) == ("search", 2, 8)
    assert accuracies[found["best"]] == max(accuracies)
    best = found["trials"][found["best"]]
    assert best["evaluations"] == pytest.approx(
        [best["val_accuracy"] - 0.02, best["val_accuracy"] - 0.01, best["val_accuracy"]]
    )
    assert found["importance"] == {"lr": 1.0}
    assert "test" not in json.dumps(found["trials"])
    printed = capsys.readouterr().out
    assert found["winner"] in printed
    assert f"--seeds 1 2 3 --set lr={best['params']['lr']}" in found["winner"]
    for name in ("history.png", "importance.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out" / "checkpoints").iterdir())


def test_figures_of_a_search_are_printed_as_json(searched, tmp_path, capsys):
    found = searched("--trials", "3", "--space", "lr=1e-2:1:log", "--json")
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "out"), **found}


def test_search_json_is_read_in_both_schemas_and_its_report_drawn_again(searched, tmp_path, capsys):
    found = searched("--trials", "3", "--space", "lr=1e-2:1:log", "--pruner", "none")
    assert results.read(tmp_path / "out") == found
    (tmp_path / "out" / "history.png").unlink()
    capsys.readouterr()
    report.again(tmp_path / "out")
    assert "3 trials: 3 finished" in capsys.readouterr().out
    assert (tmp_path / "out" / "history.png").exists()
    names = {"val_accuracy": "accuracy", "val_accuracies": "accuracies"}
    old = {name: value for name, value in found.items() if name not in ("kind", "settings")}
    old |= {"schema": 1, "asked": found["settings"]}
    old["trials"] = [
        {names.get(name, name): value for name, value in trial.items()} | {"state": "complete"}
        for trial in found["trials"]
    ]
    (tmp_path / "search.json").write_text(json.dumps(old))
    assert results.read(tmp_path) == found | {"asked": found["settings"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"schema": 2, "kind": "benchmark"}', "is not of the kind 'search'"),
        ('{"schema": 9, "kind": "search"}', "has schema 9"),
        ('{"schema": 2, "kind": "search"}', "lacks best, created"),
    ],
)
def test_a_file_that_is_no_search_is_refused(content, message, tmp_path):
    (tmp_path / "search.json").write_text(content)
    with pytest.raises(UserError, match=message):
        results.read(tmp_path)


def test_grid_runs_once_and_ranks_by_the_mean_over_seeds(searched):
    grid = ("--grid", "--seeds", "0", "10", "--space", "lr=0.1,0.2", "optimizer=sgd,adamw", "--pruner", "none")
    found = searched(*grid)
    assert len({json.dumps(trial["params"]) for trial in found["trials"]}) == len(found["trials"]) == 4
    best = found["trials"][found["best"]]
    assert best["params"]["lr"] == 0.1
    assert best["val_accuracy"] == pytest.approx(0.935)
    assert best["val_accuracies"] == pytest.approx([0.93, 0.94])


def test_trials_below_the_median_are_pruned_and_divergence_does_not_end_the_search(searched):
    rates = "lr=0.10,0.11,0.12,0.13,0.14,0.8,0.9,1000,0.0001"
    found = searched("--grid", "--space", rates)
    by_rate = {trial["params"]["lr"]: trial for trial in found["trials"]}
    assert len(by_rate) == 9
    assert by_rate[0.0001]["state"] == "failed"
    assert by_rate[1000]["state"] == "pruned"
    behind = [trial for trial in found["trials"] if "below the median" in (trial["message"] or "")]
    assert behind
    assert {trial["params"]["lr"] for trial in behind} <= {0.8, 0.9, 1000, 0.14, 0.13, 0.12}
    assert all(len(trial["evaluations"]) < 3 for trial in behind)
    assert found["trials"][found["best"]]["state"] == "finished"


def test_several_presets_become_a_choice(searched):
    found = searched("cnn-mnist", "--grid", "--pruner", "none")
    assert [trial["params"] for trial in found["trials"]] == [{"preset": trial["preset"]} for trial in found["trials"]]
    assert {trial["preset"] for trial in found["trials"]} == {"mlp-mnist", "cnn-mnist"}
    assert found["winner"].startswith("python -m compare.run_all")


def test_resumed_search_continues_to_its_total(searched, tmp_path, capsys):
    few = ("--pruner", "none", "--space", "lr=0.01:1:log")
    first = searched("--trials", "2", *few)
    more = searched("--trials", "5", *few)
    assert len(more["trials"]) == 5
    assert more["trials"][:2] == first["trials"]
    out = ["--out", str(tmp_path / "out"), "--no-mlflow"]
    assert search.main(["mlp-mnist", "--track", "jax", *out, *few]) == 2
    assert "holds another search: its track is 'numpy', not 'jax'; choose another folder" in capsys.readouterr().err


def test_ctrl_c_keeps_finished_trials(searched, monkeypatch):
    few = ("--pruner", "none", "--space", "lr=0.01:1:log", "--trials", "3")
    whole, calls = FakeWorker.events, []

    def interrupted(self: FakeWorker) -> Iterator[dict[str, Any]]:
        calls.append(self.job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        yield from whole(self)

    monkeypatch.setattr(FakeWorker, "events", interrupted)
    assert len(searched(*few, status=130)["trials"]) == 1
    assert len(searched(*few)["trials"]) == 3
    assert calls[2].config == calls[1].config  # begun by the first, ended by the second
    assert calls[2].folder == calls[1].folder
    assert len(calls) == 4


def test_each_trial_is_an_mlflow_child_of_one_parent(searched, tmp_path, monkeypatch):
    from compare.tracking import store

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    for number in ("1", "3"):
        searched("--trials", number, "--space", "lr=0.01:1:log", "--pruner", "none", mlflow=True)
    client = store.client(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("search").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == [f"trial {n} seed 0" for n in range(3)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not [name for run in runs for name in run.data.metrics if "test" in name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to search: name what varies"),
        (["--grid", "--space", "lr=0.1:1"], "a grid needs values, and lr is a range"),
        (
            ["--space", "lr=0.1,1", "--storage", "sqlite:////nowhere/study.db"],
            "no study can be opened at sqlite:////now",
        ),
        (["--space", "momentum=0.9,0.99"], "unknown field 'momentum'. Known: "),
    ],
)
def test_invalid_arguments_have_a_clear_error(arguments, message, tmp_path, capsys):
    assert search.main(["mlp-mnist", "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_folder_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"No locks available\); choose a local folder with --out"):
        study.opened(f"sqlite:///{tmp_path}/study.db", tmp_path, {})


def test_missing_optuna_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert search.main(["mlp-mnist", "--out", str(tmp_path), "--space", "lr=0.1,1"]) == 2
    assert "a search needs optuna: pip install 'nn-three-ways[search]'" in capsys.readouterr().err


# --- several processes ------------------------------------------------------------------------------------------------

FAKE = """
import sys, time
sys.path[:0] = ["tests"]
from support.fake_worker import FakeWorker
from compare.search import trials
from compare.search.__main__ import main
events = FakeWorker.events
def slow(self):
    yield from events(self)
    print("trained", flush=True)
    time.sleep(float(sys.argv[1]))
FakeWorker.events = slow
trials.process.trainer = lambda job, log: FakeWorker(job, log)
sys.exit(main(sys.argv[2:]))
"""


def start(out: Path, *arguments: str, seconds: float) -> subprocess.Popen[str]:
    """The same in a process of its own; each training takes so long."""
    command = [sys.executable, "-c", FAKE, str(seconds), "mlp-mnist", "--track", "numpy", "--out", str(out)]
    return subprocess.Popen(
        [*command, "--no-mlflow", "--pruner", "none", "--space", "lr=0.01:1:log", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_processes_share_a_search_and_repeat_a_killed_trial(searched, tmp_path, monkeypatch):
    out = tmp_path / "out"
    helpers = [start(out, "--trials", "4", seconds=0.2) for _ in range(2)]
    said = [helper.communicate(timeout=200)[0] for helper in helpers]
    assert [helper.returncode for helper in helpers] == [0, 0], said
    assert 4 <= len(json.loads((out / "search.json").read_text())["trials"]) <= 5  # both may have begun the last one
    assert sum(text.count("trained") for text in said) >= 4

    doomed = start(out, "--trials", "8", seconds=1000)
    assert doomed.stdout
    next(line for line in doomed.stdout if line == "trained\n")
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    doomed.stdout.close()
    monkeypatch.setattr(study, "GRACE", 1)
    time.sleep(2)
    found = searched("--trials", "8", "--pruner", "none", "--space", "lr=0.01:1:log")
    assert len(found["trials"]) == 8
    numbers = {trial["number"] for trial in found["trials"]}
    (lost,) = set(range(max(numbers) + 1)) - numbers
    opened = study.opened(f"sqlite:///{out / 'study.db'}", out, found["settings"])
    (again,) = [trial for trial in opened.trials if trial.system_attrs.get("failed_trial") == lost]
    assert (again.state.name, again.params) == ("COMPLETE", opened.trials[lost].params)


def test_process_whose_trial_was_reassigned_takes_the_next(tmp_path):
    fields = overrides.parse(["lr=0.1:1"])
    opened = study.opened(f"sqlite:///{tmp_path / 'study.db'}", tmp_path, {"pruner": "none"})

    def asleep(trial: Any) -> float:
        study.library().storages.RDBStorage.set_trial_state_values(
            opened._storage._backend, trial._trial_id, study.library().trial.TrialState.FAIL
        )
        return trial.suggest_float("lr", 0.1, 1)

    study.next_trial(opened, asleep, fields, grid=False)
    assert study.ended(opened) == []
    study.next_trial(opened, fields["lr"].suggested, fields, grid=False)
    assert len(study.ended(opened)) == 1


# --- for real ---------------------------------------------------------------------------------------------------------


def test_small_search_trains(tmp_path, capsys):
    small = ["--steps", "8", "--trials", "2", "--space", "lr=0.01,0.1", "model_args.hidden=[16]", "batch_size=16:32"]
    assert search.main(["mlp-mnist", "--track", "numpy", "--no-mlflow", "--out", str(tmp_path), *small]) == 0
    found = json.loads((tmp_path / "search.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["finished", "finished"]
    assert all(0.1 < trial["val_accuracy"] < 0.9 for trial in found["trials"])
    assert "2 trials: 2 finished, 0 pruned, 0 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_worker_fails_its_trial(tmp_path, monkeypatch):
    real = process.Worker.events

    def killed(self: process.Worker) -> Iterator[dict[str, Any]]:
        for event in real(self):
            yield event
            if event["event"] == "begin" and "trial-0000" in str(self._log):
                os.kill(self._process.pid, signal.SIGKILL)

    monkeypatch.setattr(process.Worker, "events", killed)
    options = ["--steps", "500", "--trials", "2", "--grid", "--space", "lr=0.01,0.1", "--no-mlflow"]
    assert search.main(["mlp-mnist", "--track", "numpy", "--out", str(tmp_path), *options]) == 0
    rows = json.loads((tmp_path / "search.json").read_text())["trials"]
    assert [trial["state"] for trial in rows] == ["failed", "finished"]
    assert "the worker was killed by SIGKILL" in rows[0]["message"]


def test_winner_names_the_file_of_a_network_the_dataset_and_the_data_folder():
    best: Any = {"preset": "gru", "params": {"lr": 0.1}}
    settings = {"presets": [], "track": "torch", "epochs": None, "steps": 20, "seeds": [0], "dataset": "own.npz"}
    command = results.winner(best, settings, {"network": "/nets/gru.py", "data-dir": "/my data"})
    given = "--tracks torch --network /nets/gru.py --data-dir '/my data' --dataset own.npz --steps=20"
    assert command == f"python -m compare.run_all {given} --seeds 1 2 3 --set lr=0.1"

"""Records: what counts as one, the clock, and the plain scripts that run beside the tracks."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.paths import ROOT

from compare import presets
from compare.data import Data
from compare.errors import UserError
from compare.machine import disturbance
from compare.record import __main__ as record
from compare.record import measure, plain_torch, results
from compare.statistics import p_above
from compare.workers import process

OLD, NEW = "a" * 40, "b" * 40


def invented(rows: dict[tuple[str, str], float], **changes: Any) -> results.Entry:
    """An entry of five seeds around so many seconds, by name and commit; all of them reach the target."""
    made: list[Any] = []
    for (name, commit), seconds in rows.items():
        runs = [
            {"seed": seed, "seconds": seconds + 0.1 * seed, "test_accuracy": 0.991 + 1e-4 * seed, "disturbed": None}
            for seed in range(5)
        ]
        made.append({"name": name, "commit": commit, "runs": runs})
    machine = {"python": "3", "platform": "-", "cpu": "a CPU", "cores": 2, "threads": 2, "versions": {}}
    entry: Any = {
        "schema": 1,
        "kind": "record",
        "created": "2026-01-01",
        "command": "python -m compare.record speedrun-mnist",
        "preset": "speedrun-mnist",
        "config": {},
        "target": 0.99,
        "seeds": 5,
        "against": None,
        "environment": machine | {"git_commit": next(commit for _, commit in rows)},
        "rows": made,
    }
    return entry | changes


def test_p_is_that_of_the_one_sided_t_test() -> None:
    sample = [0.991, 0.990, 0.992, 0.9905]
    t = (np.mean(sample) - 0.99) / (np.std(sample, ddof=1) / 2)
    assert p_above(sample, 0.99) == pytest.approx(stats.t.sf(t, 3))
    assert p_above(sample, 0.9925) > 0.5
    assert (p_above([1.0], 0.5), p_above([1.0, 1.0], 0.5), p_above([0.5, 0.5], 0.5)) == (1.0, 0.0, 1.0)


def test_the_false_alarm_rate_of_the_target_is_one_percent() -> None:
    rng = np.random.default_rng(0)
    alarms = [p_above(sample, 0.99) < 0.01 for sample in rng.normal(0.99, 0.001, (4000, 20))]
    assert np.mean(alarms) == pytest.approx(0.01, abs=0.006)


def test_a_record_must_be_significantly_faster_in_the_same_entry() -> None:
    first = invented({("jax", OLD): 9.0})
    apart = invented({("jax", NEW): 5.0}, created="2026-01-02")
    beside = {("jax", NEW): 5.0, ("jax", OLD): 9.0}
    together = invented(beside, created="2026-01-03")
    slower = invented({("jax", "c" * 40): 4.95, ("jax", NEW): 5.0}, created="2026-01-04")
    found = results.ladder([slower, together, apart, first])
    assert [rung.record for rung in found] == [True, False, True, False, False, False]
    assert [rung.verdict.partition(" (")[0] for rung in found] == [
        "first record",
        "no record: not measured beside the standing record, aaaaaaa",
        "record: 1.77×",
        "measured again, to compare with",
        "no record: no significant difference",
        "measured again, to compare with",
    ]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"test_accuracy": 0.985}, "no record: the target is not reached at p < 0.01"),
        ({"disturbed": "other programs took 50% of the cores"}, "no record: disturbed (other programs took 50%"),
        ({"seeds": 6}, "no record: interrupted after 5 of 6 seeds"),
        ({"commit": f"{OLD}-dirty"}, "no record: uncommitted changes"),
        ({"name": "plain-torch"}, "baseline"),
        ({"cpu": "another"}, "first record"),
    ],
)
def test_what_is_no_record(change: dict[str, Any], verdict: str) -> None:
    entry: Any = invented({("jax", NEW): 5.0, ("jax", OLD): 9.0}, created="2026-01-02")
    for places in (entry, entry["rows"][0], entry["rows"][0]["runs"][2], entry["environment"]):
        places |= {name: value for name, value in change.items() if name in places}
    if "commit" in change:
        entry["environment"]["git_commit"] = change["commit"]
    rung = results.ladder([invented({("jax", OLD): 9.0}), entry])[1]
    assert rung.verdict.startswith(verdict)
    assert rung.record == (verdict == "first record")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seeds": "20"}, r"\.seeds: '20' is no integer"), ({"schema": 2}, r"\.schema: 2 is none of \(1,\)")],
)
def test_an_entry_of_other_types_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "entry.json"
    file.write_text(json.dumps(invented({("jax", OLD): 9.0})))
    assert results.read(file)["target"] == 0.99
    file.write_text(json.dumps(invented({("jax", OLD): 9.0}) | change))
    with pytest.raises(UserError, match=message):
        results.read(file)


def test_rows_take_turns_and_disturbed_runs_are_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def clocked(command: list[str], root: Path, variables: Any) -> tuple[float, float]:
        asked.append((*command, root.name, variables.get("OPENBLAS_NUM_THREADS")))
        return 5.0, 0.99

    asked: list[Any] = []
    reasons = iter(["busy", None, "busy", "busy", *[None] * 9])
    monkeypatch.setattr(measure, "clocked", clocked)
    monkeypatch.setattr(disturbance, "reason", lambda _: next(reasons))
    entry = invented({("numpy", OLD): 1.0, ("plain-torch", OLD): 1.0, ("numpy", NEW): 1.0}, seeds=2)
    for row in entry["rows"]:
        row["runs"] = []
    notes: list[str] = []
    measure.measure(entry, {OLD: tmp_path / "old", NEW: tmp_path / "new"}, notes.append)
    track, script = "compare.record.track", "compare.record.plain_torch"
    one = (track, "speedrun-mnist", "0", "numpy", "old", "1")
    two = (script, "speedrun-mnist", "0", "old", None)
    assert asked[:6] == [one, one, two, two, two, (track, "speedrun-mnist", "0", "numpy", "new", "1")]
    assert [(len(row["runs"]), row["runs"][0]["disturbed"]) for row in entry["rows"]] == [(2, None)] * 3
    assert sum("is repeated" in note for note in notes) == 3


def test_the_clock_ends_with_the_answer_and_a_failure_is_said(tmp_path: Path) -> None:
    (tmp_path / "answers.py").write_text(
        'import time\nprint("noise")\nprint(\'{"test_accuracy": 0.5}\', flush=True)\ntime.sleep(1.5)\n'
    )
    seconds, accuracy = measure.clocked(["answers"], tmp_path, {})
    assert accuracy == 0.5
    assert seconds < 1.5
    (tmp_path / "fails.py").write_text('raise SystemExit("no memory")')
    with pytest.raises(UserError, match="ended without a test accuracy; its last line: no memory"):
        measure.clocked(["fails"], tmp_path, {})


def test_another_commit_is_checked_out_and_removed() -> None:
    commit = measure.git("rev-parse", "HEAD")
    with measure.checkout(commit) as root:
        assert (root / "compare" / "record" / "track.py").exists()
    assert not root.exists()
    assert str(root) not in measure.git("worktree", "list")
    with pytest.raises(UserError, match="invalid reference"), measure.checkout("no-such-commit"):
        pass


def test_the_command_writes_an_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    accuracies = iter([0.9895, 0.99, 0.9905, 0.97, 0.98, 0.985])
    monkeypatch.setattr(measure, "clocked", lambda *_: (2.5, next(accuracies)))
    monkeypatch.setattr(disturbance, "reason", lambda _: None)
    flags = ["mlp-mnist", "--tracks", "numpy", "--seeds", "3", "--out"]
    assert record.main([*flags, str(tmp_path / "one.json")]) == 0
    entry = results.read(tmp_path / "one.json")
    assert (entry["preset"], entry["target"], len(entry["rows"][0]["runs"])) == ("mlp-mnist", 0.983, 3)
    printed = capsys.readouterr().out
    assert "2.50 ± 0.00" in printed
    assert "99.000 ± 0.050 %" in printed
    assert f"{stats.t.sf(np.sqrt(3) * 14, 2):.1g}" in printed
    assert record.main([*flags, str(tmp_path / "two.json"), "--json"]) == 1  # p is not below 0.01
    assert json.loads(capsys.readouterr().out) == results.read(tmp_path / "two.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "ROOT", tmp_path / "site-packages")  # of a wheel: it has no docs
    assert record.file_of(entry).parent == tmp_path


# --- the scripts ------------------------------------------------------------------------------------------------------


def tiny(name: str) -> Data:
    """Few images of MNIST; the test images are training images, which a script that learns will know."""
    from compare.data import load

    data = load("mnist")
    x, y = data.train_x[:800], data.train_y[:800]
    return dataclasses.replace(data, train_x=x, train_y=y, test_x=x[:500], test_y=y[:500])


def test_the_plain_pytorch_script_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_torch, "load", lambda name, **_: tiny(name))
    small = {"channels": (4, 8), "kernel": 3, "pools": (3, 2), "batch_norm": True, "hidden": 32}
    config = dataclasses.replace(presets.seeded("speedrun-mnist", 1), model_args=small, steps=50)
    assert plain_torch.train(config) > 0.6


NNX = """
import dataclasses, sys
sys.path.insert(0, "tests")
from commands.test_record import tiny
from compare import presets
from compare.record import plain_nnx
plain_nnx.load = lambda name, **_: tiny(name)
config = presets.seeded("mlp-mnist", 1)
print(plain_nnx.train(dataclasses.replace(config, batch_size=96, steps=60, model_args={"hidden": (32,)})))
small = {"channels": (4, 8), "kernel": 3, "pools": (3, 2), "batch_norm": True, "hidden": 32}
config = presets.seeded("speedrun-mnist", 1)
print(plain_nnx.train(dataclasses.replace(config, batch_size=96, steps=8, model_args=small)))
"""


@pytest.mark.slow  # TensorFlow takes its time to be imported
def test_the_plain_flax_script_learns() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NNX], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    mlp, cnn = map(float, done.stdout.split())
    assert mlp > 0.6
    assert 0 <= cnn <= 1

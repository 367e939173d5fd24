"""What is killed goes on as if nothing had been: within a track bit for bit, across tracks within rounding."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
import resource
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support.small_training import CONFIG, separable

from compare.checkpoint import store
from compare.checkpoint.store import Checkpoint
from compare.config import Interval
from compare.data import Data
from compare.errors import UserError
from compare.experiment import plan
from compare.parity.check import distance
from compare.results import typed_json
from compare.results.reader import read
from compare.results.schema import Results
from compare.tracks import TRACKS
from compare.training import worker
from compare.training.steps import plan as step_plan
from compare.workers.process import ROOT, trainer
from compare.workers.protocol import Job
from numpy_nn.tree import leaves

OFTEN = Interval.parse("1")


@pytest.fixture
def data(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Data:
    """A few images that can be told apart."""
    made = separable(rng)
    monkeypatch.setattr(worker, "load_data", lambda *_, **__: made)
    return made


def train(
    folder: Path, track: str, *, stop_after: int | None = None, resume_from: Path | None = None, **changes: Any
) -> list[dict[str, Any]]:
    """All events of a run in this process, asked to stop after a step."""
    events: list[dict[str, Any]] = []
    stop = threading.Event()

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        if (event["event"], event.get("step")) == ("chunk", stop_after):
            stop.set()

    config = dataclasses.replace(CONFIG, **changes)
    job = Job(config, track, threads=1, folder=folder, resume_from=resume_from, save_every=OFTEN)
    worker.run(job, emit=emit, stop=stop)
    return events


def assert_same(resumed: Checkpoint, whole: Checkpoint) -> None:
    """Bit for bit: state, losses, evaluations; only the clocks differ."""
    ours, theirs = leaves(resumed.snapshot), leaves(whole.snapshot)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path, strict=True)
    assert resumed.progress["step_loss"] == whole.progress["step_loss"]
    assert len(whole.progress["step_loss"]) == whole.step
    rows = [[row | {"seconds": 0} for row in found.progress["history"]] for found in (resumed, whole)]
    assert rows[0] == rows[1]
    assert resumed.progress["waited"] == whole.progress["waited"]


@pytest.mark.parametrize("track", TRACKS)
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(track, data, tmp_path):
    whole = train(tmp_path / "whole", track)[-1]
    assert whole["status"] == "finished", whole["message"]
    stopped = train(tmp_path / "run", track, stop_after=36)[-1]
    assert (stopped["status"], stopped["steps"]) == ("interrupted", 36)
    assert stopped["checkpoint"] == str(tmp_path / "run" / "36")
    begin, *_, end = train(tmp_path / "run", track)
    assert (begin["step"], len(begin["step_loss"])) == (36, 36)
    assert_same(store.read(tmp_path / "run"), store.read(tmp_path / "whole"))
    assert [each["step"] for each in end["resumed"]] == [36]
    same = "status steps best_step test_accuracy val_accuracy val_loss test_loss epochs chunk parameters".split()
    same.append("error_analysis")
    assert {name: end[name] for name in same} == {name: whole[name] for name in same}
    assert np.trace(end["error_analysis"]["confusion"]) == round(len(data.test_y) * end["test_accuracy"])  # of the best
    assert Path(end["checkpoint"]).name == Path(whole["checkpoint"]).name == str(end["best_step"])
    snapshots = [store.restore(tmp_path / name)[0] for name in ("run", "whole")]  # the best
    assert int(snapshots[0]["step"]) == end["best_step"]
    for path, leaf in leaves(snapshots[0]).items():
        np.testing.assert_array_equal(leaf, leaves(snapshots[1])[path])


def test_run_resumes_across_tracks_on_one_curve(data, tmp_path):
    with jax.enable_x64(True):
        train(tmp_path / "whole", "numpy", precision="float64")
        source = None
        for track, stop_after in (("torch", 12), ("jax", 36), ("numpy", None)):
            events = train(
                tmp_path / f"{track}{stop_after}",
                track,
                stop_after=stop_after,
                resume_from=source,
                precision="float64",
            )
            source = tmp_path / f"{track}{stop_after}"
            assert events[-1]["status"] == ("interrupted" if stop_after else "finished"), events[-1]["message"]
    assert source
    whole, handed_on = store.read(tmp_path / "whole"), store.read(source)
    assert handed_on.progress["step_loss"] == pytest.approx(whole.progress["step_loss"], rel=1e-11)
    for path, leaf in leaves(handed_on.snapshot).items():
        assert distance(leaf, leaves(whole.snapshot)[path])[1] < 1e-11, path
    assert [row["step"] for row in handed_on.progress["history"]] == [row["step"] for row in whole.progress["history"]]
    assert [each["step"] for each in handed_on.progress["resumed"]] == [12, 36]


@pytest.mark.parametrize(
    ("changes", "jump"),
    [
        ({}, ""),
        (
            {"steps": 120},
            r"has 120 steps instead of 60: the learning rate changes from 0\.0\d+ to 0\.0\d+; --set",
        ),
        ({"schedule": "constant", "lr": 1e-3}, r"to 0\.001; --set schedule=constant --lr 0\.0\d+ would keep it"),
    ],
)
def test_resuming_with_another_schedule_says_how_the_learning_rate_jumps(changes, jump, data, tmp_path):
    train(tmp_path / "run", "numpy", stop_after=24)
    *notes, end = train(tmp_path / "next", "numpy", resume_from=tmp_path / "run", **changes)
    assert end["status"] == "finished"
    texts = [event["text"] for event in notes if event["event"] == "note"]
    assert [bool(re.search(jump, text)) for text in texts] == ([True] if jump else [])
    assert end["message"] == (texts[0] if jump else None)


def test_mismatched_checkpoint_is_refused(data, tmp_path, monkeypatch):
    train(tmp_path / "run", "numpy", stop_after=24)
    source = tmp_path / "run"

    def message(**changes: Any) -> str:
        end = train(tmp_path / "other", "torch", resume_from=source, **changes)[-1]
        assert end["status"] == "failed"
        return end["message"]

    wider = message(model_args=CONFIG.model_args | {"hidden": (8, 4)})
    for part in (f"{source}/24: ", "missing hidden/1/kernel (8, 4)", "misshapen hidden/0/kernel: (64, 16)", "output"):
        assert part in wider
    assert "is already at step 24 of 24: increase --steps" in message(steps=24)
    assert "no checkpoint at" in train(tmp_path / "other", "jax", resume_from=tmp_path / "none")[-1]["message"]
    monkeypatch.setattr(worker, "load_data", lambda *_, **__: dataclasses.replace(data, train_y=data.train_y[::-1]))
    assert "was trained on other data: made up had SHA-256" in message()
    store.save(tmp_path / "weights", 0, {"params": {"w": np.ones(3)}}, {})
    source = tmp_path / "weights"
    assert "holds a network without a training state" in message()


def test_damaged_newest_checkpoint_falls_back_to_the_previous_one(data, tmp_path):
    train(tmp_path / "whole", "numpy")
    train(tmp_path / "run", "numpy", stop_after=36)
    (tmp_path / "run" / "36" / "meta" / "metadata").write_text("{")
    note, *_, end = train(tmp_path / "run", "numpy")
    assert "36 is damaged: meta/ cannot be read" in note["text"]
    assert [each["step"] for each in end["resumed"]] == [24]
    assert_same(store.read(tmp_path / "run"), store.read(tmp_path / "whole"))


@pytest.mark.parametrize("done", [0, 1, 24, 50, 59])
@pytest.mark.parametrize("length", [{"steps": 60}, {"epochs": 6.0, "steps": None}])
def test_remaining_steps_are_cut_into_whole_chunks(done, length):
    config = dataclasses.replace(CONFIG, **length)
    whole, rest = step_plan(config, 200), step_plan(config, 200, first=done)
    assert (rest.steps - done) % rest.chunk == 0
    assert rest.chunk == whole.chunk or done % whole.chunk
    assert max(rest.evaluations) == rest.steps
    assert all((step - done) % rest.chunk == 0 for step in rest.evaluations if step > done)


@pytest.mark.parametrize("text", ["0", "s", "-1s", "1.5", "soon", "infs", "nans"])
def test_invalid_save_interval_is_refused(text):
    assert Interval.parse("60s").passed(steps=0, seconds=60)
    assert not Interval.parse("500").passed(steps=499, seconds=1e9)
    assert str(Interval.parse(str(Interval.parse("2000000")))) == "2000000"
    with pytest.raises(UserError, match=r"invalid interval .*: expected a number of steps, like 500, or of seconds"):
        Interval.parse(text)


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


def lives(job: Job, log: Path, *, kills: int, seed: int) -> Iterator[tuple[int, bool]]:
    """Start real workers and kill each, by SIGKILL, a random moment after a random chunk; the last one may live.

    Yields how many steps each had reached, and whether it was killed in the middle of a save.
    """
    generator = random.Random(seed)
    for number in itertools.count():
        chunks = generator.randint(1, 4) if number < kills else None
        last: dict[str, Any] = {}
        with trainer(job, log=log) as worker:
            for event in worker.events():
                last = event if "step" in event else last
                if event["event"] == "end":
                    assert event["status"] == "finished", event["message"]
                    return
                if event["event"] == "chunk" and chunks:
                    chunks -= 1
                    if not chunks:
                        time.sleep(generator.uniform(0, 0.15))
                        break
        yield last["step"], any(job.folder.glob("*tmp*"))


def killed_and_whole(track: str, folder: Path, *, kills: int, seed: int, **changes: Any) -> list[tuple[int, bool]]:
    """Kill a run again and again, train another without interruption, and compare them; returns the lives."""
    config = dataclasses.replace(CONFIG, augment=(), **changes)
    interrupted, whole = (
        Job(config, track, threads=1, folder=folder / name, save_every=every)
        for name, every in (("run", OFTEN), ("whole", Interval.parse("60s")))
    )
    found = list(lives(interrupted, folder / "log", kills=kills, seed=seed))
    assert len(found) == kills
    assert not list(lives(whole, folder / "log", kills=0, seed=seed))
    assert_same(store.read(folder / "run"), store.read(folder / "whole"))
    assert 1 <= len(store.read(folder / "run").progress["resumed"]) <= kills  # some died before they had saved
    return found


def test_killed_worker_resumes_bit_for_bit(tmp_path):
    mlp = {"model_args": {"hidden": (16,)}, "steps": 640, "batch_size": 8, "eval_batch_size": 500}
    killed_and_whole("numpy", tmp_path, kills=2, seed=0, **mlp)


def test_full_disk_stops_with_a_clear_error(tmp_path):
    """No file may be longer than a kilobyte, for a while."""
    mlp: dict[str, Any] = {
        "model_args": {"hidden": (16,)},
        "augment": (),
        "steps": 1280,  # not at its end when the worker is killed
        "batch_size": 8,
        "eval_batch_size": 500,
    }
    job = Job(dataclasses.replace(CONFIG, **mlp), "numpy", 1, tmp_path / "run", save_every=OFTEN)
    next(lives(job, tmp_path / "log", kills=1, seed=0))
    before = store.steps(job.folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with trainer(job, log=tmp_path / "log") as worker:
            *_, end = worker.events()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert end["status"] == "failed"
    assert "free some space or choose another folder" in end["message"]
    assert store.steps(job.folder) == before
    assert all(store.verified(path) for path in before)
    assert not list(lives(job, tmp_path / "log", kills=0, seed=0))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("track", TRACKS)
def test_repeated_kills_do_not_change_the_result(track, tmp_path):
    cnn = {"model": "cnn", "model_args": {"channels": (4, 8), "hidden": 16}, "steps": 64 * 50, "batch_size": 8}
    found = killed_and_whole(track, tmp_path, kills=10, seed=1, **cnn)
    print(f"{track}: killed after {[step for step, _ in found]}, in a save {sum(inside for _, inside in found)} times")
    assert any(inside for _, inside in found)


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_killed_comparison_is_resumed(tmp_path):
    folder, config = tmp_path / "new", dataclasses.replace(CONFIG, model_args={"hidden": (16,)})
    results = plan.plan(folder, [config], ["numpy", "jax", "torch"], command=["compare"], save_every="5s")
    results["runs"][0] |= {"status": "finished", "test_accuracy": 0.9}
    results["runs"][1] |= {"status": "interrupted", "history": [{"step": 12}], "step_loss": [1.0]}
    results["environment"]["threads"] = 64
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    results, changed = plan.resumed(folder)
    assert [run["status"] for run in results["runs"]] == ["finished", "not started", "not started"]
    planned = plan.planned(config, "jax", plan.step_costs(config))
    assert json.dumps(results["runs"][1]) == json.dumps(planned)
    assert results["settings"]["save_every"] == "5s"
    assert [what.partition(" ")[0] for what in changed] == ["threads"]
    with plan.locked(folder), pytest.raises(UserError, match="is in use by another process"):
        plan.locked(folder).__enter__()


def test_an_interrupted_comparison_of_schema_1_is_resumed(tmp_path):
    with tarfile.open(ROOT / "tests" / "report" / "schema1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    path = tmp_path / "schema1" / "results.json"
    old = json.loads(path.read_text())
    numpy, torch = old["runs"]
    torch["status"] = "interrupted"  # its checkpoint is of step 2 of 4
    path.write_text(json.dumps(old))
    command = [sys.executable, "compare/run_all.py", "--resume", str(path.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    new = read(path)
    assert typed_json.problems(json.loads(path.read_text()), Results) == []
    assert new["runs"][0]["step_loss"] == numpy["step_loss"]
    # The archive is of another processor, whose float32 sums have another order: 1e-7 was seen.
    assert new["runs"][1]["step_loss"] == pytest.approx(torch["step_loss"], rel=1e-5)
    assert [resumed["step"] for resumed in new["runs"][1]["resumed"] or ()] == [2]
    # two steps of rounding, on another processor than before; observed: 1.0e-7, and 1.2e-7 on an AMD EPYC
    assert new["drift"][0]["max_rel"] == pytest.approx(old["parity"][0]["max_rel"], rel=0.5)
    assert new["parity"][0]["checks"] == old["proof"][0]["checks"]  # not checked again
    assert "**Parity:** passed." in (path.parent / "report.md").read_text("utf-8")


@pytest.mark.slow
def test_comparison_killed_with_all_workers_resumes_to_the_same_result(tmp_path):
    command = [sys.executable, "compare/run_all.py"]
    length = ["mlp-mnist", "--tracks", "numpy", "torch", "--steps", "640", "--save-every", "1", "--no-mlflow"]
    begun = [*command, *length, "--skip-parity", "--out", str(tmp_path / "run")]
    generator = random.Random(0)
    for number in range(4):
        again = [*command, "--resume", str(tmp_path / "run")]
        process = subprocess.Popen(again if number else begun, cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(generator.uniform(8, 20))
        process.kill()
        process.wait()
    assert subprocess.run(again, cwd=ROOT, check=False, stdout=subprocess.DEVNULL).returncode == 0
    subprocess.run([*begun[:-1], str(tmp_path / "whole")], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    for track in ("numpy", "torch"):
        run, whole = (store.read(tmp_path / n / "checkpoints" / f"mlp-mnist-{track}-seed0") for n in ("run", "whole"))
        assert_same(run, whole)
    found, uninterrupted = (json.loads((tmp_path / n / "results.json").read_text())["runs"] for n in ("run", "whole"))
    for ours, theirs in zip(found, uninterrupted, strict=True):
        assert (ours["status"], ours["step_loss"]) == ("finished", theirs["step_loss"])
        assert ours["test_accuracy"] == theirs["test_accuracy"]

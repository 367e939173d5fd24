"""The training loop: a resumed training equals the uninterrupted one in every field, and the kept state is reported.

Also: what inference sees after training is the same in every track, and in a new state made from the snapshot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from support.small_training import CONFIG, separable

from compare import tracks
from compare.benchmark import trial
from compare.checkpoint import store
from compare.config import Config, Interval
from compare.data import Data
from compare.launch import __main__ as launch
from compare.machine.usage import Sampler
from compare.parity.check import distance
from compare.search import trials
from compare.training import loop, worker
from compare.training.clocks import Stopwatch, Timings
from compare.training.loop import SavedState, Training
from compare.training.saver import Saver
from compare.workers.protocol import Job
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, leaves


@pytest.fixture
def data(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Data:
    made = separable(rng)
    monkeypatch.setattr(worker, "load_data", lambda *_, **__: made)
    return made


def job(config: Config, folder: Path, track: str = "numpy") -> Job:
    return Job(config, track, threads=1, folder=folder)


# Settings under which the last state is not the best.
SPOILED: dict[str, Any] = {"ema": None, "lr": 1.0, "schedule": "constant", "optimizer": "sgd", "optimizer_args": {}}


# --- what is sampled --------------------------------------------------------------------------------------------------


def test_usage_of_the_machine_is_sampled_outside_of_the_timed_chunks(data: Data, tmp_path: Path, monkeypatch):
    timed: list[str] = []
    samples: list[int] = []
    lap = Stopwatch.lap

    @contextlib.contextmanager
    def watched(self: Stopwatch) -> Iterator[None]:
        timed.append("lap")
        with lap(self):
            yield
        timed.pop()

    def sample(self: Sampler) -> dict[str, float]:
        samples.append(len(timed))
        return {"system/cpu_utilization_percentage": 1.0}

    monkeypatch.setattr(Stopwatch, "lap", watched)
    monkeypatch.setattr(Sampler, "sample", sample)
    events: list[dict[str, Any]] = []
    worker.run(job(CONFIG, tmp_path), emit=events.append, stop=threading.Event())
    chunks = [event for event in events if event["event"] == "chunk"]
    assert len(samples) == len(chunks) > 3
    assert set(samples) == {0}
    assert chunks[0]["usage"] == {"system/cpu_utilization_percentage": 1.0}
    begin = next(event for event in events if event["event"] == "begin")
    assert begin["data"] == {"name": data.name, "digest": data.digest, "train": 200, "val": 50, "test": 50}


# --- resuming ---------------------------------------------------------------------------------------------------------

# Clocks, memory and saves are those of a process, and a resumed training knows that it was resumed.
DIFFERENT = {"track", "timings", "seconds_before", "memory", "resumed", "saved_step"}


def comparable(value: Any) -> Any:
    """A field of a training as JSON without clocks: arrays as lists."""
    if isinstance(value, SavedState):
        value = [leaves(value.snapshot), value.metrics, value.progress]
    if isinstance(value, Data):
        value = value.digest
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        clocks = ("seconds", "clocks", "memory", "resumed")
        return {name: comparable(each) for name, each in value.items() if name not in clocks}
    if isinstance(value, list | tuple | frozenset):
        return [comparable(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def fields(training: Training) -> dict[str, Any]:
    """Every field that a resumed training shares with an uninterrupted one."""
    found = {
        field.name: comparable(getattr(training, field.name))
        for field in dataclasses.fields(training)
        if field.name not in {*DIFFERENT, "state"}
    }
    properties = ("stopped_early", "finished", "epoch")
    found |= {name: getattr(training, name) for name in properties}
    return found | {"state": comparable(leaves(training.track.to_snapshot(training.state)))}


def trained(
    config: Config, folder: Path, *, stop_at: int | None = None, track: str = "numpy"
) -> tuple[dict[int, dict[str, Any]], Training]:
    """Train and save at the end; return the fields at the beginning and after each chunk, by step."""
    own = job(config, folder, track)
    training = worker.begin(own, tracks.load(track), Timings(), lambda event: None)
    found = {training.step: fields(training)}
    with Saver(own, training) as saver:

        def save() -> None:
            found[training.step] = fields(training)

        loop.train(training, stop=lambda: training.step == stop_at, save=save)
        saver.finish()
    return found, training


@pytest.mark.parametrize(
    "changes",
    [{}, {"keep_best": False, "ema": None}, SPOILED | {"patience": 2}, SPOILED | {"patience": 1, "keep_best": False}],
)
def test_a_training_stopped_at_any_step_and_resumed_equals_one_that_never_stopped(changes, data, tmp_path, monkeypatch):
    monkeypatch.setattr("compare.training.steps.CHUNK", 6)
    require_equal_wherever_it_stops(dataclasses.replace(CONFIG, **changes), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("track", ["jax", "torch"])
def test_in_the_other_tracks_too(track, data, tmp_path, monkeypatch):
    monkeypatch.setattr("compare.training.steps.CHUNK", 12)
    require_equal_wherever_it_stops(dataclasses.replace(CONFIG, steps=36), tmp_path, track=track)


def require_equal_wherever_it_stops(config: Config, folder: Path, *, track: str = "numpy") -> None:
    """Compare every field of a training that never stopped with one stopped after each of its chunks and resumed."""
    whole, training = trained(config, folder / "whole", track=track)
    assert len(whole) > 3
    assert training.stopped_early == (config.patience is not None)
    assert json.dumps(whole[0])
    for step in list(whole)[1:]:
        trained(config, folder / f"{step}", stop_at=step, track=track)
        resumed, training = trained(config, folder / f"{step}", track=track)
        assert training.resumed[-1]["step"] == step
        assert resumed[step] == whole[step]  # at once
        assert resumed[max(resumed)] == whole[max(whole)]  # and at the end


# --- what a row says --------------------------------------------------------------------------------------------------


def begun(folder: Path, config: Config = CONFIG) -> Training:
    """A training before its first step."""
    return worker.begin(job(config, folder), tracks.load("numpy"), Timings(), lambda event: None)


@pytest.mark.parametrize(("same_run", "before"), [(False, 1000.0), (True, 0.0)])
def test_seconds_go_on_from_those_of_another_run_and_count_once_in_the_same(same_run, before, data, tmp_path):
    """A run that goes on has its seconds in its clocks."""
    training = begun(tmp_path)
    progress = training.saved_state().progress | {"history": [{"step": 0, "val_accuracy": 0.1, "seconds": 1000.0}]}
    training.resume(progress, same_run=same_run)
    row = training.evaluation(training.chunk())
    assert row["seconds"] == before + training.timings.chunks.work
    assert 0 < training.timings.chunks.work < 1000


def test_accuracy_of_a_chunk_is_of_its_labels_not_of_its_examples(data, tmp_path):
    """An example of a text has as many labels as tokens."""
    training, n, labels = begun(tmp_path), CONFIG.batch_size, 6
    k = training.schedule.chunk
    training.data = mock.Mock(labels_per_example=labels)
    training.batches = iter([(np.zeros((k, n, labels)), np.zeros((k, n, labels)))])  # type: ignore[assignment]
    metrics = {"loss": np.ones(k), "correct": np.full(k, n * labels / 4), "lr": np.ones(k)}
    training.track = mock.Mock(train_steps=lambda state, x, y: (state, metrics))
    assert training.chunk()["accuracy"] == 0.25


def test_saving_is_due_when_the_seconds_have_passed_since_the_last_save(data, tmp_path, monkeypatch):
    clock, saves = [0.0], []
    monkeypatch.setattr("compare.training.saver.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(Saver, "save", lambda self: saves.append(clock[0]))
    every_minute = dataclasses.replace(job(CONFIG, tmp_path), save_every=Interval.parse("60s"))
    saver = Saver(every_minute, begun(tmp_path), last_time=0.0)
    for clock[0] in (30.0, 61.0, 62.0, 120.0, 122.0):
        saver.save_if_due()
    assert saves == [61.0, 122.0]


# --- the best state ---------------------------------------------------------------------------------------------------

FIGURES = ("test_loss", "test_accuracy", "val_loss", "val_accuracy")


def evaluated(snapshot: Tree, config: Config, data: Data) -> dict[str, float]:
    """The figures of a snapshot, computed anew."""
    track = tracks.load("numpy")
    arguments = tracks.state_arguments(config, "numpy", steps=60, threads=1)
    state = track.init_state(snapshot, **arguments, mean=data.mean, std=data.std)
    return loop.evaluate(track, state, data, batch_size=50, watch=Stopwatch())


def test_an_evaluation_is_that_of_each_split_by_hand(data):
    """Batches of 35 leave a rest in both splits, whose sizes and figures differ."""
    data = dataclasses.replace(data, val_x=data.val_x[:40], val_y=data.val_y[:40])
    track, config = tracks.load("numpy"), dataclasses.replace(CONFIG, ema=None)
    snapshot = MODELS["mlp"](**config.model_args).init(np.random.default_rng(0))
    arguments = tracks.state_arguments(config, "numpy", steps=60, threads=1)
    state = track.init_state(snapshot, **arguments, mean=data.mean, std=data.std)
    found = loop.evaluate(track, state, data, batch_size=35, watch=Stopwatch())
    for split, x, y in (("val", data.val_x, data.val_y), ("test", data.test_x, data.test_y)):
        outputs = np.asarray(track.logits(state, x), np.float64)
        log_p = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
        assert found[f"{split}_loss"] == pytest.approx(-log_p[np.arange(len(y)), y].mean(), rel=1e-5)
        assert found[f"{split}_accuracy"] == np.mean(outputs.argmax(axis=1) == y)
    assert found["val_accuracy"] != found["test_accuracy"]


def run(folder: Path, config: Config, *, stop_after: int | None = None) -> dict[str, Any]:
    """The last event of a run."""
    events: list[dict[str, Any]] = []
    stop = threading.Event()

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "chunk" and event["step"] == stop_after:
            stop.set()

    worker.run(job(config, folder), emit=emit, stop=stop)
    return events[-1]


def ran(folder: Path, config: Config) -> tuple[dict[str, Any], Tree]:
    """A run of run_all: its figures, and the network that predict reads from its folder."""
    end = run(folder, config)
    assert store.read(Path(end["checkpoint"])).step == (end["best_step"] or end["steps"])
    return end, store.restore(folder)[0]


def resumed(folder: Path, config: Config) -> tuple[dict[str, Any], Tree]:
    """The same, interrupted when the best state was past."""
    assert run(folder, config, stop_after=48)["status"] == "interrupted"
    return ran(folder, config)


def stopped_early(folder: Path, config: Config) -> tuple[dict[str, Any], Tree]:
    """The same, stopped early."""
    end, snapshot = ran(folder, dataclasses.replace(config, patience=2))
    assert end["steps"] < 60
    return end, snapshot


def launched(folder: Path, config: Config) -> tuple[dict[str, Any], Tree]:
    """A launch of one process."""
    return launch.train(job(config, folder), process=0, all_gather=lambda text: [text])


def searched(folder: Path, config: Config) -> tuple[dict[str, Any], Tree]:
    """A trial of a search: the accuracy that ranks it."""
    end, snapshot = ran(folder, config)
    search = mock.create_autospec(trials.Search, instance=True, progress=mock.Mock())
    ranked = trials.Search.ended(search, mock.Mock(), end, "trial 0")
    assert ranked == end["val_accuracy"]
    return end | {"val_accuracy": ranked}, snapshot


KINDS = {each.__name__: each for each in (ran, resumed, stopped_early, launched, searched)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_best", [True, False])
def test_the_figures_are_those_of_the_state_that_is_kept(kind, keep_best, data, tmp_path):
    config = dataclasses.replace(CONFIG, **SPOILED, keep_best=keep_best)
    figures, snapshot = KINDS[kind](tmp_path / "run", config)
    history = store.read(tmp_path / "run").progress["history"]
    best, last = max(history, key=lambda row: row["val_accuracy"]), history[-1]
    assert all(best[name] != last[name] for name in ("val_loss", "val_accuracy"))
    expected = best if keep_best else last
    assert int(snapshot["step"]) == expected["step"]
    assert {name: figures[name] for name in FIGURES} == {name: expected[name] for name in FIGURES}
    assert evaluated(snapshot, config, data) == {name: expected[name] for name in FIGURES}


def test_a_benchmark_trial_reports_the_kept_state(data, tmp_path):
    config = dataclasses.replace(CONFIG, **SPOILED)
    answer = trial.run(job(config, tmp_path), target=1.1, breakdown=False)
    history = trained(config, tmp_path / "run")[1].history
    assert answer["val_accuracy"] == max(row["val_accuracy"] for row in history) > history[-1]["val_accuracy"]
    assert answer["reached"] is False


# --- inference --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [None, 0.8])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_inference_after_training_agrees_across_tracks_and_with_a_new_state(batch_norm, ema, rng):
    x, y = rng.integers(0, 256, (5, 6, 12, 12, 1), dtype=np.uint8), rng.integers(0, 10, (5, 6), dtype=np.int32)
    args = {"input_shape": (12, 12, 1), "channels": (3, 4), "kernel": 3, "padding": 1, "hidden": 8}
    args |= {"batch_norm": batch_norm}
    config = Config("small", "cnn", "made up", model_args=args, batch_size=6, lr=0.05, ema=ema, precision="float64")
    first = MODELS["cnn"](**args).init(np.random.default_rng(0))
    seen: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        for name in tracks.TRACKS:
            track = tracks.load(name)
            arguments = tracks.state_arguments(config, name, steps=5, threads=1) | {"mean": (0.4,), "std": (0.2,)}
            state, _ = track.train_steps(track.init_state(first, **arguments), x, y)
            new = track.init_state(track.to_snapshot(state), **arguments)
            untrained = np.asarray(track.logits(track.init_state(first, **arguments), x[0]))
            for each in (state, new):
                sums = [float(track.eval_batch(each, x[0], y[0])[what]) for what in ("loss_sum", "correct", "count")]
                found = np.append(np.asarray(track.logits(each, x[0])).ravel(), sums)
                expected = seen.setdefault("numpy", found)
                assert distance(found, expected)[1] < 5e-15, name  # observed: 5e-16
            assert distance(seen["numpy"][: untrained.size], untrained.ravel())[1] > 0.1  # it did learn

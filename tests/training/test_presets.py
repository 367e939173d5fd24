"""Every preset runs in every track: two steps, from the data to the checkpoint. And the example of index.md does."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT

from compare import overrides, run_all
from compare.checkpoint import store
from compare.config import MAX_STEPS, SETTINGS, Config, kinds
from compare.data import Data, load
from compare.errors import LARGEST, UserError, base_of
from compare.experiment import plan
from compare.presets import DEFAULT, PRESETS
from compare.tracks import TRACKS
from compare.training import worker
from compare.training.steps import Evaluations, short_chunks
from compare.training.steps import plan as step_plan
from compare.workers.protocol import Job

GETTING_STARTED = ROOT / "docs" / "index.md"


def test_presets_keep_their_names_and_say_what_to_expect():
    assert all(name == config.preset for name, config in PRESETS.items())
    assert set(DEFAULT) <= set(PRESETS)
    for config in PRESETS.values():
        assert re.search(r"\d+(\.\d+)? %", config.expected), config.preset


@functools.cache
def few(dataset: str) -> Data:
    """The beginning of a dataset."""
    data = load(dataset)
    parts = {f"{part}_{axis}": n for part, n in (("train", 512), ("val", 64), ("test", 64)) for axis in "xy"}
    return dataclasses.replace(data, **{part: getattr(data, part)[:n] for part, n in parts.items()})


SLOW_TO_COMPILE = {("densenet-cifar10", "jax"), ("resnet20-cifar10", "jax"), ("vit-mnist", "jax")}  # 4 to 11 seconds
EVERY_PAIR = [
    pytest.param(preset, track, marks=[pytest.mark.long] if (preset, track) in SLOW_TO_COMPILE else [])
    for preset in PRESETS
    for track in TRACKS
]


@pytest.mark.parametrize(("preset", "track"), EVERY_PAIR)
def test_preset_trains_two_steps(preset, track, tmp_path, monkeypatch, request):
    config = PRESETS[preset]
    if config.dataset not in ("mnist", "shakespeare"):  # which ship
        monkeypatch.setenv("NN_DATA_DIR", str(request.getfixturevalue("shared_data")))
    monkeypatch.setattr(worker, "load_data", lambda *_, **__: few(config.dataset))
    events: list[dict[str, Any]] = []
    small = dataclasses.replace(config, steps=2, batch_size=8, eval_batch_size=50)
    worker.run(Job(small, track, threads=1, folder=tmp_path), emit=events.append, stop=threading.Event())
    end = events[-1]
    assert (end["status"], end["message"]) == ("finished", None)
    labels = 64 * few(config.dataset).labels_per_example
    assert (end["steps"], end["test_count"], end["val_count"]) == (2, labels, labels)
    assert [event["step"] for event in events if event["event"] == "chunk"] == [1, 2]
    snapshot, meta = store.restore(tmp_path)
    assert int(snapshot["step"]) == 2
    assert meta["config"]["preset"] == preset


@pytest.mark.parametrize("track", TRACKS)
def test_getting_started_example_runs(track, capsys):
    examples = re.findall(r"```python\n(.*?)```", GETTING_STARTED.read_text(encoding="utf-8"), flags=re.DOTALL)
    (example,) = (each for each in examples if "train_steps" in each)
    exec(example.replace("from numpy_nn import train", f"from {track}_nn import train"), {})
    assert float(re.search(r"\d\.\d+", capsys.readouterr().out)[0]) == pytest.approx(np.log(10), rel=1e-4)


def test_configurations_of_earlier_versions_are_read() -> None:
    config = next(iter(PRESETS.values()))
    assert Config.from_json(config.to_json() | {"numpy_threads": "blas"}) == config
    earlier = {"promise" if name == "expected" else name: value for name, value in config.to_json().items()}
    assert Config.from_json(earlier) == config
    with pytest.raises(UserError, match=r"another version of this project: .*'colour'"):
        Config.from_json(config.to_json() | {"colour": "red"})


# --- what a Config refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("batch_size", 0, "a whole number from 1 to 1,000,000"),
        ("batch_size", True, "a whole number from 1"),
        ("batch_size", 64.0, "a whole number from 1"),
        ("accumulate", 0, "a whole number from 1"),
        ("ema", "x", "a number of at least 0 and below 1"),
        ("ema", 1, "a number of at least 0 and below 1"),
        ("patience", 0, "a whole number from 1"),
        ("augment", [5], "a list of texts"),
        ("augment", "flip", "a list of texts"),
        ("epochs", float("inf"), "a number above 0 and at most 10,000"),
        ("epochs", float("nan"), "a number above 0"),
        ("epochs", 1e300, "a number above 0"),
        ("epochs", 10**400, "a number above 0"),
        ("steps", 10**18, "a whole number from 1 to 100,000,000"),
        ("seed", -1, "a whole number from 0"),
        ("lr", float("nan"), "a number above 0"),
        ("lr_scale", {"output": -1.0}, "numbers of at least 0"),
        ("device", "tpu", "auto, cpu, gpu or gpu:N"),
        ("precision", "float16", "float32, float64 or bfloat16"),
        ("loader", "disk", "memory, torch, tfds, tfdata or grain"),
        ("keep_best", 1, "true or false"),
        ("model_args", [1], "names with values"),
    ],
)
def test_invalid_values_are_refused_by_name_with_what_is_expected(field, value, expected):
    with pytest.raises(UserError, match=rf"^invalid {field} .*: expected .*{re.escape(expected)}"):
        dataclasses.replace(PRESETS["mlp-mnist"], **{field: value})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model_args.hidden=[0]", "invalid model_args.hidden [0]: expected a list of whole numbers from 1 to 65,536"),
        ("model_args.hidden=[-5]", "invalid model_args.hidden [-5]"),
        ('model_args.hidden=["a"]', "invalid model_args.hidden ['a']"),
        ("model_args.hidden=5", "invalid model_args.hidden 5"),
        ("model_args.hidden=[1000000000]", "invalid model_args.hidden [1000000000]"),
        ("model_args.hidden=" + "[" * 500 + "]" * 500, "invalid model_args.hidden [[["),
        ("model_args.hidden=" + "[" * 50_000 + "]" * 50_000, "invalid model_args.hidden [[["),
        ("lr=1" + "0" * 5000, "invalid lr 1000"),
        ("model_args.classes=100000000", "invalid model_args.classes 100000000"),
        ("model_args.input_shape=[28,28]", "expected a list of 3 whole numbers"),
        ("model_args.input_shape=[28,28,1,1]", "expected a list of 3 whole numbers"),
        ("model_args.activation=rellu", "invalid model_args.activation 'rellu': expected relu, leaky_relu"),
        ("model_args.stages=[2]", "unknown argument 'stages' of mlp. Known: input_shape, hidden"),
        ("optimizer_args.weight_decay=-1", "invalid optimizer_args.weight_decay -1: expected a number of at least 0"),
        ("schedule_args.warmup=2", "invalid schedule_args.warmup 2: expected a number from 0 to 1"),
        ("optimizer=adem", "unknown optimizer 'adem'. Did you mean adam?"),
        ('augment=["flop"]', "unknown augmentation 'flop'"),
        ("batch_size=x", "invalid batch_size 'x'"),
    ],
)
def test_invalid_settings_end_before_anything_starts(setting, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(plan, "plan", lambda *_, **__: pytest.fail("the comparison was started"))
    assert run_all.main(["mlp-mnist", "--set", setting, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_have_valid_arguments(preset):
    overrides.require_arguments(PRESETS[preset])


def test_every_number_of_a_config_has_a_range():
    for name, setting in SETTINGS.items():
        assert setting.help
        if base_of(kinds()[name]) in (int, float):
            assert (setting.valid.low, setting.valid.high) != (-LARGEST, LARGEST), name


def test_the_metadata_decide_what_is_searched_and_what_a_resumed_run_must_match():
    """One known answer for each list, so that a changed word in the metadata is seen."""
    searched = "augment batch_size accumulate ema loss optimizer schedule lr patience keep_best precision"
    assert {name for name, setting in SETTINGS.items() if setting.search} == set(searched.split())
    state = "model network_digest model_args dataset val_size batch_size seed optimizer lr_scale ema"
    assert {name for name, setting in SETTINGS.items() if setting.resume == "state"} == set(state.split())
    free = "devices device data_dir expected"
    assert {name for name, setting in SETTINGS.items() if setting.resume == "free"} == set(free.split())


# --- the plan of the steps --------------------------------------------------------------------------------------------


def test_evaluations_are_the_ends_of_chunks_after_the_ends_of_epochs():
    for chunk, chunks, start, per_epoch in itertools.product((1, 3, 8), (1, 2, 7), (0, 1, 7), (1, 2, 5, 20, 100)):
        stop = start + chunk * chunks
        ends = [epoch for epoch in range(per_epoch, stop, per_epoch) if epoch > start]
        wanted = {start + math.ceil((epoch - start) / chunk) * chunk for epoch in ends} | {stop}
        found = Evaluations(start, stop, chunk, per_epoch)
        assert list(found) == sorted(wanted)
        assert {step for step in range(stop + 2) if step in found} == wanted


def test_a_plan_of_very_many_steps_takes_no_time_and_no_memory():
    config = dataclasses.replace(PRESETS["mlp-mnist"], steps=MAX_STEPS, batch_size=1000)
    tracemalloc.start()
    made = step_plan(config, 55_000)
    assert MAX_STEPS in made.evaluations
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    with pytest.raises(UserError, match="10000 epochs are 550,000,000 steps, and at most 100,000,000 are supported"):
        step_plan(dataclasses.replace(config, steps=None, epochs=10_000.0, batch_size=1), 55_000)


def test_a_number_of_steps_without_a_good_divisor_is_warned_of():
    assert short_chunks(640) == ""
    assert "10,007 steps can only be divided into chunks of 1," in short_chunks(10_007)
    better = int(re.search(r"--steps (\d+)", short_chunks(10_007))[1])
    assert short_chunks(better) == ""

"""Every preset runs in every track: two steps, from the data to the checkpoint. And the README's example does."""

from __future__ import annotations

import dataclasses
import functools
import re
import threading

import numpy as np
import pytest
from support.paths import ROOT

from compare.checkpoint import store
from compare.config import Config
from compare.data import Data, load
from compare.errors import UserError
from compare.presets import DEFAULT, PRESETS
from compare.tracks import TRACKS
from compare.training import worker
from compare.workers.protocol import Job

README = ROOT / "README.md"


def test_presets_keep_their_own_names_and_promise_something():
    assert all(name == config.preset for name, config in PRESETS.items())
    assert set(DEFAULT) <= set(PRESETS)
    for config in PRESETS.values():
        assert re.search(r"\d+(\.\d+)? %", config.promise), config.preset


@functools.cache
def few(dataset: str) -> Data:
    """The beginning of a dataset."""
    data = load(dataset)
    parts = {f"{part}_{axis}": n for part, n in (("train", 512), ("val", 64), ("test", 64)) for axis in "xy"}
    return dataclasses.replace(data, **{part: getattr(data, part)[:n] for part, n in parts.items()})


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_two_steps(preset, track, tmp_path, monkeypatch, request):
    config = PRESETS[preset]
    if config.dataset != "mnist":
        monkeypatch.setenv("NN_DATA_DIR", str(request.getfixturevalue("shared_data")))
    monkeypatch.setattr(worker, "load_data", lambda *_, **__: few(config.dataset))
    events = []
    small = dataclasses.replace(config, steps=2, batch_size=8, eval_batch_size=50)
    worker.run(Job(small, track, threads=1, folder=tmp_path), emit=events.append, stop=threading.Event())
    end = events[-1]
    assert (end["status"], end["message"]) == ("finished", None)
    assert (end["steps"], end["test_count"], end["val_count"]) == (2, 64, 64)
    assert [event["step"] for event in events if event["event"] == "chunk"] == [1, 2]
    snapshot, meta = store.restore(tmp_path)
    assert int(snapshot["step"]) == 2
    assert meta["config"]["preset"] == preset


@pytest.mark.parametrize("track", TRACKS)
def test_the_example_in_the_readme(track, capsys):
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (example,) = (each for each in examples if "train_steps" in each)
    exec(example.replace("from numpy_nn import train", f"from {track}_nn import train"), {})
    assert float(re.search(r"\d\.\d+", capsys.readouterr().out)[0]) == pytest.approx(np.log(10), rel=1e-4)


def test_fields_of_earlier_versions_are_read_over() -> None:
    config = next(iter(PRESETS.values()))
    assert Config.from_json(config.to_json() | {"numpy_threads": "blas"}) == config
    with pytest.raises(UserError, match=r"another version of this project: .*'colour'"):
        Config.from_json(config.to_json() | {"colour": "red"})

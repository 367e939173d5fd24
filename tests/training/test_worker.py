"""Plans, clocks, counted operations: what a run's figures rest on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from compare import presets
from compare.checkpoint import store
from compare.config import Config
from compare.errors import UserError
from compare.machine import gemm
from compare.training import worker
from compare.training.clocks import Stopwatch, Timings
from compare.training.flops import training_bytes, training_flops
from compare.training.steps import CHUNK, plan
from compare.workers import process, protocol
from compare.workers.protocol import Job

CONFIG = Config(preset="test", model="mlp", dataset="mnist")


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 101, 431, 4290])
def test_step_count_is_kept_exactly(steps):
    made = plan(dataclasses.replace(CONFIG, steps=steps), 55_000)
    assert made.steps == steps
    assert steps % made.chunk == 0
    assert made.chunk <= CHUNK


@pytest.mark.parametrize("epochs", [0.5, 1, 3, 10])
@pytest.mark.parametrize("batch_size", [1, 64, 127, 128, 55_000])
def test_epochs_round_by_less_than_half_a_chunk(epochs, batch_size):
    made = plan(dataclasses.replace(CONFIG, epochs=epochs, batch_size=batch_size), 55_000)
    wanted = max(round(epochs * (55_000 // batch_size)), 1)
    assert 0 <= wanted - made.steps <= made.chunk / 2
    assert max(made.evaluations) == made.steps
    assert all(step % made.chunk == 0 for step in made.evaluations)
    assert len(made.evaluations) <= max(1, epochs + 1)


@pytest.mark.perf
def test_first_lap_is_warm_up():
    watch = Stopwatch()
    for seconds in (0.05, 0.01, 0.01):
        with watch.lap():
            time.sleep(seconds)
    assert watch.warm_up == pytest.approx(0.04, abs=0.01)
    assert watch.work == pytest.approx(0.03, abs=0.01)


def test_clocks_add_up_to_the_total():
    timings = Timings(seconds={"import": 1.0, "data": 2.0, "set-up": 3.0})
    timings.chunks.laps = [1.4, 0.4, 0.4, 0.6]
    timings.evaluations.laps = [0.2, 0.1]
    figures = timings.figures(chunk=4, batch_size=10)
    seconds = figures["seconds"]
    assert seconds["compile"] == pytest.approx(3.0 + 1.0 + 0.1)
    assert seconds["train"] == pytest.approx(1.8)
    assert seconds["total"] == pytest.approx(1.0 + 2.0 + 3.0 + 2.8 + 0.3)
    assert figures["step_ms"]["median"] == pytest.approx(100.0)
    assert figures["images_per_second"] == pytest.approx(100.0)


def test_flops_of_a_gpt_match_a_hand_count():
    t, d, m, v = 8, 4, 6, 5
    args = {"input_shape": (t,), "dim": d, "depth": 2, "heads": 2, "mlp_dim": m, "classes": v}
    block = 2 * t * (4 * d * d + 2 * d * m) + 2 * 2 * t * t * d
    config = Config(preset="test", model="gpt", dataset="shakespeare", model_args=args)
    assert training_flops(config) == 3 * (2 * block + 2 * t * d * v)  # each linear layer follows the embedding


def test_flops_match_a_hand_count():
    mlp = 2 * (784 * 512 + 512 * 512 + 512 * 10)
    assert training_flops(CONFIG) == 3 * mlp - 2 * 784 * 512  # the first layer has no input gradient
    conv1, conv2 = 2 * 24 * 24 * 25 * 16, 2 * 8 * 8 * 25 * 16 * 32
    linear = 2 * (512 * 128 + 128 * 10)
    assert training_flops(dataclasses.replace(CONFIG, model="cnn")) == 3 * (conv1 + conv2 + linear) - conv1
    normed = {"batch_norm": True}
    assert (
        training_flops(dataclasses.replace(CONFIG, model="cnn", model_args=normed))
        == 3 * (conv1 + conv2 + linear) - conv1
    )


def test_bytes_match_a_hand_count():
    weights = 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    kept = CONFIG.batch_size * (784 + 512 + 512)  # the images and both hidden layers
    plain = dataclasses.replace(CONFIG, optimizer="sgd")
    assert training_bytes(plain) == 4 * (2 * kept + 6 * weights)
    for optimizer, moments in {"nesterov": 1, "adam": 2}.items():
        more = training_bytes(dataclasses.replace(CONFIG, optimizer=optimizer)) - training_bytes(plain)
        assert more == 2 * moments * 4 * weights


def test_unknown_presets_are_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown preset 'mlp-minst'. Did you mean mlp-mnist\? Known: mlp-mnist"):
        presets.get("mlp-minst")


# --- worker processes -------------------------------------------------------------------------------------------------


def living(group: int) -> list[str]:
    """The processes of a group that have not ended: their lines of /proc/PID/stat."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found.append(path.read_text())
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_worker_saves_and_cleans_up_after_a_signal(number, tmp_path):
    config = dataclasses.replace(presets.get("mlp-mnist"), model_args={"hidden": (16,)}, steps=6400, batch_size=8)
    job = Job(config, "numpy", threads=2, folder=tmp_path / "run")
    with process.trainer(job, log=tmp_path / "log") as worker:
        group, reached = worker._process.pid, 0
        for event in worker.events():
            if event["event"] == "chunk":
                reached = event["step"]
                os.kill(group, number)
    if number == signal.SIGKILL:
        assert "was killed by SIGKILL" in event["message"]
    else:
        assert event["status"] == "interrupted", event["message"]
        assert store.read(Path(event["checkpoint"])).step == event["steps"] == reached < 6400
    until = time.monotonic() + 30
    while left := living(group):
        assert time.monotonic() < until, left
        time.sleep(0.1)


def test_nohup_keeps_a_worker_running():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert protocol.stop_signals() == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert protocol.stop_signals() == [signal.SIGTERM, signal.SIGHUP]


WORKER = """
from compare.workers.protocol import received
job, emit = received()
print("a library says hello")
emit({"event": "end", "loss": [float("nan"), -float("inf"), job["loss"]]})
"""


def test_worker_output_holds_events_only():
    asked = [sys.executable, "-c", WORKER]
    done = subprocess.run(asked, input='{"loss": 0.5}', capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"event": "end", "loss": [None, None, 0.5]}
    assert done.stderr == "a library says hello\n"


def test_a_run_on_a_text_has_a_gemm_peak_and_no_misclassified_images(tmp_path, monkeypatch):
    monkeypatch.setattr(gemm, "own_gflops", lambda library, **_: {library: 50.0})
    small = {"dim": 8, "depth": 1, "heads": 2, "mlp_dim": 8}
    config = Config(preset="text", model="gpt", model_args=small, dataset="shakespeare", steps=1, batch_size=2)
    events: list[protocol.Event] = []
    worker.run(Job(config, "numpy", 1, tmp_path), emit=events.append, stop=threading.Event())
    assert events[-1]["status"] == "finished"
    assert events[-1]["matmul_gflops"] == {"numpy": 50.0}
    assert "error_analysis" not in events[-1]

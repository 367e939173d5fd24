"""Several processes for one step of NumPy: the result of one, for batch norm too, and an end for all if one fails."""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT

from compare.parity.check import EXAMPLES
from numpy_nn import parallel, train
from numpy_nn.models import MODELS
from numpy_nn.parallel.barrier import PipeBarrier, SpinBarrier
from numpy_nn.tree import leaves, tree_map

pytestmark = pytest.mark.long

TOLERANCE = 1e-12  # of the largest number in a leaf; observed: 1.6e-15, and 6e-14 where adamw divides by a small √ν

IMAGE = {"resnet": (8, 8, 3), "cnn": (28, 28, 1)}  # with and without batch norm


def begin(model: str, **arguments: Any) -> train.State:
    args = EXAMPLES.get(model, {})
    return train.init_state(
        MODELS[model](**args).init(np.random.default_rng(0)),
        model=model,
        model_args=args,
        schedule="cosine",
        schedule_args={"lr": 0.05, "steps": 3},
        mean=[0.4] * IMAGE[model][-1],
        std=[0.3] * IMAGE[model][-1],
        precision="float64",
        **arguments,
    )


def batches(model: str, n: int, steps: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (steps, n, *IMAGE[model]), np.uint8), rng.integers(0, 10, (steps, n), np.int32)


def assert_the_same(several: Any, one: Any) -> None:
    want, got = leaves(train.to_snapshot(one)), leaves(train.to_snapshot(several))
    gaps = {path: np.abs(got[path] - want[path]).max() / max(np.abs(want[path]).max(), 1) for path in want}
    assert max(gaps.values()) <= TOLERANCE, max(gaps, key=lambda path: gaps[path])


@pytest.fixture(params=["as chosen", "pipes"])
def barrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The barrier of this machine's processor, then the one for any other."""
    if request.param == "pipes":
        monkeypatch.setattr("numpy_nn.parallel.group.can_spin", lambda: False)


OPTIMIZERS: list[dict[str, Any]] = [
    {"optimizer": "adamw", "optimizer_args": {"weight_decay": 0.1, "clip_norm": 0.5}, "ema": 0.9},
    {"optimizer": "momentum", "accumulate": 2, "lr_scale": {"output": 0.5}},
]


@pytest.mark.usefixtures("barrier")
@pytest.mark.parametrize(("model", "threads"), [("resnet", 2), ("cnn", 3)])
def test_multiple_processes_match_one(model: str, threads: int) -> None:
    for how in OPTIMIZERS:
        one, several = begin(model, **how), begin(model, threads=threads, **how)
        for n in (12, 10, 2):  # splits equally, unequally, not at all
            x, y = batches(model, n)
            one, want = train.train_steps(one, x, y)
            several, got = train.train_steps(several, x, y)
            np.testing.assert_array_equal(got["correct"], want["correct"])
            np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-12)
            assert train.eval_batch(several, x[0], y[0]) == pytest.approx(train.eval_batch(one, x[0], y[0]))
        assert_the_same(several, one)


@pytest.mark.parametrize("model", ["resnet", "cnn"])  # with batch norm, and without
def test_two_devices_match_one_over_ten_steps(model: str) -> None:
    one, two = begin(model), begin(model, devices=2)
    x, y = batches(model, 8, steps=10)
    one, want = train.train_steps(one, x, y)
    two, got = train.train_steps(two, x, y)
    np.testing.assert_allclose(got["loss"], want["loss"], rtol=1e-12)
    assert_the_same(two, one)


def test_a_processor_that_was_not_tried_gets_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, barrier in {"x86_64": SpinBarrier, "aarch64": PipeBarrier}.items():
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        assert isinstance(begin("cnn", threads=2).group.barrier, barrier)


def test_devices_need_equal_shards() -> None:
    state = begin("cnn", devices=2)
    assert state.group.size == 2
    with pytest.raises(ValueError, match="a batch of 7 does not divide by 2 devices"):
        train.train_steps(state, *batches("cnn", 7))
    train.train_steps(state, *batches("cnn", 8))
    with pytest.raises(ValueError, match="devices 0: it must be at least 1"):
        begin("cnn", devices=0)


@pytest.mark.usefixtures("barrier")
def test_a_failure_stops_every_process_and_the_group_can_be_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    state = begin("cnn", threads=2)
    lenient = dataclasses.replace(state, batches=dataclasses.replace(state.batches, classes=100))
    x, y = batches("cnn", 8)
    wrong = y.copy()
    wrong[1, -1] = 99  # only the other process refuses this label
    with pytest.raises(ValueError, match="found 99"):
        train.train_steps(lenient, x, wrong)

    def ctrl_c(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "loss_and_grads", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train.train_steps(state, x, y)
    assert np.isfinite(train.train_steps(state, x, y)[1]["loss"]).all()


@pytest.mark.usefixtures("barrier")
def test_a_killed_worker_is_reported_and_the_others_end() -> None:
    state = begin("cnn", threads=3)
    x, y = batches("cnn", 9)
    train.train_steps(state, x, y)
    first, second = (worker.process for worker in state.group.workers)
    os.kill(second.pid, signal.SIGKILL)  # the first has been asked by then, and waits
    with pytest.raises(RuntimeError, match="a process of the NumPy track ended with exit code -9"):
        train.train_steps(state, x, y)
    del state
    gc.collect()  # the error's traceback may hold it
    deadline = time.monotonic() + 20
    while first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert first.returncode is not None


RANK_0_DIES_EARLY = """
import os, signal
import numpy as np
from numpy_nn import train
from numpy_nn.models import MODELS

snapshot = MODELS["mlp"](hidden=(8,)).init(np.random.default_rng(0))
args = {"model": "mlp", "model_args": {"hidden": (8,)}, "schedule_args": {"lr": 0.1, "steps": 1}}
state = train.init_state(snapshot, **args, threads=2)
(worker,) = state.group.workers
os.kill(worker.process.pid, signal.SIGSTOP)
with state.group.call("train_steps", state, np.zeros((1, 8, 28, 28, 1), np.uint8), np.zeros((1, 8), np.int32)):
    print(worker.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_ends_though_rank_0_was_gone_before_the_worker_had_started() -> None:
    with subprocess.Popen([sys.executable, "-c", RANK_0_DIES_EARLY], cwd=ROOT, stdout=subprocess.PIPE) as rank_0:
        assert rank_0.stdout is not None
        worker = Path("/proc") / rank_0.stdout.readline().decode().strip()
        assert rank_0.wait() == -signal.SIGKILL
    assert is_running(worker)
    os.kill(int(worker.name), signal.SIGCONT)
    deadline = time.monotonic() + 30
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = is_running(worker)
    if left:
        os.kill(int(worker.name), signal.SIGKILL)
    assert not left


def is_running(process: Path) -> bool:
    """Whether a process of /proc is there and is no zombie."""
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_shards_are_balanced_or_not_split() -> None:
    assert [len(shard) for shard in parallel.shards(np.zeros(10), 4)] == [3, 3, 2, 2]
    assert [len(shard) for shard in parallel.shards(np.zeros(10), 4, equal=True)] == [10]
    assert [len(shard) for shard in parallel.shards(np.zeros(3), 4)] == [3]


def test_on_one_core_the_wrappers_return_what_they_are_given() -> None:
    group = begin("cnn").group
    wrappers: dict[Any, Any] = {
        parallel.sharded: train.loss_and_grads,
        parallel.all_reduced: train.loss_and_grads,
        parallel.sharded_update: train.update,
        parallel.summed: train.evaluate,
    }
    for wrapper, function in wrappers.items():
        assert wrapper(function, group) is function
    assert train.accumulated(train.loss_and_grads, 1) is train.loss_and_grads


def test_four_functions_lead_from_train_steps_to_the_first_matmul() -> None:
    """``train_steps``, ``loss_and_grads``, ``forward``, ``linear_forward``: a learner can follow them on one screen."""
    found: list[list[str]] = []

    class Watched(np.ndarray):
        def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
            if ufunc is np.matmul:
                found.append(
                    [frame.name for frame in traceback.extract_stack() if f"{os.sep}numpy_nn{os.sep}" in frame.filename]
                )
            plain = [np.asarray(each) for each in inputs]
            return getattr(ufunc, method)(*plain, **{name: tuple(map(np.asarray, v)) for name, v in kwargs.items()})

    state = train.init_state(
        MODELS["mlp"]().init(np.random.default_rng(0)), model="mlp", schedule_args={"lr": 0.1, "steps": 1}
    )
    state = replace(state, params=tree_map(lambda leaf: leaf.view(Watched), state.params))
    train.train_steps(state, np.zeros((1, 2, 28, 28, 1), np.uint8), np.zeros((1, 2), np.int32))
    assert found[0] == ["train_steps", "loss_and_grads", "forward", "linear_forward"]

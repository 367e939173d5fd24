"""SIGKILL anywhere: a comparison that is resumed afterwards ends as one that nobody touched, to the bit.

Killed are the worker, its parent or both, while training, in the middle of a save, at the end, and while resuming.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.paths import ROOT

from compare.checkpoint import store
from compare.tracks import TRACKS
from numpy_nn.tree import leaves

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system has no /proc"),
    pytest.mark.timeout(900),
]

STEPS = 1280
TARGETS, MOMENTS = ("worker", "parent", "tree"), ("training", "saving", "end", "resuming")
QUICK = [("numpy", "parent", "saving"), ("numpy", "tree", "end")]
EVERY = [
    pytest.param(*case, marks=pytest.mark.long if case in QUICK else pytest.mark.slow)
    for case in itertools.product(TRACKS, TARGETS, MOMENTS)
]


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command as a user starts it."""
    command = [sys.executable, "compare/run_all.py", *arguments]
    with (out.parent / f"{out.name}.txt").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, text=True)


def compare(out: Path, track: str) -> subprocess.Popen[str]:
    """A comparison of one track that saves after every chunk."""
    settings = ["--steps", str(STEPS), "--batch-size", "8", "--set", "model_args.hidden=[16]", "optimizer=adamw"]
    settings += ["--lr", "0.01", "--save-every", "1", "--no-mlflow"]
    return start(out, "mlp-mnist", "--tracks", track, *settings, "--out", str(out))


def children(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that these have."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, found):
        yield child
        yield from children(child)


def is_worker(pid: int) -> bool:
    try:
        return "compare.training.worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def reached(moment: str, folder: Path, workers: list[int]) -> bool:
    """Whether it is time to kill."""
    if moment == "resuming":
        return bool(workers)
    if moment == "saving":
        return any(folder.glob("*tmp*"))
    return (folder / str(STEPS)).exists() if moment == "end" else bool(store.steps(folder))


def kill(process: subprocess.Popen[str], out: Path, *, target: str, moment: str, delay: float) -> bool:
    """Kill the target at this moment, and wait until all processes have ended; False if the run ended before."""
    folder = out / "checkpoints" / run_folder(out)
    while process.poll() is None:
        below = list(children(process.pid))
        workers = [pid for pid in below if is_worker(pid)]
        if workers and reached(moment, folder, workers):
            time.sleep(delay)
            victims = {"worker": workers, "parent": [process.pid], "tree": [process.pid, *below]}[target]
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(60)
            ended(below)
            return True
        time.sleep(0.001)
    return False


def ended(pids: list[int]) -> None:
    """Wait until none of them is left: a worker without its parent ends by itself."""
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() and not is_zombie(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process outlived its parent"
        time.sleep(0.05)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def run_folder(out: Path) -> str:
    """Name of the only run's folder of checkpoints, which every comparison of this track shares."""
    return f"mlp-mnist-{out.parent.name}-seed0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of comparisons that nobody touched, made on first use."""
    return {}


@pytest.mark.parametrize(("track", "target", "moment"), EVERY)
def test_a_killed_comparison_ends_as_one_that_nobody_touched(track, target, moment, whole, tmp_path_factory):
    base = tmp_path_factory.mktemp("kills")
    (base / track).mkdir()
    if track not in whole:
        whole[track] = base / track / "whole"
        assert compare(whole[track], track).wait(400) == 0
    delay = random.Random(f"{track} {target} {moment}").uniform(0, 0.02 if moment in ("saving", "end") else 1.0)
    out = base / track / "run"
    process = compare(out, track)
    if moment == "resuming":
        assert kill(process, out, target="tree", moment="training", delay=0.2)
        process = start(out, "--resume", str(out))
    if not kill(process, out, target=target, moment=moment, delay=delay):
        pytest.fail(f"the run ended before it could be killed while {moment}")
    if any(run["status"] != "finished" for run in json.loads((out / "results.json").read_text())["runs"]):
        assert start(out, "--resume", str(out)).wait(400) == 0

    printed = (base / track / "run.txt").read_text()
    assert "Traceback" not in printed, printed
    results = [json.loads((folder / "results.json").read_text()) for folder in (out, whole[track])]
    assert [found["status"] for found in results] == ["finished", "finished"]
    (run,), (untouched,) = (found["runs"] for found in results)
    for name in ("status", "steps", "step_loss", "test_accuracy", "val_accuracy", "test_loss"):
        assert run[name] == untouched[name], name
    ours, theirs = (
        leaves(store.restore(folder / "checkpoints" / run_folder(out))[0]) for folder in (out, whole[track])
    )
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path], err_msg=path)

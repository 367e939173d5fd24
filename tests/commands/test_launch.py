"""Processes that others start: they find each other, train as one, and say who did not come."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support.paths import ROOT

from compare import presets
from compare.checkpoint import store
from compare.config import Interval
from compare.errors import UserError
from compare.launch import __main__ as launch
from compare.launch import rendezvous
from compare.training import worker
from compare.weights.npz import read_npz
from compare.workers.protocol import Job
from jax_nn import launch as jax_launch
from numpy_nn.tree import Tree, leaves
from torch_nn import launch as torch_launch

pytestmark = pytest.mark.long


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_connect_names_the_missing_processes():
    address, heard = f"127.0.0.1:{free_port()}", {}

    def call(process: int) -> None:
        try:
            jax_launch.connect(address, 4, process, 1)
        except TimeoutError as error:
            heard[process] = str(error)

    threads = [threading.Thread(target=call, args=(process,)) for process in (0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard.keys() == {0, 2}
    assert all("process 1, 3 of 4 did not connect within 1 s" in words for words in heard.values())


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (("10.0.0.1", 2, 0), "invalid address of process 0 '10.0.0.1': expected HOST:PORT"),
        (("10.0.0.1:29500", 2, 2), "invalid process 2: expected 0 to 1, for 2 processes"),
    ],
)
def test_invalid_rank_or_address_is_refused_before_waiting(where, message):
    address, processes, process = where
    with pytest.raises(ValueError, match=message):
        jax_launch.connect(address, processes, process, 1)


def test_incomplete_rendezvous_arguments_name_the_missing_ones(tmp_path):
    command = [sys.executable, "-m", "compare.launch", "mlp-mnist", "--track", "jax", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Give all three: coordinator (HOST:PORT of process 0), processes, process" in done.stderr


def test_broken_connection_is_reported_by_all(monkeypatch):
    address, lines = f"127.0.0.1:{free_port()}", {}

    def call(process: int) -> None:
        lines[process] = jax_launch.connect(address, 3, process, 60)

    threads = [threading.Thread(target=call, args=(process,)) for process in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words: list[str] = []
    monkeypatch.setattr(jax_launch, "_connections", lines[0])
    lines[1][0].close()  # process 1 is killed; this is process 0
    jax_launch._listen(1, lines[0][1], words.append)
    assert words == ["process 1 was lost without a message: it was killed, or its machine is down"]
    monkeypatch.setattr(jax_launch, "_connections", {})  # and this is process 2
    jax_launch._listen(0, lines[2][0], words.append)
    assert words[1] == words[0]
    for line in (*lines[0].values(), *lines[2].values()):
        line.close()


@pytest.mark.parametrize(("process", "missing"), [(0, 1), (1, 0)])
def test_timeout_names_the_missing_process(process, missing, monkeypatch):
    port = free_port()
    message = (
        f"process {missing} of 2 did not connect within 1 s: check that it is running and can reach 127.0.0.1:{port}"
    )
    with pytest.raises(TimeoutError, match=message):
        jax_launch.join(f"127.0.0.1:{port}", processes=2, process=process, timeout=1)
    who = {"RANK": process, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in who.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(TimeoutError, match=message):
        torch_launch.join(timeout=1)


def test_process_without_launcher_says_how_to_start(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(launch.tracks, "environment", lambda *_, **__: {})
    assert launch.main(["mlp-mnist", "--track", "torch", "--out", str(tmp_path)]) == 2
    assert "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set: start with torchrun" in capsys.readouterr().err


# --- where they go on -------------------------------------------------------------------------------------------------

CONFIG = dataclasses.replace(presets.get("mlp-mnist"), precision="float64", steps=58, batch_size=32, lr=0.1)
SAME = "--precision float64 --steps 58 --batch-size 32 --lr 0.1 --save-every 2".split()  # 29 chunks


def agreed(*jobs: Job) -> list[Any]:
    """What each of several processes finds, or the message with which it ends."""
    words, meeting = [""] * len(jobs), threading.Barrier(len(jobs))
    found: list[Any] = [None] * len(jobs)

    def process(number: int) -> None:
        def say(word: str) -> list[str]:
            words[number] = word
            meeting.wait()
            every = list(words)
            meeting.wait()
            return every

        try:
            found[number] = rendezvous.found_by_all(jobs[number], print, process=number, all_gather=say)
        except UserError as error:
            found[number] = str(error)

    threads = [threading.Thread(target=process, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def job(folder: Path, **changes: Any) -> Job:
    return Job(dataclasses.replace(CONFIG, **changes), "torch", threads=1, folder=folder)


def saved(folder: Path, *steps: int, **changes: Any) -> None:
    """Checkpoints as a run of the config would leave them, without the training."""
    config = dataclasses.replace(CONFIG, **changes)
    for step in steps:
        store.save(folder, step, {"params": {"w": np.full(3, step)}}, {"config": config.to_json()})


def test_all_processes_resume_from_the_newest_whole_checkpoint(tmp_path):
    folder = tmp_path / "run"
    assert agreed(job(folder), job(folder, devices=2)) == [None, None]
    saved(folder, 2, 4, 6)
    (folder / "6" / "meta" / "metadata").write_text("{")
    assert [found.step for found in agreed(job(folder), job(folder), job(folder, devices=2))] == [4, 4, 4]


def test_folder_that_is_not_shared_is_refused_by_all(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.3)
    one, other = tmp_path / "one", tmp_path / "other"
    host = socket.gethostname()
    refusal = f"the folder {other} is not shared: process 1 on {host} does not see {other / 'begun'} of process 0"
    first, second = agreed(job(one), job(other))
    assert first == second
    assert refusal in first
    saved(one, 2)
    other.mkdir(exist_ok=True)
    read_mark = rendezvous.read_mark
    monkeypatch.setattr(
        rendezvous, "read_mark", lambda folder: read_mark(one)
    )  # the mark is seen, and a checkpoint is not
    first, second = agreed(job(one), job(other))
    assert first == second
    assert f"the folder {other} is not shared: process 1 on {host} does not see checkpoint {other / '2'}" in first


def test_resuming_another_training_is_refused(tmp_path):
    folder = tmp_path / "run"
    first, second = agreed(job(folder), job(folder, lr=0.2))
    assert first == second
    assert "was started with other settings than process 0: its lr is 0.2, not 0.1" in first
    saved(folder, 2, batch_size=64)
    assert agreed(job(folder))[0] == f"{folder} holds another training: its batch_size is 32, not 64; " + (
        "choose another folder with --out"
    )


# --- real processes ---------------------------------------------------------------------------------------------------


class Group:
    """Processes of one training, started by hand on this machine: a context manager that leaves none behind."""

    def __init__(self, track: str, *outs: Path, more: Sequence[Sequence[str]] = ((), ())):
        port, self.processes = str(free_port()), []
        for process, out in enumerate(outs):
            who = {"RANK": process, "WORLD_SIZE": len(outs), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            where = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(len(outs)), "--process", str(process)]
            self.processes.append(
                subprocess.Popen(
                    [*LAUNCH, track, "--out", str(out), *(where if track == "jax" else []), *more[process]],
                    env=os.environ | {"XLA_FLAGS": ""} | {name: str(value) for name, value in who.items()},
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def end(self) -> list[tuple[int, str]]:
        """Exit status of each, and what it said."""
        said = [process.communicate(timeout=600)[0] for process in self.processes]
        return [(process.returncode, text) for process, text in zip(self.processes, said, strict=True)]


LAUNCH = [sys.executable, "-m", "compare.launch", "mlp-mnist", "--track"]


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    """Return once one is whole."""
    while not any(each.name.isdecimal() for each in out.glob("checkpoints/*/*")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def trained_by_one(folder: Path, track: str, **changes: Any) -> Tree:
    """The parameters after the same training in this process, on one device."""
    with jax.enable_x64(True):
        events: list[dict[str, Any]] = []
        config = dataclasses.replace(CONFIG, **changes)
        alone = Job(config, track, threads=1, folder=folder, save_every=Interval.parse("1000"))
        worker.run(alone, emit=events.append, stop=threading.Event())
    assert events[-1]["status"] == "finished", events[-1]["message"]
    return leaves(store.read(folder).snapshot["params"])


def assert_equal(out: Path, track: str, whole: Tree) -> None:
    """The trained network is that of one device without interruption."""
    snapshot, _ = read_npz(out / f"mlp-mnist-{track}.npz")
    found = leaves(snapshot["params"])
    assert found.keys() == whole.keys()
    for path, one in whole.items():
        np.testing.assert_allclose(found[path], one, rtol=0, atol=1e-12, err_msg=path)


@pytest.mark.slow
def test_torchrun_restarts_a_killed_worker(tmp_path):
    """Process 0 is killed, the one that saves."""
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    with subprocess.Popen(
        [*torchrun, *address, *LAUNCH[1:], "torch", "--out", str(out), *SAME],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as started:
        try:
            wait_for_checkpoint(out, started)
            (mark,) = out.glob(f"checkpoints/*/{rendezvous.MARK}")
            os.kill(int(mark.read_text().split()[1]), signal.SIGKILL)
            said, _ = started.communicate(timeout=280)
        finally:
            started.terminate()  # it ends its workers
    assert started.returncode == 0, said
    assert "resuming from " in said
    assert "step 58 of 58" in said.rpartition("resuming from ")[2]
    assert_equal(out, "torch", trained_by_one(tmp_path / "whole", "torch"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", [0, 1])  # PyTorch without 1: 2 waits for 0, and has no error
@pytest.mark.parametrize("track", ["jax", "torch"])
def test_killed_process_is_named_and_the_same_command_resumes(track, victim, tmp_path):
    out = tmp_path / "run"
    with Group(track, out, out, out, more=[[*SAME, "--batch-size", "96"]] * 3) as three:
        wait_for_checkpoint(out, three.processes[0])
        three.processes[victim].kill()
        for process, (status, said) in enumerate(three.end()):
            if process != victim:
                assert status == 1, said
                assert f"error: process {victim} was lost without a message: it was killed" in said
                assert "start all processes again with the same command" in said
    with Group(track, out, out, out, more=[[*SAME, "--batch-size", "96"]] * 3) as three:
        ended = three.end()
    assert [status for status, _ in ended] == [0, 0, 0], ended
    assert "resuming from " in ended[0][1]
    assert_equal(out, track, trained_by_one(tmp_path / "whole", track, batch_size=96))


@pytest.mark.parametrize("track", ["jax", "torch"])
def test_two_processes_train_the_same_network_as_one(track, tmp_path):
    out = tmp_path / "run"
    with Group(track, out, out, more=[SAME, SAME]) as two:
        ended = two.end()
    assert [status for status, _ in ended] == [0, 0], ended
    assert "step 58 of 58" in ended[0][1]
    meta = read_npz(out / f"mlp-mnist-{track}.npz")[1]
    assert meta["config"]["devices"] == 2
    assert (meta["classes"], meta["prepared"]["how"]) == (list("0123456789"), "digit")
    assert_equal(out, track, trained_by_one(tmp_path / "whole", track))


@pytest.mark.slow
@pytest.mark.parametrize("track", ["jax", "torch"])
def test_failure_in_one_process_ends_all(track, tmp_path):
    out = tmp_path / "run"
    with Group(track, out, tmp_path / "elsewhere", more=[SAME, SAME]) as two:
        for status, said in two.end():
            assert (status, "is not shared: process 1 on" in said) == (2, True), said

"""Processes that others start: they find each other, train as one, and say who did not come."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from compare import launch
from compare.networks import read_npz
from jax_nn import launch as jax_launch
from numpy_nn.tree import leaves
from torch_nn import launch as torch_launch

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_roll_call_names_who_is_missing():
    address, heard = f"127.0.0.1:{free_port()}", {}

    def call(process: int) -> None:
        heard[process] = jax_launch.roll_call(address, 4, process, 1)

    threads = [threading.Thread(target=call, args=(process,)) for process in (0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == {0: [1, 3], 2: [1, 3]}


@pytest.mark.parametrize(("process", "missing"), [(0, 1), (1, 0)])
def test_who_waits_alone_is_told_for_whom(process, missing, monkeypatch):
    port = free_port()
    message = f"no sign of process {missing} of 2: is it started, and does it reach 127.0.0.1:{port}"
    with pytest.raises(TimeoutError, match=message):
        jax_launch.join(f"127.0.0.1:{port}", processes=2, process=process, timeout=1)
    who = {"RANK": process, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in who.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(TimeoutError, match=message):
        torch_launch.join(timeout=1)


def test_a_process_that_nobody_launched_says_how(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(launch.tracks, "environment", lambda *_, **__: {})
    assert launch.main(["mlp-mnist", "--track", "torch", "--out", str(tmp_path)]) == 2
    assert "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set: start this by torchrun" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("track", ["jax", "torch"])
def test_two_processes_train_the_network_that_one_does(track, tmp_path):
    trained = {}
    for count in (1, 2):
        port, out = str(free_port()), tmp_path / str(count)
        command = [sys.executable, "-m", "compare.launch", "mlp-mnist", "--track", track, "--out", str(out)]
        command += ["--steps", "10", "--precision", "float64"]
        processes = []
        for process in range(count):
            who = {"RANK": str(process), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            where = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count), "--process", str(process)]
            processes.append(
                subprocess.Popen(
                    command + (where if track == "jax" else []),
                    env=os.environ | {"XLA_FLAGS": ""} | who,
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        said = [process.communicate(timeout=240)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * count, said
        assert "step 10 of 10" in said[0]
        snapshot, meta = read_npz(out / f"mlp-mnist-{track}.npz")
        assert meta["config"]["devices"] == count
        trained[count] = leaves(snapshot)
    for path, one in trained[1].items():
        np.testing.assert_allclose(trained[2][path], one, rtol=0, atol=1e-12, err_msg=path)

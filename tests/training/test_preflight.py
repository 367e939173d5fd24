"""What is checked before anything runs: devices, data, batch sizes, loaders and disk space of all planned runs."""

from __future__ import annotations

import collections
import dataclasses
import shutil
from pathlib import Path

import pytest

from compare import presets, run_all
from compare.benchmark import __main__ as benchmark
from compare.data import loaders
from compare.errors import UserError
from compare.training import preflight

MLP, CNN = (dataclasses.replace(presets.get(name), steps=5) for name in presets.DEFAULT)


@pytest.mark.parametrize("command", [run_all, benchmark])
def test_a_gpu_that_is_absent_is_refused_for_every_track_and_leaves_no_folder(command, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert command.main(["mlp-mnist", "cnn-mnist", "--device", "gpu", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("--tracks jax: JAX finds no GPU for device 'gpu'") == 1
    assert error.count("--tracks torch: PyTorch finds no GPU for device 'gpu'") == 1
    assert list(tmp_path.iterdir()) == []


def test_devices_that_every_machine_has_need_no_framework(monkeypatch):
    monkeypatch.setattr(preflight.process, "call", None)
    wanted = [MLP, dataclasses.replace(MLP, devices=2), dataclasses.replace(MLP, device="auto")]
    assert list(preflight.device_problems(wanted, ["numpy", "jax", "torch"])) == []
    assert list(preflight.device_problems([dataclasses.replace(MLP, device="gpu")], ["numpy"])) == []


def test_everything_that_is_wrong_with_the_data_is_said_at_once(tmp_path, monkeypatch):
    absent = dataclasses.replace(presets.get("resnet20-cifar10"), data_dir=str(tmp_path / "absent"))
    wanted = [
        dataclasses.replace(MLP, batch_size=60_000),
        dataclasses.replace(CNN, loader="grain"),
        dataclasses.replace(CNN, preset="two", model_args={"classes": 2}),
        dataclasses.replace(MLP, preset="best", val_size=0, keep_best=True),
        MLP,
        absent,
    ]
    monkeypatch.setitem(loaders.NEEDS, "grain", ("no_such_package",))
    problems = list(preflight.data_problems(wanted))
    assert len(problems) == 5
    expected = {
        "mlp-mnist: batch size 60,000 is larger than the training set of 55,000 images",
        "cnn-mnist: the loader grain needs no_such_package",
        "two takes images of 28x28x1 in 2 classes; mnist has images of 28x28x1 in 10 classes",
        "best: patience and keep_best need validation images",
        "resnet20-cifar10: the data folder",
    }
    assert all(any(problem.startswith(words) for problem in problems) for words in expected), problems


def test_checkpoints_that_do_not_fit_on_the_disk_are_refused(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "free")
    needed = 6 * (2 + 2) * preflight.checkpoint_bytes(MLP)  # two seeds in three tracks
    for free, refused in ((needed - 1, True), (needed, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(free))
        problems = preflight.disk_problems([MLP, MLP], 3, folder=tmp_path / "new", keep=2)
        assert [f"{tmp_path}/new has 0.13 GB" in problem and "--keep" in problem for problem in problems] == (
            [True] * refused
        )


def test_the_size_of_a_checkpoint_is_that_of_its_arrays():
    parameters = 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
    assert preflight.checkpoint_bytes(MLP) == pytest.approx(4 * 2 * parameters, rel=1e-4)  # with the momentum
    assert preflight.checkpoint_bytes(dataclasses.replace(MLP, ema=0.99)) == pytest.approx(4 * 3 * parameters, rel=1e-4)


def test_a_checkpoint_of_other_data_is_refused_before_the_start(tmp_path, monkeypatch):
    from compare.experiment import plan

    meta = {"config": MLP.to_json(), "data": {"digest": "0" * 64}, "step": 3}
    monkeypatch.setattr(plan.process, "call", lambda *_: meta)
    with pytest.raises(UserError, match="was trained on other data: mnist had SHA-256 000000000000… then"):
        plan.from_checkpoint(tmp_path, None, {})
    meta["data"]["digest"] = plan.load_data("mnist", seed=0).digest
    assert plan.from_checkpoint(tmp_path, None, {}) == MLP
    meta["step"] = 5
    with pytest.raises(UserError, match="is already at step 5 of 5: increase --steps"):
        plan.from_checkpoint(tmp_path, None, {})


def test_a_folder_that_cannot_be_used_is_refused_and_a_new_one_is_not_left_behind(tmp_path):
    from compare import cli

    new: Path = tmp_path / "a" / "b"
    cli.require_writable(new)
    assert list(tmp_path.iterdir()) == []
    cli.require_writable(tmp_path)
    assert tmp_path.exists()

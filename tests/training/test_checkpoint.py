"""Checkpoints on disk: whole or absent, the last and the best kept, damage named and refused."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from compare.checkpoint import __main__ as checkpoint
from compare.checkpoint import store
from compare.checkpoint.digests import array_digests
from compare.checkpoint.reader import verified
from compare.checkpoint.store import CheckpointError, Writer
from compare.workers.process import ROOT
from numpy_nn.tree import Tree, leaves

META = {"config": {"model": "mlp", "dataset": "mnist", "seed": 3}, "track": "numpy"}


def snapshot_of(seed: int) -> Tree:
    rng = np.random.default_rng(seed)
    moments = {"count": np.int32(seed), "mu": {"hidden": {}, "kernel": rng.standard_normal((5, 4)).astype(np.float32)}}
    params = {"hidden": {}, "kernel": rng.standard_normal((5, 4)).astype(np.float32), "bias": rng.standard_normal(4)}
    return {"params": params, "stats": {}, "opt": moments, "step": np.int32(seed)}


def write(folder: Path, accuracies: dict[int, float | None], keep: int | None = None) -> None:
    with Writer(folder, keep=keep) as writer:
        for step, accuracy in accuracies.items():
            metrics = {} if accuracy is None else {"val_accuracy": accuracy}
            writer.save(step, snapshot_of(step), META | {"metrics": metrics}, {"step_loss": [0.1] * step})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with two checkpoints, not to be written to."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder, {10: 0.5, 20: 0.7})
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_saved_checkpoint_is_restored_exactly(whole):
    found = store.read(whole)
    saved = snapshot_of(20)
    assert (found.path, found.step, found.progress) == (whole / "20", 20, {"step_loss": [0.1] * 20})
    assert found.snapshot["stats"] == {}
    for path, leaf in leaves(found.snapshot).items():
        np.testing.assert_array_equal(leaf, leaves(saved)[path], strict=True)
    snapshot, meta = store.restore(whole / "10")
    assert (int(snapshot["step"]), meta["format"], meta["track"], meta["metrics"]) == (
        10,
        1,
        "numpy",
        {"val_accuracy": 0.5},
    )


def test_plain_orbax_reads_the_same_arrays(whole):
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(whole) as manager:
        items = manager.restore(
            20, args=ocp.args.Composite(snapshot=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
        )
    found = store.read(whole)
    assert items["meta"] == found.meta
    ours, theirs = leaves({**found.snapshot, "stats": {}}), leaves(items["snapshot"])
    assert theirs.keys() == ours.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], strict=True)


def test_last_and_best_checkpoints_are_kept(tmp_path):
    write(tmp_path, {10: 0.5, 20: 0.9, 30: 0.8, 40: 0.9, 50: None, 60: 0.7}, keep=2)
    assert [path.name for path in store.steps(tmp_path)] == ["20", "50", "60"]  # the first of equals
    write(tmp_path, {70: 0.8, 80: 0.95, 90: None, 100: None}, keep=2)  # another process goes on
    assert [path.name for path in store.steps(tmp_path)] == ["80", "90", "100"]
    assert {path.name for path in tmp_path.iterdir()} == {"80", "90", "100"}


# --- damage -----------------------------------------------------------------------------------------------------------


def files(path: Path) -> list[Path]:
    """Every file of a checkpoint, relative to it."""
    return sorted(each.relative_to(path) for each in path.rglob("*") if each.is_file())


def same_as(found: store.Checkpoint, original: store.Checkpoint) -> bool:
    ours, theirs = leaves(found.snapshot), leaves(original.snapshot)
    equal = ours.keys() == theirs.keys() and all(np.array_equal(ours[path], theirs[path]) for path in ours)
    return equal and found.meta == original.meta and found.progress == original.progress


def test_every_flipped_bit_is_detected(run):
    """In any file, at any place: the checkpoint is refused, or what it returns is what was saved."""
    generator, original, refused = random.Random(0), store.read(run), 0
    for name in files(run / "20"):
        content = (run / "20" / name).read_bytes()
        for _ in range(4):
            flipped, place = bytearray(content), generator.randrange(len(content))
            flipped[place] ^= 1 << generator.randrange(8)
            (run / "20" / name).write_bytes(flipped)
            try:
                found = store.verified(run / "20")
            except CheckpointError:
                refused += 1
            else:
                assert same_as(found, original), (name, place)
        (run / "20" / name).write_bytes(content)
    assert refused > 15


def test_emptied_file_is_named(run):
    for name in files(run / "20"):
        content = (run / "20" / name).read_bytes()
        (run / "20" / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match=f"20 is damaged: {name} is empty"):
            store.verified(run / "20")
        (run / "20" / name).write_bytes(content)


@pytest.mark.parametrize(("shape", "chunks"), [(30_000, 30_000), (30_000, 1), (10**9, 1), (3_000, 1)])
def test_metadata_cannot_claim_a_huge_array(shape, chunks, run):
    import tensorstore

    base = {"driver": "file", "path": f"{run / '20' / 'snapshot'}/"}
    stored = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    described = json.loads(stored.read("params.kernel/.zarray").result().value)
    described |= {"shape": [shape, shape], "chunks": [chunks, chunks]}
    stored.write("params.kernel/.zarray", json.dumps(described).encode()).result()
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"its arrays claim|is split into chunks"):
        store.verified(run / "20")
    assert time.perf_counter() - start < 5  # 0.02


STRAYS = (".nfs0001", ".DS_Store", "metadata~", "snapshot/.nfs0002", "snapshot/d/.#lock", "meta/metadata.swp", "Icon\r")


def test_stray_files_and_folders_are_ignored(run, capsys):
    """What file managers, editors and network file systems leave, empty or not, in a checkpoint or beside it."""
    original = store.read(run)
    for number, name in enumerate(STRAYS):
        for parent in (run / "20", run):
            (parent / name).parent.mkdir(parents=True, exist_ok=True)
            (parent / name).write_bytes(b"stray" * (number % 2))
    for name in ("20/empty", "20/snapshot/empty", "20/snapshot/d/empty", "30", "40/empty"):
        (run / name).mkdir(parents=True)
    (run / "50").touch()
    found = store.newest(run, damaged=lambda path, error: pytest.fail(str(error)))
    assert found is not None
    assert same_as(found, original)
    assert same_as(store.read(run), original)
    assert checkpoint.main(["verify", str(run)]) == 0
    assert "2 of 2 checkpoints are whole" in capsys.readouterr().out
    write(run, {30: 0.9})
    assert store.read(run).step == 30


def test_only_the_newest_good_checkpoint_is_read(run, monkeypatch):
    write(run, {30: 0.6, 40: 0.5})
    shutil.rmtree(run / "40" / "meta")
    read = []

    def counted(path):
        read.append(path.name)
        return verified(path)

    monkeypatch.setattr(store, "verified", counted)
    found = store.newest(run)
    assert found is not None
    assert found.step == 30
    assert read == ["40", "30"]


def test_truncated_arrays_are_refused_and_the_newest_good_checkpoint_is_offered(run):
    large = max(files(run / "20"), key=lambda name: (run / "20" / name).stat().st_size)
    for name in ("meta/metadata", "progress/metadata", "snapshot/_METADATA", "snapshot/manifest.ocdbt"):
        broken = shutil.copytree(run / "20", run / "30")
        (broken / name).write_bytes((broken / name).read_bytes()[:-7])
        with pytest.raises(CheckpointError, match=rf"30 is damaged: .*{name.partition('/')[0]}.*good .*/20$"):
            store.read(run)
        shutil.rmtree(broken)
    (run / "20" / large).write_bytes((run / "20" / large).read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"good checkpoint beside it is .*/10$"):
        store.read(run)
    assert store.read(run, 10).step == 10


def test_checkpoints_are_deleted_only_while_none_is_saved(tmp_path, monkeypatch):
    busy = []
    with Writer(tmp_path) as writer:
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: busy.append(writer._manager.is_saving_in_progress()))
        for step in range(1, 5):
            writer.save(step, snapshot_of(step), META)
    assert busy
    assert not any(busy)


@pytest.mark.parametrize("part", ["snapshot", "meta", "progress"])
def test_missing_part_is_named(run, part):
    shutil.rmtree(run / "20" / part)
    with pytest.raises(CheckpointError, match=f"20 is damaged: .*{part}.*good checkpoint beside it is .*/10$"):
        store.read(run)


def test_changed_metadata_is_detected(run):
    path = run / "20" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(CheckpointError, match=r"not what was saved \(SHA-256 differs\): meta or progress"):
        store.read(run)


@pytest.mark.parametrize("change", ["missing", "added"])
def test_an_array_that_is_missing_or_added_is_named(change, run, tmp_path):
    """The arrays of another checkpoint, each of them whole, in the place of those that were saved."""
    snapshot = snapshot_of(20)
    if change == "missing":
        del snapshot["params"]["bias"]
    else:
        snapshot["params"]["extra"] = np.ones(3)
    store.save(tmp_path / "other", 20, snapshot, META)
    shutil.rmtree(run / "20" / "snapshot")
    shutil.copytree(tmp_path / "other" / "20" / "snapshot", run / "20" / "snapshot")
    name = {"missing": "params/bias", "added": "params/extra"}[change]
    with pytest.raises(CheckpointError, match=rf"20 is damaged: not what was saved \(SHA-256 differs\): {name};"):
        store.read(run)


def test_other_format_version_is_named(run):
    path = run / "20" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="has format 2 but this version reads 1: update this project"):
        store.read(run)


def test_nan_is_neither_saved_nor_restored(run, monkeypatch):
    snapshot = snapshot_of(30)
    snapshot["opt"]["mu"]["kernel"][1, 2] = np.nan
    with pytest.raises(CheckpointError, match=r"30 was not saved: NaN or infinity in opt/mu/kernel; try a lower"):
        store.save(run, 30, snapshot, META)
    monkeypatch.setattr(store, "not_finite", lambda snapshot: None)
    store.save(run, 30, snapshot, META)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"30 cannot be used: NaN or infinity in opt/mu/kernel; .* good .*/20$"):
        store.read(run)


def test_absent_checkpoints_are_named(run, tmp_path):
    for path, step, message in (
        (tmp_path / "nowhere", None, "no checkpoint at .*/nowhere: give the folder of a run or of one of its steps"),
        (run / "30", None, "no checkpoint at .*/30: there are steps 10, 20"),
        (run, 30, "has no step 30: it holds 10, 20"),
        (tmp_path, None, "holds the checkpoints of several runs: choose one of .*/run"),
    ):
        with pytest.raises(CheckpointError, match=message):
            store.read(path, step)


def test_damaged_checkpoints_are_set_aside(run):
    shutil.rmtree(run / "20" / "meta")
    problems = {}
    found = store.newest(run, damaged=lambda path, error: problems.update({store.set_aside(path).name: str(error)}))
    assert found is not None
    assert found.step == 10
    assert list(problems) == ["20.damaged"]
    assert "20 is damaged: meta/ is missing" in problems["20.damaged"]
    assert {path.name for path in run.iterdir()} == {"10", "20.damaged"}
    assert store.read(run).step == 10
    write(run, {20: 0.9})
    assert store.read(run).step == 20


def test_nothing_in_a_checkpoint_is_executed(run, tmp_path):
    """Pickles in the place of each file, which would leave a trace if anybody unpickled them."""
    trace = tmp_path / "trace"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trace,)

    refused = set()
    for name in files(run / "20"):
        content = (run / "20" / name).read_bytes()
        (run / "20" / name).write_bytes(pickle.dumps(Trap()))
        try:
            store.verified(run / "20")
        except CheckpointError:
            refused.add(name.as_posix())
        (run / "20" / name).write_bytes(content)
    assert refused >= {"meta/metadata", "progress/metadata", "snapshot/_METADATA"}  # Orbax's marks are not read
    assert not trace.exists()


TOO_LARGE = """
import sys, numpy
from pathlib import Path
from compare.checkpoint import store
kernel = numpy.random.default_rng(0).standard_normal(400_000)
try:
    store.save(Path(sys.argv[1]), 30, {"params": {"kernel": kernel}}, {})
except store.CheckpointError as error:
    print(error)
"""


def test_full_disk_is_named_and_leaves_other_checkpoints_whole(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a small file system here")
    run = tmp_path / "run"
    try:
        write(run, {10: 0.5, 20: 0.7})
        saving = [sys.executable, "-c", TOO_LARGE, str(run)]  # its own process: Orbax's threads complain for a while
        printed = subprocess.run(saving, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert "No space left on device" in printed
        assert f"free some space or choose another folder; the newest good one there is {run / '20'}" in printed
        assert [path.name for path in store.steps(run)] == ["10", "20"]
        write(run, {30: 0.9})
        assert store.read(run).step == 30
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


# --- command line -----------------------------------------------------------------------------------------------------


def test_ls_show_and_verify_commands(run, capsys):
    assert checkpoint.main(["ls", str(run.parent)]) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        f"{run / '20'}  mlp on mnist, numpy, seed 3, step 20, validation accuracy 70.00%"
    )
    assert checkpoint.main(["verify", str(run)]) == 0
    assert "2 of 2 checkpoints are whole" in capsys.readouterr().out
    assert checkpoint.main(["show", str(run / "10")]) == 0
    assert "params/kernel float32 (5, 4)" in capsys.readouterr().out
    assert checkpoint.main(["show", "--json", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 20

    (run / "20" / "snapshot" / "_METADATA").write_bytes(b"")
    assert checkpoint.main(["verify", str(run)]) == 1
    assert "1 of 2 checkpoints are whole" in capsys.readouterr().out
    assert checkpoint.main(["show", str(run)]) == 2
    assert "snapshot/_METADATA is empty; the newest good checkpoint beside it is" in capsys.readouterr().err
    assert checkpoint.main(["ls", str(run / "nowhere")]) == 2


def test_digest_of_an_array_covers_dtype_and_shape() -> None:
    x = np.zeros((2, 3), np.float32)
    digests = [array_digests({"x": each})["x"] for each in (x, x.copy(), x.T.copy(), x.view(np.int32))]
    assert digests[0] == digests[1]
    assert len({*digests}) == 3

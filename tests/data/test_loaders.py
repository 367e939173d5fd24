"""The five loaders: one order, the same bytes, from any step; files larger than memory; what is absent or damaged."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT

from compare import cli, presets, run_all
from compare.benchmark import trial
from compare.data import Data, loaders
from compare.data.loaders import LOADERS, BatchIterator, records
from compare.data.loaders.records import Records, prepared, write
from compare.data.stream import IndexSampler
from compare.data.text import windows
from compare.errors import UserError
from compare.loaders import __main__ as command
from compare.loaders import results
from compare.report import __main__ as again
from compare.workers.protocol import Job

pytestmark = pytest.mark.long

SIZE, SHAPE = 90, (5, 6, 3)


@pytest.fixture(scope="module")
def text() -> Data:
    """Windows of a text, whose labels are as many as its characters."""
    x, y = windows(np.random.default_rng(0).integers(0, 128, SIZE * 7 + 1).astype(np.uint8), 7)
    classes = tuple(map(chr, range(128)))
    return Data(name="text", train_x=x, train_y=y, test_x=x[:3], test_y=y[:3], classes=classes, mean=(0.0,), std=(1.0,))


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (SIZE, *SHAPE), np.uint8)
    y = rng.integers(0, 10, SIZE).astype(np.int32)
    return Data(
        name="toy",
        train_x=x,
        train_y=y,
        test_x=x[:3],
        test_y=y[:3],
        classes=tuple("0123456789"),
        mean=(0.5,) * 3,
        std=(0.3,) * 3,
    )


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test here may read or write the cache in the home folder, or wait for more workers than it needs."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("NN_CACHE_DIR", str(folder))
        patch.setattr("compare.data.loaders.torch.WORKERS", 1)
        yield folder


def sampler(first: int, stop: int) -> IndexSampler:
    return IndexSampler(seed=1, batch_size=8, train_size=SIZE, k=3, first=first, stop=stop)


def digest(chunks: Any) -> str:
    sha = hashlib.sha256()
    for x, y in chunks:
        sha.update(x)
        sha.update(y)
    return sha.hexdigest()


# --- one order ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOADERS)
def test_loader_yields_the_same_bytes_from_any_step(name: str, data: Data) -> None:
    whole = [data[index] for index in sampler(0, 24)]  # 192 images: more than two epochs
    with BatchIterator(data, sampler(0, 24), loader=name) as batches:
        found = list(batches)
    assert len(found) == 8
    for x, y in found:
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((3, 8, *SHAPE), np.uint8, (3, 8), np.int32)
        assert x.flags.c_contiguous
        assert x.flags.writeable
    assert digest(found) == digest(whole)
    with BatchIterator(data, sampler(15, 24), loader=name) as batches:
        assert digest(batches) == digest(whole[5:])


@pytest.mark.parametrize("name", LOADERS)
def test_loader_yields_the_windows_of_a_text_and_their_labels(name: str, text: Data) -> None:
    whole = [text[index] for index in sampler(0, 9)]
    with BatchIterator(text, sampler(0, 9), loader=name) as batches:
        found = list(batches)
    for x, y in found:
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((3, 8, 7), np.uint8, (3, 8, 7), np.int32)
    assert digest(found) == digest(whole)


def test_the_command_takes_no_text_and_no_dataset_smaller_than_a_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["shakespeare", "--out", str(tmp_path / "out")]) == 2
    assert "shakespeare is a text, and this command trains a network of images" in capsys.readouterr().err
    np.savez(tmp_path / "few.npz", x=np.zeros((60, 8, 8), np.uint8), y=np.arange(60) % 2)
    assert command.main([str(tmp_path / "few.npz"), "--loaders", "memory", "--out", str(tmp_path / "out")]) == 2
    assert "has 45 training images, fewer than a batch of 128: choose a larger" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["memory", "tfds", "grain", "tfdata"])
def test_loader_may_be_closed_early(name: str, data: Data) -> None:
    with BatchIterator(data, sampler(0, 24), loader=name) as batches:
        next(batches)
    assert next(batches, None) is None
    with BatchIterator(data, sampler(24, 24), loader=name) as batches:
        assert list(batches) == []


def test_a_sampler_takes_two_permutations_of_8_bytes_an_image() -> None:
    """Of 20 GB of CIFAR's images, 6.5 million, that is 104 MB."""
    count = 1_000_000
    large = IndexSampler(seed=0, batch_size=128, train_size=count, k=64, first=count // 128 - 10, stop=10**9)
    tracemalloc.start()
    straddling, far = large[0], large[10_000_000]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert straddling.shape == far.shape == (64, 128)
    assert peak < 3.2 * 8 * count  # two are kept while a third is made
    with pytest.raises(IndexError):
        large[len(large)]


def test_training_losses_do_not_depend_on_the_loader(tmp_path: Path) -> None:
    config = dataclasses.replace(presets.get("mlp-mnist"), model_args={"hidden": (8,)}, steps=10, augment=("crop:2",))

    def losses(loader: str) -> list[float]:
        job = Job(dataclasses.replace(config, loader=loader), "numpy", threads=1, folder=tmp_path, chunk=2)
        answer = trial.run(job, breakdown=False, evaluate=False)
        assert 0 < answer["input_share"] < 1
        return answer["losses"]

    assert losses("grain") == losses("memory")


# --- what may be imported ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 images of 3 KB in a file."""
    folder = tmp_path_factory.mktemp("stored") / "small"
    make(folder, 2_000, (32, 32, 3))
    return folder


def make(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    """Images that say which they are: a number in the first four bytes, noise in the others."""
    rng = np.random.default_rng(0)

    def examples() -> Iterator[tuple[np.ndarray, int]]:
        for number in range(count):
            image = rng.integers(0, 256, shape, np.uint8)
            image.reshape(-1)[:4] = np.frombuffer(np.uint32(number).tobytes(), np.uint8)
            yield image, number % 10

    write(folder, examples(), shape)


def stream(folder: Path, loader: str, first: int, stop: int, *, k: int = 4, batch_size: int = 32) -> dict[str, Any]:
    """Stream in a fresh process."""
    done = subprocess.run(
        [sys.executable, "tests/support/streaming.py", str(folder), loader, *map(str, (first, stop, k, batch_size))],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_files_stream_from_any_step_without_tensorflow(stored: Path) -> None:
    found = stream(stored, "grain", 32, 64)  # reads by TFDS, too
    numbers = IndexSampler(seed=3, batch_size=32, train_size=2_000, k=4, first=0, stop=64)
    whole = [
        hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest() for x, y in map(Records(stored).__getitem__, numbers)
    ]
    assert found["hashes"] == whole[8:]
    assert not found["tensorflow"]
    assert max(found["memory"]) < 1000


@pytest.mark.parametrize("module", ["compare.data.loaders.tfdata", "compare.benchmark.baseline_keras"])
def test_tensorflow_is_kept_off_the_gpu(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    imported = importlib.import_module(module)
    monkeypatch.setattr(imported.tf.config, "set_visible_devices", lambda *given: seen.append(given))
    monkeypatch.delitem(sys.modules, module)
    importlib.import_module(module)
    assert seen == [([], "GPU")]


def test_every_stored_image_comes_once_an_epoch(stored: Path) -> None:
    two = IndexSampler(seed=3, batch_size=50, train_size=2_000, k=4, first=0, stop=80)
    for name in ("tfdata", "tfds"):
        with BatchIterator(Records(stored), two, loader=name) as batches:
            numbers = np.concatenate(
                [x.reshape(-1, 32 * 32 * 3)[:, :4].copy().view(np.uint32).ravel() for x, _ in batches]
            )
        assert (np.sort(numbers.reshape(2, 2_000), axis=1) == np.arange(2_000)).all()
        assert (numbers[:200] == two[0].ravel()).all()


def test_pytorchs_workers_need_no_short_temporary_folder(
    stored: Path, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's path has 107 characters at most; a socket in this folder could not be made."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    small = IndexSampler(seed=1, batch_size=8, train_size=SIZE, k=3, stop=6)
    for images in (data, Records(stored)):
        with BatchIterator(images, small, loader="torch") as batches:
            assert digest(batches) == digest(images[index] for index in small)
    assert not list(folder.iterdir())


def test_a_full_temporary_folder_is_named(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(UserError, match=r"cannot write 8,100 bytes to .*No space left.*TMPDIR.*--loader memory"):
        BatchIterator(data, sampler(0, 3), loader="torch")


def test_memory_loader_refuses_stored_files(stored: Path) -> None:
    with pytest.raises(UserError, match=r"not in memory: choose the loader torch"):
        BatchIterator(Records(stored), sampler(0, 3))


@pytest.mark.slow
def test_killed_loader_worker_is_named_and_its_batches_are_repeated(stored: Path) -> None:
    def numbers(first: int) -> IndexSampler:
        return IndexSampler(seed=3, batch_size=32, train_size=2_000, k=4, first=first, stop=64)

    expected = [x for x, _ in map(Records(stored).__getitem__, numbers(0))]
    seen = []

    def until_it_is_killed() -> None:
        with BatchIterator(Records(stored), numbers(0), loader="torch") as batches:
            for x, _ in batches:
                seen.append(x)
                if len(seen) == 2:
                    multiprocessing.active_children()[0].kill()

    with pytest.raises(UserError, match=r"DataLoader worker.*--resume"):
        until_it_is_killed()
    assert 2 <= len(seen) < 16
    with BatchIterator(Records(stored), numbers(4 * len(seen)), loader="torch") as batches:
        seen += [x for x, _ in batches]
    assert not multiprocessing.active_children()
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the file alone takes minutes where the machine is busy
@pytest.mark.parametrize("loader", ["torch", "tfds", "tfdata", "grain"])
def test_2_gb_stream_in_constant_memory(loader: str, huge: Path) -> None:
    found = stream(huge, loader, 900, 1_092, batch_size=128)
    first, *_ = stream(huge, "tfds", 1_000, 1_004, batch_size=128)["hashes"]
    assert first == found["hashes"][25]
    memory = found["memory"]
    assert len(memory) == 48
    assert max(memory) < 1000
    assert max(memory[24:]) < 1.1 * max(memory[4:24])


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 GB of noise, which does not compress."""
    folder = tmp_path_factory.mktemp("huge") / "noise"
    make(folder, 165_000, (64, 64, 3))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) > 2e9
    return folder


# --- preparation -------------------------------------------------------------------------------


def test_preparation_is_offline_and_happens_once(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("somebody wants to connect")

    monkeypatch.setattr("socket.socket.connect", refuse)
    other = dataclasses.replace(data, train_x=data.train_x[::-1].copy())
    with ThreadPoolExecutor(2) as both:
        folders = list(both.map(lambda _: prepared(other, "array_record"), range(2)))
    assert folders[0] == folders[1] != prepared(data, "array_record")
    monkeypatch.setattr(records, "write", refuse)
    assert prepared(other, "array_record") == folders[0]
    monkeypatch.setattr("fcntl.flock", lambda *_: pytest.fail("a complete folder, perhaps another user's, is locked"))
    assert prepared(other, "array_record") == folders[0]
    x, _ = Records(folders[0])[np.array([[0, 5]])]
    assert (x[0] == other.train_x[[0, 5]]).all()


def test_interrupted_preparation_is_not_used(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    other, whole = dataclasses.replace(data, train_y=data.train_y[::-1].copy()), records.write

    def killed(folder: Path, *_: Any, **__: Any) -> None:
        (folder / "images" / "incomplete.X_1.0.0").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(records, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        prepared(other, "array_record")
    monkeypatch.setattr(records, "write", whole)
    folder = prepared(other, "array_record")
    assert [path.name for path in (folder / "images").iterdir()] == ["1.0.0"]


def test_unreadable_and_unwritable_folders_are_named(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"nothing-here cannot be read .*Delete it to have it made again"):
        len(Records(tmp_path / "nothing-here"))
    make(tmp_path / "torn", 50, (4, 4, 1))
    (file,) = (tmp_path / "torn").rglob("*array_record-0*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"torn cannot be read .*Delete it to have it made again"):
        Records(tmp_path / "torn")[np.arange(50).reshape(1, 50)]
    torn = IndexSampler(seed=0, batch_size=10, train_size=50, k=1, first=0, stop=5)
    for name in ("tfds", "grain", "tfdata"):
        with pytest.raises(UserError, match=r"torn cannot be read .*again\.$"):
            BatchIterator(Records(tmp_path / "torn"), torn, loader=name)
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("NN_CACHE_DIR", str(tmp_path / "a-file"))
    with pytest.raises(UserError, match="NN_CACHE_DIR"):
        prepared(data, "array_record")


# --- the commands ------------------------------------------------------------------------------


def test_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "grain" else found(name))
    assert run_all.main(["mlp-mnist", "--loader", "grain"]) == 2
    assert "the loader grain needs grain: pip install 'nn-three-ways[grain]'" in capsys.readouterr().err
    assert command.main(["--loaders", "grain"]) == 2
    with pytest.raises(UserError, match=r"unknown loader 'tfd': choose one of memory, torch"):
        loaders.require("tfd")
    assert cli.LOADERS == LOADERS


TRIAL = {"images_per_second": 1e4, "start_seconds": 1.0, "memory_mb": 100.0, "step_ms": 4.0, "input_share": 0.1}


def test_loader_with_different_batches_gets_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    checksums = {"memory": "a", "grain": "a", "tfds": "a"}

    def measured(loader: str, number: int, _: Any) -> dict[str, Any]:
        return {"loader": loader, "repeat": number, "checksum": checksums[loader], **TRIAL}

    monkeypatch.setattr(command, "measured", measured)
    monkeypatch.setattr(command, "delivered", lambda *_, **__: {})
    arguments = ["--loaders", *checksums, "--repeats", "2"]
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "10.0%" in capsys.readouterr().out
    assert len(results.read(tmp_path / "out")["trials"]) == 6
    assert again.main([str(tmp_path / "out"), "--json"]) == 0
    out, table = capsys.readouterr()
    assert json.loads(out) == [{"folder": str(tmp_path / "out"), **results.read(tmp_path / "out")}]
    assert "10.0%" in table
    checksums["grain"] = "b"
    assert command.main([*arguments, "--out", str(tmp_path / "other")]) == 1
    assert "its batches differ from those of memory" in capsys.readouterr().out
    assert command.main([*arguments, "--out", str(tmp_path / "as json"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["trials"] == results.read(tmp_path / "as json")["trials"]
    assert command.main([*arguments, "--out", str(tmp_path / "other")]) == 2
    assert "holds results already (loaders.json)" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["--repeats", "0"])
    assert command.main(["mnits", "--out", str(tmp_path / "third")]) == 2


def test_ctrl_c_reports_the_loaders_that_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(loader: str, number: int, _: Any) -> dict[str, Any]:
        if loader == "grain":
            raise KeyboardInterrupt
        return {"loader": loader, "repeat": number, "checksum": "a", **TRIAL}

    monkeypatch.setattr(command, "measured", measured)
    assert command.main(["--loaders", "memory", "grain", "--out", str(tmp_path)]) == 130
    assert [trial["loader"] for trial in results.read(tmp_path)["trials"]] == ["memory"]
    (tmp_path / "loaders.json").write_text('{"kind": "search", "schema": 1}')
    with pytest.raises(UserError, match="is not of the kind 'loaders'"):
        results.read(tmp_path)


@pytest.mark.slow
def test_loader_benchmark_runs(tmp_path: Path, capsys: Any) -> None:
    assert command.main(["--repeats", "1", "--out", str(tmp_path)]) == 0
    trials = results.read(tmp_path)["trials"]
    assert [each["loader"] for each in trials] == list(LOADERS)
    assert len({each["checksum"] for each in trials}) == 1
    assert trials[0]["input_share"] < 0.1  # the target for memory; observed: 0.02

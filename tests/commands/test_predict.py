"""Predicting: the networks that ship, the command, the five lines of the README, and whatever may be wrong."""

from __future__ import annotations

import contextlib
import io
import json
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.paths import ROOT

from compare import cli, data, shipped
from compare.predict import DEFAULT, SHIPPED, Predictor, load, load_image, main
from compare.tracks import TRACKS
from compare.weights.npz import WeightsError, read_npz, write_npz
from compare.weights.open import open_network
from numpy_nn.models import MODELS
from numpy_nn.tree import tree_map

SEVEN = SHIPPED / "seven.png"
CIFAR_LIKE: dict[str, Any] = {
    "config": {"model": "mlp", "model_args": {"input_shape": [6, 6, 3], "hidden": [4]}, "dataset": "elsewhere"},
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
}


def small(tmp_path: Path, **changes: Any) -> Path:
    """A network of random numbers for small colour images, exported."""
    snapshot = MODELS["mlp"](input_shape=(6, 6, 3), hidden=(4,)).init(np.random.default_rng(0))
    write_npz(tmp_path / "small.npz", snapshot, CIFAR_LIKE | changes)
    return tmp_path / "small.npz"


# --- what ships -------------------------------------------------------------------------------------------------------


def test_what_ships_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.npz")) <= 3e6


@pytest.mark.parametrize("name", shipped.CONFIGS)
def test_the_card_says_what_the_network_does(name: str) -> None:
    test = data.load("mnist")
    counted = shipped.card(name, open_network(SHIPPED / f"{name}.npz"), test.test_x, test.test_y)
    assert (SHIPPED / f"{name}.md").read_text("utf-8") == counted


@pytest.mark.parametrize("name", shipped.CONFIGS)
def test_the_tracks_agree_on_what_ships(name: str) -> None:
    x = data.load("mnist").test_x[:500]
    network = open_network(SHIPPED / f"{name}.npz")
    logits = {track: network.logits(x, track) for track in TRACKS}
    for track in ("jax", "torch"):
        np.testing.assert_array_equal(logits[track].argmax(axis=1), logits["numpy"].argmax(axis=1))
        np.testing.assert_allclose(logits[track], logits["numpy"], atol=1e-4)  # 1.1e-5, of logits up to 28


def distort(x: np.ndarray, how: str) -> Image.Image:
    """A digit of MNIST (28, 28, 1) as people might send it."""
    image = Image.fromarray(x[..., 0])
    if how == "dark on light":
        return ImageOps.invert(image)
    if how == "large":
        return image.resize((400, 400), Image.Resampling.BICUBIC)
    if how == "small":
        return image.resize((17, 17), Image.Resampling.BOX)
    if how == "in a corner":
        wide = Image.new("L", (200, 120))
        wide.paste(image.resize((56, 56)), (140, 60))
        return wide
    if how == "transparent":
        clear = Image.new("RGBA", image.size, "black")
        clear.putalpha(image)
        return clear
    assert how == "blue on cream, JPEG"
    file = io.BytesIO()
    ImageOps.colorize(image.resize((150, 150)), (244, 239, 226), (31, 58, 147)).save(file, "JPEG", quality=70)
    return Image.open(file)


@pytest.mark.parametrize(
    "how", ["dark on light", "large", "small", "in a corner", "transparent", "blue on cream, JPEG"]
)
def test_pictures_of_digits_are_recognised(how: str) -> None:
    test, predictor = data.load("mnist"), load()
    x = np.stack([predictor.prepare(distort(image, how)) for image in test.test_x[:40]])
    right = (shipped.predictions(predictor.network, x) == test.test_y[:40]).sum()
    assert right >= 39  # 40


# --- from Python ------------------------------------------------------------------------------------------------------


def test_the_lines_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(
        r"```python\n(.*?)```\n\n?(?:prints `(.*?)`)?", (ROOT / "docs" / "predicting.md").read_text("utf-8"), re.S
    )
    code, promised = next(block for block in blocks if "compare.predict" in block[0])
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue().strip() == promised


def test_an_orbax_folder_and_an_export_are_the_same_network(tmp_path: Path) -> None:
    from compare.checkpoint import store

    snapshot, meta = read_npz(DEFAULT)
    store.save(tmp_path / "run", 7, snapshot | {"step": np.int32(7)}, meta)
    x = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(open_network(tmp_path / "run").logits(x), open_network(DEFAULT).logits(x))


def test_the_average_of_the_weights_is_used_where_one_was_kept(tmp_path: Path) -> None:
    from compare.checkpoint import store

    snapshot, meta = read_npz(DEFAULT)
    nothing = tree_map(np.zeros_like, snapshot["params"])
    store.save(tmp_path, 1, {**snapshot, "ema": nothing, "step": np.int32(1)}, meta)
    assert not open_network(tmp_path).logits(np.ones((1, 28, 28, 1), np.uint8)).any()


def test_other_networks_see_the_centred_square(tmp_path: Path) -> None:
    predictor = load(small(tmp_path))
    image = Image.new("RGB", (60, 30), "red")
    image.paste("blue", (15, 0, 45, 30))
    prepared = predictor.prepare(image)
    assert (prepared == (0, 0, 255)).all()
    assert prepared.shape == (6, 6, 3)
    answer = predictor(image)
    assert answer[0][0].startswith("class ")
    assert sum(probability for _, probability in answer) == pytest.approx(1)


def test_class_names_come_from_the_file_or_the_dataset(tmp_path: Path) -> None:
    animals = [f"animal {k}" for k in range(10)]
    assert open_network(small(tmp_path, classes=animals)).classes == tuple(animals)
    fashion = {**CIFAR_LIKE["config"], "dataset": "fashion-mnist"}
    assert open_network(small(tmp_path, config=fashion)).classes[9] == "Ankle boot"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_first_answer_comes_within_a_second_and_without_a_framework() -> None:
    code = (
        "import sys; from compare.predict import main; assert main([sys.argv[1]]) == 0; "
        "print(*{'jax', 'torch', 'orbax', 'torchvision'} & sys.modules.keys(), file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, SEVEN], cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr.strip() == ""
    assert re.search(r"numpy +7 +\d+\.\d+%", done.stdout)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # the machine may be busy
    assert spent < 1.0


def test_all_tracks_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SEVEN), "--track", "all", "--top", "2"]) == 0
    name, *answers, difference = capsys.readouterr().out.splitlines()
    assert name == cli.shown(SEVEN)
    assert [re.fullmatch(r" +(\w+) +7 +\d+\.\d+% +\d +\d+\.\d+%", line)[1] for line in answers] == list(TRACKS)  # type: ignore[index]
    assert float(difference.split()[-1]) < 1e-5


def test_one_bad_picture_does_not_keep_the_others_from_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (9, 9)).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("no picture")
    files = [str(tmp_path / name) for name in ("absent.png", "black.png", "text.png")]
    assert main([*files, str(SEVEN)]) == 2
    output = capsys.readouterr()
    assert output.out.startswith(f"{cli.shown(SEVEN)}\n")
    for file, problem in zip(
        files, ("there is no such file", "shows no digit", "is not a readable image"), strict=True
    ):
        assert re.search(rf"error: {re.escape(file)}:? {problem}", output.err)


@pytest.mark.parametrize("flags", [["--top", "0"], ["--track", "tensorflow"], []])
def test_wrong_questions(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*flags, *([str(SEVEN)] if flags else [])])
    capsys.readouterr()


# --- what is wrong with a file ----------------------------------------------------------------------------------------


def test_an_absent_checkpoint_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SEVEN), "--checkpoint", "nowhere.npz"]) == 2
    assert "/nowhere.npz: there is no such file or folder" in capsys.readouterr().err


def test_what_the_metadata_do_not_say(tmp_path: Path) -> None:
    for changes, message in [
        ({"config": None}, "does not say which network this is"),
        ({"config": {"model": "perceptron"}}, "does not say which network this is"),
        ({"mean": None}, "does not say how its images were scaled"),
    ]:
        snapshot = MODELS["mlp"](input_shape=(6, 6, 3), hidden=(4,)).init(np.random.default_rng(0))
        meta = {name: value for name, value in (CIFAR_LIKE | changes).items() if value is not None}
        write_npz(tmp_path / "x.npz", snapshot, meta)
        with pytest.raises(WeightsError, match=rf"x\.npz: .*{message}"):
            open_network(tmp_path / "x.npz")


def test_a_network_of_another_shape(tmp_path: Path) -> None:
    other = {"model": "mlp", "model_args": {"input_shape": [6, 6, 3], "hidden": [5]}, "dataset": "elsewhere"}
    with pytest.raises(WeightsError, match=r"misshapen hidden/0/kernel: \(108, 4\), expected \(108, 5\)"):
        load(small(tmp_path, config=other))(Image.new("RGB", (6, 6)))


def test_numbers_that_are_none(tmp_path: Path) -> None:
    snapshot, meta = read_npz(small(tmp_path))
    snapshot["params"]["output"]["bias"][3] = np.nan
    write_npz(tmp_path / "nan.npz", snapshot, meta)
    with pytest.raises(WeightsError, match=r"nan\.npz: .*not finite, in params/output/bias"):
        open_network(tmp_path / "nan.npz")


class Malice:
    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_nothing_in_an_npz_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = np.array(json.dumps(CIFAR_LIKE))
    np.savez(tmp_path / "x.npz", meta=meta, **{"params/w": np.array([Malice()], object)})
    with pytest.raises(WeightsError, match="no network as"):
        open_network(tmp_path / "x.npz")
    assert "executed" not in capsys.readouterr().out


def test_a_small_npz_gets_no_large_memory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
        )
        archive.writestr("params/w.npy", header.getvalue())
    with pytest.raises(WeightsError, match="no network as"):
        open_network(tmp_path / "x.npz")
    np.savez_compressed(tmp_path / "y.npz", w=np.zeros(1 << 20))
    with pytest.raises(WeightsError, match="it is compressed"):
        open_network(tmp_path / "y.npz")


def test_damaged_npz_files_give_our_error_and_no_other(tmp_path: Path, rng: np.random.Generator) -> None:
    path = small(tmp_path)
    raw = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(raw)
        for at in rng.integers(0, len(raw), rng.integers(1, 9)):
            damaged[at] = rng.integers(256)
        if rng.random() < 0.3:
            del damaged[rng.integers(len(raw)) :]
        path.write_bytes(damaged)
        try:
            Predictor(open_network(path))(Image.new("RGB", (6, 6)))
        except WeightsError:
            continue


def test_the_example_is_a_picture_like_any_other() -> None:
    image = load_image(SEVEN)
    assert image.size != (28, 28)
    assert load()(image)[0][0] == "7"

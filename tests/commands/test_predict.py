"""Predicting: the networks that ship, the command, the five lines of the README, and whatever may be wrong."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import resource
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support import pictures
from support.paths import ROOT

from compare import cli, data, predict, pretrained
from compare.checkpoint import store
from compare.cli import SHIPPED
from compare.data.preparation import Preparation, of_dataset
from compare.errors import UserError
from compare.export import export
from compare.predict import DEFAULT, Predictor, load, load_image, main
from compare.shipped import __main__ as shipped
from compare.tracks import TRACKS
from compare.weights import energy
from compare.weights.network import Network
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


def test_shipped_networks_are_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.npz")) <= 3e6


@pytest.mark.parametrize("name", shipped.CONFIGS)
def test_model_card_figures_match_the_network(name: str) -> None:
    test = data.load("mnist")
    counted = shipped.card(name, open_network(SHIPPED / f"{name}.npz"), test.test_x, test.test_y)
    assert (SHIPPED / f"{name}.md").read_text("utf-8") == counted


@pytest.mark.parametrize("name", shipped.CONFIGS)
def test_tracks_agree_on_shipped_networks(name: str) -> None:
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
def test_digit_pictures_are_recognised(how: str) -> None:
    test, predictor = data.load("mnist"), load()
    x = np.stack([predictor.prepare(distort(image, how)) for image in test.test_x[:40]])
    right = (predictor.network.logits(x).argmax(axis=1) == test.test_y[:40]).sum()
    assert right >= 39  # 40


# --- from Python ------------------------------------------------------------------------------------------------------


def test_documented_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "predicting.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```\n\n?(?:This prints `(.*?)`)?", page, re.S)
    code, promised = next(block for block in blocks if "compare.predict" in block[0])
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue().strip() == promised


def test_checkpoint_and_export_give_the_same_network(tmp_path: Path) -> None:
    from compare.checkpoint import store

    snapshot, meta = read_npz(DEFAULT)
    store.save(tmp_path / "run", 7, snapshot | {"step": np.int32(7)}, meta)
    x = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(open_network(tmp_path / "run").logits(x), open_network(DEFAULT).logits(x))


def test_weight_average_is_used_if_present(tmp_path: Path) -> None:
    from compare.checkpoint import store

    snapshot, meta = read_npz(DEFAULT)
    nothing = tree_map(np.zeros_like, snapshot["params"])
    store.save(tmp_path, 1, {**snapshot, "ema": nothing, "step": np.int32(1)}, meta)
    assert not open_network(tmp_path).logits(np.ones((1, 28, 28, 1), np.uint8)).any()


def test_photo_networks_see_the_centred_square(tmp_path: Path) -> None:
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


# --- facts that a network carries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["mnist", "tfds:mnist", "tfds:mnist:3.0.1", "my digits"])
def test_digit_network_prepares_digits_whatever_its_dataset_is_called(dataset: str, tmp_path: Path) -> None:
    snapshot, meta = read_npz(SHIPPED / "cnn-mnist.npz")
    write_npz(tmp_path / "x.npz", snapshot, meta | {"config": meta["config"] | {"dataset": dataset}})
    predictor = load(tmp_path / "x.npz")
    np.testing.assert_array_equal(predictor.prepare(load_image(SEVEN)), load().prepare(load_image(SEVEN)))


def test_network_of_light_on_dark_images_inverts_a_light_ground_with_a_note(tmp_path: Path) -> None:
    network = Network("mlp", {}, {}, {}, (0.3,), (0.3,), preparation=Preparation("square", "dark"))
    shirt = np.zeros((28, 28), np.uint8)
    shirt[6:22, 8:20] = 200
    on_black, on_white = (Predictor(network).look(Image.fromarray(x)) for x in (shirt, 255 - shirt))
    np.testing.assert_array_equal(on_black.pixels, on_white.pixels)
    assert on_black.note == ""
    assert "light background: inverted" in on_white.note
    unknown = replace(network, preparation=Preparation(known=False))
    assert "is not stored" in Predictor(unknown).look(Image.fromarray(shirt)).note


def test_preparation_is_found_from_the_dataset(rng: np.random.Generator) -> None:
    mnist = data.load("mnist", val_size=0)
    assert mnist.preparation == Preparation("digit", "dark")
    assert of_dataset("fashion-mnist", ("Coat",) * 10, mnist.train_x) == Preparation("square", "dark")
    photos = rng.integers(0, 256, (50, 28, 28, 1), np.uint8)
    assert of_dataset("folder:x", ("cat", "dog"), photos) == Preparation("square", "any")


@pytest.mark.parametrize("how", ["npz", "safetensors", "torch"])
def test_facts_travel_from_checkpoint_to_export_and_back(how: str, tmp_path: Path) -> None:
    facts = {"classes": ["cat", "dog"], "prepared": Preparation("square", "dark").to_json()}
    args = {"input_shape": [6, 6, 1], "hidden": [4], "classes": 2}
    meta = {"config": {"model": "mlp", "model_args": args, "dataset": "folder:x"}, "mean": [0.5], "std": [0.2], **facts}
    meta["data"] = {"name": "folder:x", "digest": "abc"}
    snapshot = MODELS["mlp"](input_shape=(6, 6, 1), hidden=(4,), classes=2).init(np.random.default_rng(0))
    store.save(tmp_path / "run", 0, {**snapshot, "step": np.int32(0)}, meta | {"step": 0, "track": "numpy"})
    exported = export(tmp_path / "run", how, tmp_path / f"x.{how}")
    assert pretrained.main(["import", str(exported), "--out", str(tmp_path / "back")]) == 0
    for path in (tmp_path / "run", exported, tmp_path / "back"):
        network = open_network(path)
        assert network.classes == ("cat", "dog")
        assert network.preparation == Preparation("square", "dark")
        assert network.meta["data"] == {"name": "folder:x", "digest": "abc"}


def test_show_writes_what_the_network_saw_under_a_free_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    framed = ImageOps.expand(load_image(SEVEN).convert("L"), 20, fill=0)
    (tmp_path / "pictures").mkdir()
    framed.save(tmp_path / "pictures" / "x.png")
    for _ in range(2):
        assert main(["pictures", "--show", "--top", "1"]) == 0
    told = capsys.readouterr().out
    assert "7 " in told
    assert "note: the black margin around a page or card was cut off" in told
    shown = [np.asarray(Image.open(tmp_path / name)) for name in ("x.seen.png", "x.seen-2.png")]
    np.testing.assert_array_equal(shown[0][::10, ::10], load().prepare(framed)[..., 0])
    np.testing.assert_array_equal(shown[0], shown[1])


# --- the command ------------------------------------------------------------------------------------------------------


def test_first_answer_loads_no_framework() -> None:
    code = (
        "import sys; from compare.predict import main; assert main([sys.argv[1]]) == 0; "
        "print(*{'jax', 'torch', 'orbax', 'torchvision'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, SEVEN], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert re.search(r"numpy +7 +\d+\.\d+%", done.stdout)


@pytest.mark.perf
def test_first_answer_takes_less_than_a_second() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "compare.predict", SEVEN], cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # of the processor: others may use it
    assert spent < 1.0


def test_all_tracks_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SEVEN), "--track", "all", "--top", "2"]) == 0
    name, *answers, difference = capsys.readouterr().out.splitlines()
    assert name == cli.shown(SEVEN)
    assert [re.fullmatch(r" +(\w+) +7 +\d+\.\d+% +\d +\d+\.\d+%", line)[1] for line in answers] == list(TRACKS)
    assert float(difference.split()[-1]) < 1e-5


def test_hidden_files_of_a_folder_are_no_pictures(tmp_path: Path) -> None:
    for name in ("7.png", "._7.png", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert predict.pictures([tmp_path]) == [tmp_path / "7.png"]


def test_bad_picture_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_invalid_arguments_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*flags, *([str(SEVEN)] if flags else [])])
    capsys.readouterr()


# --- what is wrong with a file ----------------------------------------------------------------------------------------


def test_missing_checkpoint_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SEVEN), "--checkpoint", "nowhere.npz"]) == 2
    assert (
        "/nowhere.npz: there is no such file or folder; the networks that ship are cnn-mnist and mlp-mnist"
        in capsys.readouterr().err
    )


def test_missing_metadata_is_named(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"config": None}, "does not say which network this is"),
        ({"config": {"model": "perceptron"}}, "does not say which network this is"),
        ({"mean": None}, "does not say how its images were scaled"),
    ]
    for changes, message in wrong:
        snapshot = MODELS["mlp"](input_shape=(6, 6, 3), hidden=(4,)).init(np.random.default_rng(0))
        meta = {name: value for name, value in (CIFAR_LIKE | changes).items() if value is not None}
        write_npz(tmp_path / "x.npz", snapshot, meta)
        with pytest.raises(WeightsError, match=rf"x\.npz: .*{message}"):
            open_network(tmp_path / "x.npz")


def test_arrays_of_another_shape_are_named(tmp_path: Path) -> None:
    other = {"model": "mlp", "model_args": {"input_shape": [6, 6, 3], "hidden": [5]}, "dataset": "unknown"}
    with pytest.raises(WeightsError, match=r"misshapen hidden/0/kernel: \(108, 4\), expected \(108, 5\)"):
        load(small(tmp_path, config=other))(Image.new("RGB", (6, 6)))


def test_non_finite_weights_are_refused(tmp_path: Path) -> None:
    snapshot, meta = read_npz(small(tmp_path))
    snapshot["params"]["output"]["bias"][3] = np.nan
    write_npz(tmp_path / "nan.npz", snapshot, meta)
    with pytest.raises(WeightsError, match=r"nan\.npz: .*not finite, in params/output/bias"):
        open_network(tmp_path / "nan.npz")


class Malice:
    def __reduce__(self) -> Any:
        return print, ("executed",)


CONFIG: dict[str, Any] = CIFAR_LIKE["config"]
NO_CONFIG: list[Any] = [
    None,
    3,
    [],
    "mlp",
    {"model": ["mlp"]},
    {"model": "mlp", "model_args": 5},
    CONFIG | {"dataset": 7},
]
NO_ARGS: list[Any] = [[1], {"hidden": "a"}, {"classes": 10**8}, *({"hidden": h} for h in (10**9, [10**9], [[4]]))]
NO_SCALE: list[Any] = ["abc", 5, [None], [float("nan")] * 3, [0.5], {"a": 1}, [-1.0, 0.2, float("inf")]]
WRONG = [
    *(("config", each) for each in NO_CONFIG),
    *(("config", CONFIG | {"model_args": each}) for each in NO_ARGS),
    *((name, each) for name in ("mean", "std") for each in NO_SCALE),
    *(("classes", each) for each in (5, "abc", {"a": 1})),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_malformed_metadata_are_refused_before_anything_is_allocated(name: str, value: Any, tmp_path: Path) -> None:
    tracemalloc.start()
    with pytest.raises(WeightsError, match=r"small\.npz: "):
        Predictor(open_network(small(tmp_path, **{name: value})))(Image.new("RGB", (6, 6)))
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_network_larger_than_its_file_is_refused_before_it_is_made(tmp_path: Path) -> None:
    """Many small arrays allow many layers, and any network 4,096 units: together they would be 64 GB."""
    snapshot, meta = read_npz(small(tmp_path))
    snapshot["params"] |= {f"more{k}": np.zeros(1, np.float32) for k in range(1000)}
    meta["config"] = CONFIG | {"model_args": {"input_shape": [6, 6, 3], "hidden": [4096] * 900}}
    write_npz(tmp_path / "many.npz", snapshot, meta)
    with pytest.raises(WeightsError, match="they make a network of more parameters than"):
        open_network(tmp_path / "many.npz")


def test_onnx_file_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "x.ONNX").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"x\.ONNX: an ONNX file holds a computation"):
        open_network(tmp_path / "x.ONNX")


def test_picture_like_nothing_seen_gets_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures.strange(2).save(tmp_path / "several.png")  # a number of several digits
    assert main([str(tmp_path / "several.png"), str(SEVEN)]) == 0
    odd, seven = capsys.readouterr().out.split("seven.png")
    assert energy.NOTE in odd
    assert energy.NOTE not in seven


def test_network_without_an_energy_threshold_answers_without_a_note(tmp_path: Path) -> None:
    predictor = load(small(tmp_path))
    assert predictor.network.energy_threshold is None
    assert energy.note(np.zeros(10), None) == ""


def test_deeply_nested_metadata_are_refused(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"meta": np.array("[" * 100_000), "params/w": np.zeros(2, np.float32)}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(WeightsError, match=r"x\.npz: no network as"):
        open_network(tmp_path / "x.npz")


def mutated(value: Any, rng: random.Random) -> Any:
    """JSON with one value, somewhere in it, lost or replaced by another kind."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        return {**value, name: mutated(value[name], rng)} if rng.random() < 0.9 else {}
    if isinstance(value, list) and value and rng.random() < 0.5:
        return [mutated(value[0], rng), *value[1:]]
    return rng.choice([None, True, -1, 10**30, 1.5, "x", [], [1], {}, {"a": 1}, [None], float("nan")])


def test_mutated_checkpoint_metadata_raise_user_errors_only(tmp_path: Path) -> None:
    snapshot = MODELS["mlp"](input_shape=(6, 6, 3), hidden=(4,)).init(np.random.default_rng(0))
    store.save(tmp_path / "run", 0, {**snapshot, "step": np.int32(0)}, CIFAR_LIKE | {"step": 0, "track": "numpy"})
    file, rng, refused = tmp_path / "run" / "0" / "meta" / "metadata", random.Random(0), 0
    accepted = 0
    meta = json.loads(file.read_text("utf-8"))
    for number in range(300):
        old = {name: value for name, value in meta.items() if number % 2 or name not in ("format", "digest")}
        file.write_text(json.dumps(mutated(old, rng)), "utf-8")
        try:
            open_network(tmp_path / "run")
        except UserError as error:
            refused += str(tmp_path / "run") in str(error)
        else:
            accepted += 1
    assert refused > 150
    assert refused + accepted == 300


def test_npz_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = np.array(json.dumps(CIFAR_LIKE))
    arrays: dict[str, Any] = {"meta": meta, "params/w": np.array([Malice()], object)}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(WeightsError, match="no network as"):
        open_network(tmp_path / "x.npz")
    assert "executed" not in capsys.readouterr().out


def test_small_npz_cannot_claim_large_memory(tmp_path: Path) -> None:
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


def test_damaged_npz_raises_weights_error_only(tmp_path: Path, rng: np.random.Generator) -> None:
    path = small(tmp_path)
    raw, refused = path.read_bytes(), 0
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
            refused += 1
    assert refused > 150


def test_example_picture_is_ordinary() -> None:
    image = load_image(SEVEN)
    assert image.size != (28, 28)
    assert load()(image)[0][0] == "7"

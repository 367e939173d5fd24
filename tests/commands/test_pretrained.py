"""Weights from elsewhere: nothing in them runs, what does not fit is named, and they do the same in every track."""

from __future__ import annotations

import argparse
import gzip
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from compare import data, pretrained, tracks
from compare.checkpoint import store
from compare.pretrained import WeightsError, main
from compare.weights.architectures import ARCHITECTURES, to_published
from compare.weights.torch_files import convert, read
from numpy_nn.models import MODELS
from numpy_nn.tree import leaves
from torch_nn import interop
from torch_nn.models import MODELS as TORCH_MODELS

SMALL = {"input_shape": (8, 8, 3), "stages": (1, 1), "channels": (2, 4)}  # a ResNet
TORCHVISIONS = [name for name in ARCHITECTURES if callable(getattr(models, name, None))]


def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return TORCH_MODELS["resnet"](**SMALL).state_dict()


def save(path: Path, how: str, state: Any) -> Path:
    if how == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
    return path


FORMATS = ("zip", "legacy", "safetensors")


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", FORMATS)
def test_every_format_gives_the_same_tensors(how: str, tmp_path: Path) -> None:
    state = small_state()
    found = read(save(tmp_path / "weights", how, state))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_wrapped_state_dicts_are_unwrapped(tmp_path: Path) -> None:
    wrapped = {"best": 91.7, "state_dict": {f"module.{name}": value for name, value in small_state().items()}}
    assert read(save(tmp_path / "weights", "zip", wrapped)).keys() == small_state().keys()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in small_state().items()}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"net": small_state(), "acc": 91.7, "epoch": 3}, "took the entry 'net'"),
        ({"model": prefixed("module."), "optimizer": {"state": {}}}, "'model' and took off the prefix 'module.'"),
        ({"model": small_state(), "model_ema": small_state()}, "took the entry 'model'"),
        ({"checkpoint": {"weights": small_state(), "step": 3}}, "took the entry 'weights'"),
        (prefixed("_orig_mod."), "took off the prefix '_orig_mod.'"),
        (prefixed("module._orig_mod."), "took off the prefix"),
        ({"state_dict": prefixed("model.backbone."), "epoch": 3}, "took off the prefix 'model.backbone.'"),
        ({"n_averaged": torch.tensor(3), **prefixed("module.")}, "took off the prefix 'module.'"),
        ({name.replace("conv1.", "conv1._orig_mod."): value for name, value in small_state().items()}, ""),
    ],
)
def test_wrappers_of_other_projects_come_off(
    content: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read(save(tmp_path / "weights", "zip", content))
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in small_state().items()
    }
    assert words in capsys.readouterr().err


def test_layer_of_a_network_with_one_layer_is_no_prefix(tmp_path: Path) -> None:
    state = TORCH_MODELS["mlp"](hidden=()).state_dict()
    assert read(save(tmp_path / "weights", "zip", state)).keys() == state.keys()


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_weights_that_are_no_floats_are_refused(dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in small_state().items()}
    with pytest.raises(WeightsError, match=f"holds {dtype}: save the weights as floats"):
        convert(state, "resnet", SMALL)


def test_entries_that_stand_in_the_way_are_named_in_one_line() -> None:
    state = prefixed("model.") | {"criterion.weight": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"begin with 'model\.'; remove the others: criterion\.weight") as caught:
        convert(state, "resnet20", SMALL)
    assert "\n" not in str(caught.value)


def kuangliu(name: str) -> str:
    return name.replace("downsample", "shortcut").replace("fc.", "linear.")


def weiaicunzai(name: str) -> str:
    name = re.sub(r"^layer(\d)", lambda found: f"conv{int(found[1]) + 1}_x", kuangliu(name).replace("linear.", "fc."))
    name = re.sub(r"^bn1\.", "conv1.1.", re.sub(r"^conv1\.", "conv1.0.", name))
    for theirs, ours in (("0", "conv1"), ("1", "bn1"), ("3", "conv2"), ("4", "bn2")):
        name = re.sub(rf"^(conv\d_x\.\d+)\.{ours}\.", rf"\1.residual_function.{theirs}.", name)
    return name


@pytest.mark.parametrize("spelling", [kuangliu, weiaicunzai])
def test_spellings_of_other_resnets_are_mapped(spelling: Callable[[str], str]) -> None:
    published = models.resnet18().state_dict()
    other = {spelling(name): value for name, value in published.items()}
    assert other.keys() != published.keys()
    expected, found = (leaves(convert(state, "resnet18")["params"]) for state in (published, other))
    assert found.keys() == expected.keys()
    assert all((found[path] == expected[path]).all() for path in expected)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"state_dict": {"weight": torch.ones(2)}, "best": np.float64(91.7)}, r"numpy\._core\.multiarray\.scalar"),
        ({"model": {"weight": torch.ones(2)}, "args": argparse.Namespace(lr=0.1)}, r"argparse\.Namespace"),
        (torch.nn.Sequential(torch.nn.Linear(2, 2)), r"torch\.nn\.modules\.container\.Sequential"),
        ({"params": {"weight": np.ones((2, 3), np.float32)}}, r"numpy\._core\.multiarray\._reconstruct"),
        ({"net": torch.nn.Linear(2, 2), "epoch": 3}, r"torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_refused_pickle_names_the_object_and_the_line_that_makes_a_plain_file(
    content: Any, name: str, tmp_path: Path
) -> None:
    file = save(tmp_path / "weights", "zip", content)
    with pytest.raises(WeightsError, match=rf"holds a {name} object, .*If you trust its source") as caught:
        read(file)
    program = re.search(r'python -c "(.*)" ', str(caught.value))
    assert program
    subprocess.run([sys.executable, "-c", program[1], file, tmp_path / "plain.pt"], check=True)
    assert "weight" in {name.rpartition(".")[2] for name in read(tmp_path / "plain.pt")}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (gzip.compress(bytes(100), mtime=0), "it is packed with gzip: unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS: run git lfs pull"),
        (b"<!DOCTYPE html><html>", "it is a web page: download the file that the page is about"),
    ],
)
def test_a_file_that_is_often_taken_for_weights_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(f"neither a state dict of PyTorch nor safetensors ({reason})")):
        read(file)


class Malice:
    """What a pickle can do: its loading calls a function."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("how", ["zip", "legacy"])
def test_weight_file_is_not_executed(how: str, tmp_path: Path) -> None:
    file = save(tmp_path / "weights", how, {"w": Malice(tmp_path / "executed")})
    with pytest.raises(WeightsError, match=r"holds a posix\.mkdir object, and reading it would run code"):
        read(file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds list, not a state dict"),
        ({}, "holds dict, not a state dict"),
        ({"w": 3, "b": torch.ones(2)}, "not plain tensors of numbers: 'w'"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "not plain tensors of numbers: 'w'"),
        ({3: torch.ones(2)}, "not plain tensors of numbers: 3"),
    ],
)
def test_file_without_a_state_dict_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        read(save(tmp_path / "weights", "zip", content))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is no such file"):
        read(tmp_path / "weights")


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """Bytes changed, lost, added or made large, up to sixteen times."""
    damaged = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(damaged) + 1)
        damaged[at : at + rng.choice([0, 1, 4, 1 << 20])] = rng.choice([b"", b"\xff\xff\xff\x7f", rng.randbytes(3)])
    return bytes(damaged)


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("files", [300, pytest.param(4_000, marks=pytest.mark.slow)])
def test_damaged_weight_files_raise_weights_error_only(how: str, files: int, tmp_path: Path) -> None:
    file = save(tmp_path / "weights", how, small_state())
    raw, rng, refused = file.read_bytes(), random.Random(0), 0
    for _ in range(files):
        file.write_bytes(mutate(raw, rng))
        try:
            convert(read(file), "resnet20", SMALL)
        except WeightsError:
            refused += 1
    assert refused > files / 4


# --- converting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "cnn", "lenet5"])
def test_own_state_dicts_round_trip(model: str) -> None:
    network = TORCH_MODELS[model]()
    tree = convert(network.state_dict(), model)
    assert leaves(tree["params"]).keys() == leaves(MODELS[model]().init(np.random.default_rng(0))["params"]).keys()
    for path, leaf in leaves(interop.params_to_tree(network)).items():
        np.testing.assert_array_equal(leaves(tree["params"])[path], leaf)


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_every_torchvision_name_is_mapped(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(models, name)(weights=None).state_dict()
    architecture = ARCHITECTURES[name]
    thin = {leaf: torch.zeros(()).expand(value.shape) for leaf, value in theirs.items()}  # no memory behind it
    wanted = MODELS[architecture.model](**architecture.args)
    tree = convert(thin, name)
    norms = sum(leaf.endswith("running_mean") for leaf in theirs)
    assert len(leaves(tree["stats"])) == 2 * norms
    assert norms > 0 or architecture.model == "vit"
    if architecture.model not in ("vgg", "vit"):  # 130 million first values take their time
        first = wanted.init(np.random.default_rng(0))
        for part in ("params", "stats"):
            shapes = {path: np.shape(leaf) for path, leaf in leaves(first[part]).items()}
            assert {path: np.shape(leaf) for path, leaf in leaves(tree[part]).items()} == shapes


def test_old_densenet_names_are_mapped() -> None:
    with torch.device("meta"):
        theirs = models.densenet121(weights=None).state_dict()
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value for name, value in theirs.items()}
    assert old.keys() != theirs.keys()
    thin = {name: torch.zeros(()).expand(value.shape) for name, value in old.items()}
    assert convert(thin, "densenet121")["params"]["layers"]


VIT = {"input_shape": (32, 32, 3), "patch": 16, "dim": 48, "depth": 2, "heads": 3, "mlp_dim": 96, "classes": 7}


def torchvision_vit() -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}
    network = models.VisionTransformer(**sizes, num_classes=7).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # no bias is zero
    return network


def timm(name: str) -> str:
    """A name of torchvision's ViT as timm has it."""
    for theirs, others in {
        "class_token": "cls_token", "encoder.pos_embedding": "pos_embed", "conv_proj": "patch_embed.proj",
        "encoder.layers.encoder_layer_": "blocks.", "self_attention.in_proj_": "attn.qkv.", "ln_": "norm",
        "self_attention.out_proj": "attn.proj", "mlp.0": "mlp.fc1", "mlp.3": "mlp.fc2", "encoder.ln": "norm",
        "heads.head": "head",
    }.items():  # fmt: skip
        name = name.replace(theirs, others)
    return name


@pytest.mark.parametrize("spelling", [str, timm])
def test_vision_transformers_of_torchvision_and_timm_give_the_same_logits(spelling: Callable[[str], str]) -> None:
    theirs = torchvision_vit()
    state = {spelling(name): value for name, value in theirs.state_dict().items()}
    ours = TORCH_MODELS["vit"](**VIT, eps=1e-6).eval()
    interop.params_from_tree(ours, convert(state, "vit_tiny_patch16_224", VIT)["params"])
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        expected, found = theirs(images), ours(images)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_names_of_timm_are_those_that_timm_has() -> None:
    library = pytest.importorskip("timm", reason="timm, whose names these are, is not installed")
    network = library.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=2, num_classes=7)
    assert {*network.state_dict()} == {timm(name) for name in torchvision_vit().state_dict()}
    convert(network.state_dict(), "vit_tiny_patch16_224", {"input_shape": (32, 32, 3), "depth": 2, "classes": 7})


def test_vision_transformer_is_exported_by_the_published_names() -> None:
    state = {timm(name): value for name, value in torchvision_vit().state_dict().items()}
    ours = TORCH_MODELS["vit"](**VIT, eps=1e-6)
    interop.params_from_tree(ours, convert(state, "vit_tiny_patch16_224", VIT)["params"])
    back = to_published(ours.state_dict(), "vit_tiny_patch16_224", VIT)
    assert back.keys() == state.keys()
    bias = "blocks.0.attn.qkv.bias"
    assert (back[bias][48:96] == 0).all()  # the keys'
    assert all(torch.equal(back[name], state[name]) for name in state if not name.endswith("qkv.bias"))


def test_all_mismatches_are_named_at_once() -> None:
    state = small_state()
    del state["blocks.0.conv1.weight"], state["norm.running_mean"]
    state["output.weight"] = torch.ones(3, 3)
    state["head.weight"] = torch.ones(2)
    with pytest.raises(WeightsError) as caught:
        convert(state, "resnet20", SMALL)
    message = str(caught.value)
    assert "missing blocks.0.conv1.weight (2, 2, 3, 3)" in message
    assert "missing norm.running_mean (2,)" in message
    assert "misshapen output.weight: (3, 3), expected (10, 4)" in message
    assert "unexpected head.weight (2,)" in message


def test_messages_use_the_names_of_the_file() -> None:
    state = {"conv1.weight": torch.ones(2, 3, 3, 3), "linear.weight": torch.ones(10, 4)}
    with pytest.raises(WeightsError, match=r"missing layer2\.0\.bn1\.running_var \(4,\)"):
        convert(state, "resnet20", SMALL)


@pytest.mark.parametrize(
    ("architecture", "args", "message"),
    [
        ("resnet21", {}, "unknown architecture 'resnet21'; known: mlp, cnn"),
        ("resnet20", {"depth": 3}, "cannot be made with {'depth': 3}"),
        ("resnet20", {"classes": -1}, "cannot be made with {'classes': -1}"),
        ("resnet20", {"classes": 10**8}, "classes=100000000 is not what its arrays are: the largest side is 10"),
        ("resnet20", {"stages": (10**9,)}, r"stages=\(1000000000,\) is not what its arrays are"),
        ("resnet20", {"channels": {"a": 1}}, "is no argument of a network"),
    ],
)
def test_invalid_architecture_arguments_are_refused(architecture: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        convert(small_state(), architecture, args)


# --- the command ------------------------------------------------------------------------------------------------------


def test_import_command_writes_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save(tmp_path / "weights.safetensors", "safetensors", TORCH_MODELS["cnn"]().state_dict())
    command = ["import", str(file), "--model", "cnn", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    snapshot, meta = store.restore(tmp_path / "out")
    assert meta["config"]["model"] == "cnn"
    assert leaves(snapshot["params"]).keys() == leaves(convert(read(file), "cnn")["params"]).keys()
    assert main(command) == 2
    assert "exists: remove it or choose another folder" in capsys.readouterr().err


def test_import_command_names_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(tmp_path / "nothing"), "--model", "cnn", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit):
        main(["import", "file", "--model", "cnn", "--out", "out", "--args", "[1]"])
    assert "is not a JSON object" in capsys.readouterr().err


# --- a network trained by others --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet20(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """Akamaster's ResNet-20 for CIFAR-10, through the command and a checkpoint."""
    file, out = shared_data / "weights" / "resnet20-cifar10.th", tmp_path_factory.mktemp("resnet20")
    if not file.is_file():
        pytest.skip(f"needs {file}, which is not here")
    assert pretrained.main(["import", str(file), "--model", "resnet20", "--out", str(out)]) == 0
    return store.restore(out)


@pytest.mark.parametrize(("images", "right"), [(300, 244), pytest.param(2_000, 1612, marks=pytest.mark.slow)])
def test_resnet20_has_the_published_accuracy_in_every_track(
    images: int, right: int, resnet20: tuple[Any, dict[str, Any]], shared_data: Path
) -> None:
    snapshot, meta = resnet20
    test = data.load("cifar10", data_dir=shared_data)
    x, y = test.test_x[:images], test.test_y[:images]
    arguments = {"model": "resnet", "model_args": ARCHITECTURES["resnet20"].args}
    arguments |= {"mean": meta["mean"], "std": meta["std"], "schedule_args": {"lr": 0.1, "steps": 1}}
    counts = {}
    for name in tracks.TRACKS:
        track = tracks.load(name)
        state = track.init_state(snapshot, **arguments)
        counts[name] = sum(
            int(track.eval_batch(state, x[k : k + 100], y[k : k + 100])["correct"]) for k in range(0, images, 100)
        )
    assert counts == dict.fromkeys(tracks.TRACKS, right)

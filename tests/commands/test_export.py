"""Files for others: they load into plain PyTorch code, ONNX computes the same, and what comes back is bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torchvision import models

from compare import pretrained
from compare.checkpoint import store
from compare.data.preparation import Preparation
from compare.export import export, main
from compare.parity.check import EXAMPLES
from compare.weights import torch_files
from compare.weights.architectures import to_published
from compare.weights.formats import HEADER, description, state_dict
from compare.weights.network import Network, describe
from compare.weights.npz import WeightsError, write_npz
from compare.weights.open import open_network
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, leaves, tree_map
from torch_nn.models import MODELS as TORCH_MODELS

pytestmark = pytest.mark.long


def snapshot_of(model: str, args: dict[str, Any]) -> Tree:
    """A network no leaf of which has an easy value, the running statistics included."""
    rng = np.random.default_rng(0)
    first = MODELS[model](**args).init(rng)
    return {
        "params": tree_map(lambda leaf: (leaf + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32), first["params"]),
        "stats": tree_map(lambda leaf: rng.uniform(0.5, 2, leaf.shape).astype(np.float32), first["stats"]),
    }


def meta_of(model: str, args: dict[str, Any]) -> dict[str, Any]:
    channels = args.get("input_shape", (28, 28, 1))[-1]
    config = {"preset": f"small-{model}", "model": model, "model_args": args, "dataset": "unknown"}
    return {"config": config, "step": 3, "mean": (0.4,) * channels, "std": (0.2,) * channels}


def saved(tmp_path: Path, model: str) -> Path:
    args = EXAMPLES.get(model, {"hidden": 8} if model == "cnn" else {})
    write_npz(tmp_path / "network.npz", snapshot_of(model, args), meta_of(model, args))
    return tmp_path / "network.npz"


def same_bits(a: Tree, b: Tree) -> bool:
    x, y = leaves(a), leaves(b)
    return x.keys() == y.keys() and all(
        np.asarray(x[path]).dtype == np.asarray(y[path]).dtype and np.array_equal(x[path], y[path]) for path in x
    )


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["safetensors", "torch", "npz"])
@pytest.mark.parametrize("model", MODELS)
def test_export_and_import_round_trip(model: str, how: str, tmp_path: Path) -> None:
    source = open_network(saved(tmp_path, model))
    back = open_network(export(tmp_path / "network.npz", how, tmp_path / f"there.{how}"))
    assert same_bits({"p": back.params, "s": back.stats}, {"p": source.params, "s": source.stats})
    assert json.dumps(description(back)) == json.dumps(description(source))


@pytest.mark.parametrize("how", ["safetensors", "torch", "npz"])
def test_export_and_import_commands_round_trip(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot, meta = snapshot_of("resnet", EXAMPLES["resnet"]), meta_of("resnet", EXAMPLES["resnet"])
    store.save(tmp_path / "run", 3, snapshot | {"step": np.int32(3)}, meta)
    file = str(tmp_path / f"there.{'pt' if how == 'torch' else how}")
    assert main([str(tmp_path / "run"), "--to", how, "--out", file]) == 0
    assert pretrained.main(["import", file, "--out", str(tmp_path / "back")]) == 0
    back, about = store.restore(tmp_path / "back")
    assert same_bits({part: back[part] for part in ("params", "stats")}, snapshot)
    assert (int(back["step"]), about["config"]["preset"]) == (3, "small-resnet")
    assert pretrained.main(["import", file, "--out", str(tmp_path / "back")]) == 2
    assert "exists: remove it or choose another folder" in capsys.readouterr().err


def test_float64_is_kept(tmp_path: Path) -> None:
    snapshot = tree_map(lambda leaf: leaf.astype(np.float64) / 3, snapshot_of("lenet5", {}))
    write_npz(tmp_path / "network.npz", snapshot, meta_of("lenet5", {}))
    back = open_network(export(tmp_path / "network.npz", "safetensors", tmp_path / "there.safetensors"))
    assert same_bits(back.params, snapshot["params"])


# --- plain PyTorch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["safetensors", "torch"])
def test_plain_pytorch_loads_the_export(how: str, tmp_path: Path) -> None:
    network = open_network(saved(tmp_path, "resnet"))
    file = export(tmp_path / "network.npz", how, tmp_path / "there")
    state = torch.load(file, weights_only=True) if how == "torch" else safetensors.torch.load_file(file)
    module = TORCH_MODELS["resnet"](**network.args).eval()
    module.load_state_dict(state)
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    pixels = torch.from_numpy((x / 255 - 0.4) / 0.2).float().permute(0, 3, 1, 2)
    np.testing.assert_allclose(module(pixels).detach(), network.logits(x), rtol=1e-4, atol=1e-5)


def test_onnx_metadata_hold_the_facts_of_the_network(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx, of the extra 'export'")
    facts = {"classes": ["cat", "dog", "cow"], "prepared": Preparation("square", "dark").to_json()}
    facts |= {"usual": {"score": 2.5, "share": 0.01, "images": 100}, "data": {"name": "pets", "digest": "abc"}}
    args = {"input_shape": (4, 4, 1), "hidden": (3,), "classes": 3}
    write_npz(tmp_path / "network.npz", snapshot_of("mlp", args), meta_of("mlp", args) | facts)
    model = onnx.load(export(tmp_path / "network.npz", "onnx", tmp_path / "there.onnx"))
    (stored,) = (entry.value for entry in model.metadata_props if entry.key == torch_files.HEADER)
    network, meta = open_network(tmp_path / "network.npz"), json.loads(stored)
    again = describe(network.snapshot, meta)
    assert again.classes == ("cat", "dog", "cow")
    assert (again.preparation, again.energy_threshold) == (Preparation("square", "dark"), 2.5)
    assert (meta["data"], meta["energy_threshold"]) == (facts["data"], facts["usual"])  # the key of earlier versions
    assert (again.mean, again.std, again.args) == (network.mean, network.std, network.args)


def network_of(state: dict[str, torch.Tensor], name: str, args: dict[str, Any] | None = None) -> Network:
    known = torch_files.architecture_of(name)
    args = known.args | (args or {})
    return describe(torch_files.convert(state, name, args), meta_of(known.model, args))


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_torchvision_loads_the_export(name: str) -> None:
    theirs = getattr(models, name)(weights=None, num_classes=7).state_dict()
    state, about = state_dict(network_of(theirs, name, {"classes": 7}), "published")
    assert about["architecture"] == name
    assert list(state) == list(theirs) or state.keys() == theirs.keys()
    assert all(torch.equal(state[key], theirs[key]) for key in theirs)
    again = torch_files.convert(state, about["architecture"], about["config"]["model_args"])
    assert same_bits(again["params"], network_of(theirs, name, {"classes": 7}).params)


def test_torchvision_vgg_has_biases_and_flattens_channels_first() -> None:
    thin = {"channels": (2, 2, 2, 2, 3), "hidden": (4, 4), "input_shape": (32, 32, 3), "pool": 2, "classes": 5}
    snapshot = snapshot_of("vgg", thin | {"stages": (1, 1, 2, 2, 2)})
    network = describe(snapshot, meta_of("vgg", thin | {"stages": (1, 1, 2, 2, 2)}))
    published = to_published(state_dict(network)[0], "vgg11_bn", thin)
    assert published["features.0.bias"].tolist() == [0, 0]
    back = torch_files.convert(published, "vgg11_bn", thin)
    assert same_bits(back, snapshot)


def test_torchvision_names_need_a_torchvision_network(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not one of the published networks: resnet20, "):
        export(saved(tmp_path, "lenet5"), "torch", tmp_path / "there", "published")


# --- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=() if model == "cnn" else pytest.mark.slow) for model in MODELS]
)
def test_onnx_computes_the_same(model: str, tmp_path: Path) -> None:
    import onnxruntime

    network = open_network(saved(tmp_path, model))
    file = export(tmp_path / "network.npz", "onnx", tmp_path / "there.onnx")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for n in (1, 5):
        values = 256 if len(network.input_shape) == 3 else network.args["classes"]  # of pixels, or tokens
        x = np.random.default_rng(n).integers(0, values, (n, *network.input_shape), np.uint8)
        (logits,) = session.run(None, {"images": x})
        for track in ("numpy", "torch"):
            np.testing.assert_allclose(logits, network.logits(x, track), rtol=1e-5, atol=1e-5)
    about = json.loads(session.get_modelmeta().custom_metadata_map[HEADER])
    assert about["config"]["model"] == model


# --- wrong questions --------------------------------------------------------------------------------------------------


def test_existing_file_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path, "cnn")
    assert main([str(file), "--to", "npz", "--out", str(file)]) == 2
    assert f"error: {file} exists: remove it" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["npz", "onnx"])
def test_names_flag_needs_a_state_dict(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(saved(tmp_path, "cnn")), "--to", how, "--names", "published", "--out", str(tmp_path / "there")]
    assert main(command) == 2
    assert "omit --names" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def test_state_dict_that_names_no_architecture_needs_the_model_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(TORCH_MODELS["lenet5"]().state_dict(), tmp_path / "x.pt")
    assert pretrained.main(["import", str(tmp_path / "x.pt"), "--out", str(tmp_path / "out")]) == 2
    assert "x.pt: does not say which network it is: import it with --model NAME" in capsys.readouterr().err
    command = ["import", str(tmp_path / "x.pt"), "--model", "lenet5", "--dataset", "mnist"]
    assert pretrained.main([*command, "--out", str(tmp_path / "out")]) == 0
    assert open_network(tmp_path / "out").mean == (0.1307,)


def test_unwritable_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(saved(tmp_path, "cnn")), "--to", "npz", "--out", str(tmp_path / "file" / "x.npz")]) == 2
    assert "x.npz cannot be written" in capsys.readouterr().err

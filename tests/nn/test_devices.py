"""Several devices do what one does with the whole batch; a device that is not there is refused by name."""

from __future__ import annotations

import dataclasses
import gc
import signal
from typing import Any

import jax
import numpy as np
import pytest
import torch

from compare import machine, presets, run_all, tracks
from compare.experiment import plan
from compare.parity import check
from compare.parity.check import exact_jax
from jax_nn import devices as jax_devices
from jax_nn import train as jax_train
from numpy_nn.models import MODELS
from numpy_nn.tree import Tree, leaves
from torch_nn import devices as torch_devices
from torch_nn import train as torch_train
from torch_nn import worker_group

pytestmark = pytest.mark.long

WAYS = [
    pytest.param(jax_train, {"parallel": "pmap"}, id="pmap"),
    pytest.param(jax_train, {"parallel": "shard_map"}, id="shard_map"),
    pytest.param(jax_train, {"parallel": "jit"}, id="jit"),
    pytest.param(torch_train, {}, id="ddp"),
]
TRACKS = [pytest.param(track, id=name) for name, track in (("jax", jax_train), ("torch", torch_train))]
NETWORKS = {  # without and with batch norm
    "mlp": {"input_shape": (6, 5, 2), "hidden": (7,)},
    "vgg": {"input_shape": (4, 4, 2), "stages": (1, 1), "channels": (3, 2)},
}
# of the largest number in a leaf, after ten steps; observed: 6e-15
TOLERANCE = 1e-13


ACCELERATORS = [*jax_devices.accelerators(), *torch_devices.accelerators()]


@pytest.fixture
def needs_gpu():
    if not jax_devices.accelerators() or not torch_devices.accelerators():
        pytest.skip("needs a GPU that JAX and PyTorch both find (and NN_GPU=1, so that they look for one)")


def start(track, model: str, *, snapshot: Tree | None = None, **changes):
    """A state of a small network in float64."""
    arguments = {
        "optimizer": "momentum",
        "optimizer_args": {"weight_decay": 1e-2, "clip_norm": 1.0},
        "schedule": "cosine",
        "schedule_args": {"lr": 0.1, "steps": 20},
        "ema": 0.9,
        "precision": "float64",
        "mean": (0.4, 0.5),
        "std": (0.3, 0.2),
    }
    snapshot = snapshot or MODELS[model](**NETWORKS[model]).init(np.random.default_rng(0))
    return track.init_state(snapshot, model=model, model_args=NETWORKS[model], **arguments | changes)


def images(model: str, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (k, n, *NETWORKS[model]["input_shape"]), dtype=np.uint8)
    return x, rng.integers(0, 10, (k, n), dtype=np.int32)


def trained(track, model: str, *, evaluate: bool = False, **changes) -> Tree:
    """What ten steps have to show, and perhaps what the trained network says of an odd number of images."""
    x, y = images(model, 10, 8)
    with exact_jax("float64"):
        state = start(track, model, **changes)
        state, metrics = track.train_steps(state, x, y)
        seen = {"metrics": metrics, **track.to_snapshot(state)}
        if evaluate:
            seen |= {"sums": track.eval_batch(state, x[0][:7], y[0][:7]), "logits": track.logits(state, x[0][:5])}
        return {path: np.asarray(leaf) for path, leaf in leaves(seen).items()}


def largest_gap(got: Tree, want: Tree) -> tuple[float, str]:
    """Of all leaves, relative to the largest number in each; and where."""
    assert got.keys() == want.keys()
    return max((np.abs(got[path] - want[path]).max() / max(np.abs(want[path]).max(), 1e-3), path) for path in want)


@pytest.fixture(scope="module")
def one_device():
    """What one device makes of it: computed once for each question."""
    known: dict[tuple[str, str], Tree] = {}

    def find(track, model: str, **changes) -> Tree:
        key = (track.__name__, model)
        if key not in known:
            known[key] = trained(track, model, **changes)
        return known[key]

    return find


@pytest.mark.parametrize(("model", "accumulate"), [("mlp", 1), ("vgg", 2)])
@pytest.mark.parametrize(("track", "way"), WAYS)
def test_two_devices_match_one(track, way, model, accumulate, one_device):
    question = {"accumulate": accumulate, "evaluate": model == "mlp"}
    gap, where = largest_gap(trained(track, model, devices=2, **way, **question), one_device(track, model, **question))
    assert gap <= TOLERANCE, where


def test_batch_norm_of_unequal_shards_equals_one_device():
    """A batch norm of each shard's own statistics would be another function: here the shards differ."""
    x, y = images("vgg", 1, 8)
    x[:, :4] //= 8  # the first shard is dark
    steps = {}
    for count in (1, 2):
        state = start(torch_train, "vgg", devices=count)
        steps[count] = torch_train.to_snapshot(torch_train.train_steps(state, x, y)[0])
    gap, where = largest_gap(leaves(steps[2]), leaves(steps[1]))
    assert gap <= TOLERANCE, where


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize(
    ("changes", "n", "message"),
    [
        ({"devices": 2}, 7, "a batch of 7 does not divide by 2 devices"),
        ({"devices": 2, "accumulate": 3}, 8, "a batch of 8 does not divide by 2 devices x 3 micro-batches"),
        ({"devices": 0}, 8, "devices is 0: it must be at least 1"),
        ({"device": "tpu"}, 8, "invalid device 'tpu': expected auto, cpu, gpu or gpu:N"),
        ({"device": "cpu:1"}, 8, "invalid device 'cpu:1'"),
        ({"device": "gpu"}, 8, "no GPU for device 'gpu'"),
    ],
)
def test_invalid_devices_are_refused(track, changes, n, message):
    if "GPU" in message and ACCELERATORS:
        pytest.skip("there is a GPU")
    with exact_jax("float64"), pytest.raises(ValueError, match=message):
        track.train_steps(start(track, "mlp", **changes), *images("mlp", 1, n))


def test_too_many_devices_names_the_available_ones():
    with pytest.raises(ValueError, match=r"cannot use 3 devices from 'cpu': JAX has 2: .*0, .*1; XLA_FLAGS=.*count=3"):
        jax_devices.choose("cpu", 3)
    with pytest.raises(ValueError, match="unknown parallel 'pmab'; known: pmap, shard_map, jit"):
        start(jax_train, "mlp", precision="float32", parallel="pmab")


def test_gpu_is_chosen_by_number(monkeypatch):
    gpus = {torch_devices: [torch.device("cuda", 0), torch.device("cuda", 1)], jax_devices: jax.devices("cpu")}
    for module, found in gpus.items():
        monkeypatch.setattr(module, "accelerators", lambda found=found: found)
        assert module.choose("auto") == found[:1] == module.choose("gpu")
        assert module.choose("gpu:1") == found[1:]
        assert module.choose("gpu", 2) == found
        with pytest.raises(ValueError, match=r"cannot use 2 devices from 'gpu:1': \w+ has 2: \w+:0, \w+:1"):
            module.choose("gpu:1", 2)
    with pytest.raises(ValueError, match="no float64"):
        torch_devices.set_full_precision(torch.device("mps"), "float64")


@pytest.mark.parametrize("track", TRACKS)
def test_auto_is_the_cpu_without_an_accelerator(track):
    if ACCELERATORS:
        pytest.skip("there is a GPU")
    facts = track.device_facts(start(track, "mlp", precision="float32", device="auto"))
    assert facts == {"hardware": "cpu", "matmul_precision": "float32 (no TF32)", "peak_device_mb": None}


# --- worker processes -------------------------------------------------------------------------------------------------


def test_workers_delete_the_states_that_were_deleted_here():
    states = [start(torch_train, "mlp", devices=2) for _ in range(3)]
    group = worker_group.holding(states[0])
    assert group.state_ids >= {state.state_id for state in states}
    deleted = {state.state_id for state in states[1:]}
    del states[1:]
    gc.collect()
    torch_train.train_steps(states[0], *images("mlp", 1, 4))
    assert not group.state_ids & deleted
    torch_train.train_steps(states[0], *images("mlp", 1, 4))


def test_killed_worker_is_named_and_replaced():
    state = start(torch_train, "mlp", devices=2)
    (worker,) = worker_group.holding(state).workers
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    with pytest.raises(RuntimeError, match="the worker of device 1 ended with exit code -9; last line of stderr: "):
        torch_train.train_steps(state, *images("mlp", 1, 4))
    with pytest.raises(RuntimeError, match="make a new state with init_state"):
        torch_train.train_steps(state, *images("mlp", 1, 4))
    assert torch_train.to_snapshot(state)["params"]  # what is here can still be read
    again = start(torch_train, "mlp", devices=2)
    torch_train.train_steps(again, *images("mlp", 1, 4))


# --- what the command line makes of it --------------------------------------------------------------------------------

CONFIG = presets.get("mlp-mnist")


def test_command_line_accepts_device_and_count():
    options = run_all.parser().parse_args(["mlp-mnist", "--device", "gpu:1", "--devices", "4", "--tracks", "jax"])
    (config,) = run_all.configs(options)
    assert (config.device, config.devices) == ("gpu:1", 4)
    assert plan.planned(config, "jax", plan.step_costs(config))["device"] == "gpu:1"
    assert plan.planned(config, "numpy", plan.step_costs(config))["device"] == "cpu"
    assert "device" not in tracks.state_arguments(config, "numpy", steps=1, threads=1)
    assert run_all.configs(run_all.parser().parse_args(["mlp-mnist"]))[0].device == "cpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "3"], "mlp-mnist: a batch of 512 does not divide by 3 devices: choose another --batch-size"),
        (["--devices", "64"], "--devices 64: on a CPU each device needs a core, and this process may use 2; choose"),
        (["--device", "gpu", "--tracks", "numpy"], "--device gpu: NumPy computes on the CPU only; add --tracks jax"),
        (
            ["--devices", "64", "--device", "gpu"],
            "at most that many, or leave NumPy out with --tracks jax torch",
        ),
    ],
)
def test_command_line_refuses_invalid_devices(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 2)
    assert run_all.main(["mlp-mnist", *arguments]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):  # argparse's own way out
        run_all.main(["mlp-mnist", "--device", "tpu"])
    assert "invalid device 'tpu': expected auto, cpu, gpu or gpu:N" in capsys.readouterr().err


def test_worker_environment_before_jax_starts(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_one")
    assert tracks.device_variables(CONFIG) == {"JAX_PLATFORMS": "cpu"}
    two = tracks.device_variables(dataclasses.replace(CONFIG, devices=2))
    assert two["XLA_FLAGS"] == "--xla_one --xla_force_host_platform_device_count=2"
    gpu = tracks.environment("jax", dataclasses.replace(CONFIG, device="gpu"), threads=1)
    assert (gpu["JAX_PLATFORMS"], gpu["XLA_PYTHON_CLIENT_PREALLOCATE"]) == ("", "false")


def test_parity_is_checked_on_the_device_and_in_float64_on_the_cpu():
    config = dataclasses.replace(CONFIG, device="gpu", devices=2)
    assert check.parity_config(config, "float32") == config
    assert check.parity_config(config, "float64") == dataclasses.replace(config, precision="float64", device="cpu")


@pytest.mark.parametrize("name", ["jax", "torch"])
def test_dataset_on_the_device_gives_the_same_steps(name):
    track, place = tracks.load(name), {"jax": jax.device_put, "torch": torch.from_numpy}[name]
    x, y = images("mlp", 12, 4)
    index = np.random.default_rng(0).permutation(48).reshape(6, 8)
    flat_x, flat_y = x.reshape(48, *x.shape[2:]), y.reshape(48)
    there = {"jax": jax_devices, "torch": torch_devices}[name].DeviceDataset(place(flat_x), place(flat_y))
    states = [
        track.train_steps(start(track, "mlp", precision="float32"), *batches)[0]
        for batches in (there[index], (flat_x[index], flat_y[index]))
    ]
    (a, b) = (leaves(track.to_snapshot(state)) for state in states)
    for path in b:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)
    assert track.place_dataset(states[0], flat_x, flat_y) is None  # on a CPU nothing has to move


# --- on an accelerator ------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize("model", NETWORKS)
def test_gpu_matches_cpu(track, model, needs_gpu):
    x, y = images(model, 10, 8)
    snapshots = {}
    for device in ("cpu", "gpu"):
        state = start(track, model, precision="float32", device=device)
        state, metrics = track.train_steps(state, x, y)
        track.synchronize(state)
        assert np.asarray(metrics["loss"]).shape == (10,)
        assert int(track.eval_batch(state, x[0], y[0])["count"]) == 8
        snapshots[device] = leaves(track.to_snapshot(state))
    gap, where = largest_gap(snapshots["gpu"], snapshots["cpu"])
    assert gap <= 1e-3, where  # TF32 would be at 1e-2
    there = track.place_dataset(state, x[0], y[0])
    index = np.arange(8).reshape(2, 4)
    labels = there[index][1]
    assert np.array_equal(np.asarray(labels.cpu() if torch.is_tensor(labels) else labels), y[0][index])
    facts = track.device_facts(state)
    assert facts["hardware"] != "cpu"
    assert facts["matmul_precision"] == "float32 (no TF32)"


@pytest.mark.gpu
@pytest.mark.parametrize("accumulate", [1, 2])
def test_gpu_graph_replay_matches_eager_steps(accumulate, needs_gpu):
    x, y = images("mlp", 10, 8)
    wanted: dict[str, Any] = {"precision": "float32", "device": "gpu", "accumulate": accumulate}
    plain, compiled = (
        leaves(torch_train.to_snapshot(torch_train.train_steps(start(torch_train, "mlp", **(wanted | how)), x, y)[0]))
        for how in ({"compile": False}, {"compile": True})
    )
    gap, where = largest_gap(compiled, plain)
    assert gap <= 1e-5, where


@pytest.mark.gpu
@pytest.mark.parametrize("track", TRACKS)
def test_run_resumed_on_a_gpu_is_exact(track, needs_gpu):
    x, y = images("mlp", 8, 8)
    wanted: dict[str, Any] = {"precision": "float32", "device": "gpu", "optimizer": "adamw", "optimizer_args": {}}
    whole, _ = track.train_steps(start(track, "mlp", **wanted), x, y)
    half, _ = track.train_steps(start(track, "mlp", **wanted), x[:4], y[:4])
    again, _ = track.train_steps(start(track, "mlp", snapshot=track.to_snapshot(half), **wanted), x[4:], y[4:])
    gap, where = largest_gap(leaves(track.to_snapshot(again)), leaves(track.to_snapshot(whole)))
    assert gap <= 1e-5, where

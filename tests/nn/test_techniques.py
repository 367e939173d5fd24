"""What is added to plain training, three times the same: soft targets, averages, bfloat16, early stopping and more."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_nn.conv
import jax_nn.layers
import jax_nn.losses
import jax_nn.precision
import jax_nn.recurrent
import torch_nn.conv
import torch_nn.layers
import torch_nn.losses
import torch_nn.precision
import torch_nn.recurrent
from compare import tracks
from compare.checkpoint import store
from compare.config import Config
from compare.data import Data
from compare.errors import UserError
from compare.parity import check
from compare.training import loop, worker
from compare.training.steps import plan
from compare.workers.protocol import Job
from numpy_nn.losses import LOSSES, correct
from numpy_nn.models import MODELS
from numpy_nn.tree import first_average, leaves, tree_map

SMALL = {"input_shape": (12, 10, 3), "classes": 7, "hidden": (9,)}
CONFIG = Config(
    preset="small mlp",
    model="mlp",
    dataset="random images",
    model_args=SMALL,
    lr=0.05,
    precision="float64",
)


BATCH_NORM = {"input_shape": (8, 8, 3), "classes": 7, "stages": (1,), "channels": (4,)}  # arguments of vgg
PIXELS: dict[str, Any] = {"mean": (0.13,) * 3, "std": (0.31,) * 3}


@pytest.fixture(params=tracks.TRACKS)
def track(request):
    """Each track in turn."""
    return tracks.load(request.param)


def trained(track, config: Config, *, snapshot=None, steps: slice = slice(0, 4), threads: int = 1, **arguments: Any):
    """The state after these of a few steps on random images, and the metrics of each.

    ``arguments`` are those of ``init_state`` that differ from the config.
    """
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (8, 12, *config.model_args["input_shape"]), dtype=np.uint8)
    y = rng.integers(0, 7, (8, 12), dtype=np.int32)
    if snapshot is None:
        snapshot = MODELS[config.model](**config.model_args).init(np.random.default_rng(2))
    name = track.__name__.removesuffix("_nn.train")
    arguments = tracks.state_arguments(config, name, steps=100, threads=threads) | arguments
    with check.exact_jax(config.precision):
        state = track.init_state(snapshot, **arguments, **PIXELS)
        state, metrics = track.train_steps(state, x[steps], y[steps])
        return state, {name: np.asarray(value) for name, value in metrics.items()}


def require_equal(config: Config, steps: int = 10) -> None:
    """Fail with the worst leaf of everything that is out of tolerance."""
    for row, _ in check.check_parity(config, list(tracks.TRACKS), steps=steps):
        bad = [check for check in row["checks"] if not check["passed"]]
        assert not bad, f"{row['preset']}: {row['a']} against {row['b']}: {bad}"


# --- soft targets -----------------------------------------------------------------------------------------------------


def test_tracks_agree_on_mixed_images_and_labels():
    smooth = {"label_smoothing": 0.1}
    require_equal(dataclasses.replace(CONFIG, augment=("crop:2", "mixup:0.2"), loss_args=smooth), steps=3)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_accepts_class_indices_and_distributions(loss, rng):
    outputs, labels = rng.normal(size=(6, 5)), rng.integers(0, 5, 6)
    forward, backward = LOSSES[loss]
    values, gradients = [], []
    for each in (labels, np.eye(5)[labels]):
        value, cache = forward(outputs, each)
        gradients.append(backward(1.0, cache))
        in_jax = jax_nn.losses.LOSSES[loss](jnp.asarray(outputs), jnp.asarray(each))
        in_torch = torch_nn.losses.LOSSES[loss](torch.tensor(outputs), torch.tensor(each))
        values += [value, float(in_jax), float(in_torch)]
    assert values == pytest.approx([values[0]] * 6, rel=1e-6)  # JAX computes in float32 here
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_distributions_agrees_with_autograd(loss, rng):
    outputs, labels = rng.normal(size=(6, 5)), rng.dirichlet(np.ones(5), size=6)
    forward, backward = LOSSES[loss]
    value, cache = forward(outputs, labels)
    tensor = torch.tensor(outputs, requires_grad=True)
    in_torch = torch_nn.losses.LOSSES[loss](tensor, torch.tensor(labels))
    in_torch.backward()
    with jax.enable_x64(True):
        in_jax, by_jax = jax.value_and_grad(jax_nn.losses.LOSSES[loss])(jnp.asarray(outputs), jnp.asarray(labels))
    assert [in_torch.item(), float(in_jax)] == pytest.approx([value] * 2, rel=1e-13)
    np.testing.assert_allclose(tensor.grad, backward(1.0, cache), rtol=0, atol=1e-15)
    np.testing.assert_allclose(by_jax, backward(1.0, cache), rtol=0, atol=1e-15)


def test_wrong_number_of_class_weights_is_refused_by_all_tracks():
    outputs, labels = np.zeros((2, 3)), np.array([0, 1])
    for call in (
        lambda: LOSSES["cross_entropy"][0](outputs, labels, class_weights=(1.0, 2.0)),
        lambda: jax_nn.losses.LOSSES["cross_entropy"](
            jnp.asarray(outputs), jnp.asarray(labels), class_weights=(1.0, 2.0)
        ),
        lambda: torch_nn.losses.LOSSES["cross_entropy"](
            torch.tensor(outputs), torch.tensor(labels), class_weights=(1.0, 2.0)
        ),
    ):
        with pytest.raises(ValueError, match="2 weights for 3 classes: give one each"):
            call()


def test_accuracy_of_a_soft_label_counts_its_largest_class():
    outputs = np.array([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]], np.float32)
    labels = np.array([[0.4, 0.6, 0.0], [0.1, 0.7, 0.2], [0.1, 0.0, 0.9]], np.float32)
    assert correct(outputs, labels) == 2
    assert int(jax_nn.losses.correct(jnp.asarray(outputs), jnp.asarray(labels))) == 2
    assert int(torch_nn.losses.correct(torch.tensor(outputs), torch.tensor(labels))) == 2


# --- gradient accumulation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [3, 12])
def test_accumulated_gradients_equal_the_full_batch(track, accumulate):
    a, b = (trained(track, dataclasses.replace(CONFIG, accumulate=m)) for m in (1, accumulate))
    for name in a[1]:
        np.testing.assert_allclose(b[1][name], a[1][name], rtol=1e-12)
    after = [leaves(track.to_snapshot(state)) for state, _ in (a, b)]
    for path in after[0]:  # observed: 2e-16
        np.testing.assert_allclose(after[1][path], after[0][path], rtol=0, atol=1e-12, err_msg=path)


def test_accumulation_works_with_soft_targets_and_batch_norm():
    config = dataclasses.replace(CONFIG, model="vgg", model_args=BATCH_NORM, augment=("mixup:0.2",), accumulate=4)
    require_equal(config, steps=3)


def test_micro_batches_are_sharded_over_threads():
    config = dataclasses.replace(CONFIG, accumulate=3)  # micro-batches of 4 images, on 3 threads
    one, three = (leaves(trained(tracks.load("numpy"), config, threads=n)[0].params) for n in (1, 3))
    for path in one:
        np.testing.assert_allclose(three[path], one[path], rtol=0, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("accumulate", [0, -2, 5])
def test_batch_must_divide_into_equal_micro_batches(track, accumulate):
    with pytest.raises(ValueError, match=f"accumulate {accumulate}|a batch of 12 is not {accumulate} equal"):
        trained(track, CONFIG, accumulate=accumulate)
    with pytest.raises(UserError, match=f"invalid accumulate {accumulate}: .*expected a"):
        plan(dataclasses.replace(CONFIG, accumulate=accumulate), 1000)


# --- averaged weights -------------------------------------------------------------------------------------------------

AVERAGED = dataclasses.replace(CONFIG, optimizer="adam", lr=0.01, ema=0.7)


def test_weight_average_follows_its_formula(track):
    expected = MODELS["mlp"](**SMALL).init(np.random.default_rng(2))["params"]
    snapshot = None
    for k in range(3):
        state, _ = trained(track, AVERAGED, snapshot=snapshot, steps=slice(k, k + 1))
        snapshot = track.to_snapshot(state)
        expected = tree_map(lambda e, p: 0.7 * e + 0.3 * p, expected, snapshot["params"])
    for path, leaf in leaves(expected).items():
        np.testing.assert_allclose(leaves(snapshot["ema"])[path], leaf, rtol=0, atol=1e-15, err_msg=path)


def test_evaluation_uses_the_weight_average(track, rng):
    snapshot = track.to_snapshot(trained(track, AVERAGED)[0])
    plain = {"params": snapshot["ema"], "stats": snapshot["stats"]}
    x, y = rng.integers(0, 256, (5, 12, 10, 3), dtype=np.uint8), np.arange(5, dtype=np.int32)
    outputs, losses = [], []
    for config, each in ((AVERAGED, snapshot), (CONFIG, plain)):
        with check.exact_jax("float64"):
            state = track.init_state(each, **tracks.state_arguments(config, "numpy", steps=100, threads=1), **PIXELS)
            outputs.append(np.asarray(track.logits(state, x)))
            losses.append(float(track.eval_batch(state, x, y)["loss_sum"]))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("model", ["vgg", "lstm"])
def test_weight_average_survives_changing_tracks(model):
    args = {"vgg": BATCH_NORM, "lstm": {"input_shape": (8, 8, 3), "classes": 7, "hidden": 5}}[model]
    config = dataclasses.replace(AVERAGED, model=model, model_args=args, accumulate=2)
    whole, _ = trained(tracks.load("numpy"), config)
    half, _ = trained(tracks.load("jax"), config, steps=slice(0, 2))
    snapshot = tracks.load("jax").to_snapshot(half)
    resumed, _ = trained(tracks.load("torch"), config, snapshot=snapshot, steps=slice(2, 4))
    a, b = leaves(tracks.load("numpy").to_snapshot(whole)), leaves(tracks.load("torch").to_snapshot(resumed))
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(b[path], a[path], rtol=0, atol=1e-10, err_msg=path)


def test_resumed_weight_average_is_exact(track):
    whole, _ = trained(track, AVERAGED)
    half, _ = trained(track, AVERAGED, steps=slice(0, 2))
    resumed, _ = trained(track, AVERAGED, snapshot=track.to_snapshot(half), steps=slice(2, 4))
    a, b = leaves(track.to_snapshot(whole)), leaves(track.to_snapshot(resumed))
    for path in a:
        np.testing.assert_array_equal(b[path], a[path], err_msg=path)


def test_snapshot_with_an_average_needs_ema(track):
    snapshot = track.to_snapshot(trained(track, AVERAGED)[0])
    with pytest.raises(ValueError, match=r"the snapshot has an average .* give its decay \(ema=0.999\), or drop"):
        trained(track, dataclasses.replace(AVERAGED, ema=None), snapshot=snapshot)
    with pytest.raises(UserError, match=r"invalid ema 1\.0: expected a number of at least 0 and below 1"):
        dataclasses.replace(CONFIG, ema=1.0)
    with pytest.raises(ValueError, match=r"ema 1\.0: the decay of an average is at least 0 and less than 1"):
        first_average(snapshot, 1.0)
    del snapshot["ema"]["output"]["bias"]
    with pytest.raises(ValueError, match=r"missing output/bias \(7,\)"):
        trained(track, AVERAGED, snapshot=snapshot)


# --- mixed precision --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["jax", "torch"])
def mixed(request):
    """Each track that has bfloat16."""
    return tracks.load(request.param)


@pytest.mark.parametrize("model", ["mlp", "vgg", "lstm"])
def test_bfloat16_is_close_to_but_not_equal_to_float32(mixed, model):
    every: dict[str, Any] = {"mlp": {"hidden": (9,)}, "vgg": BATCH_NORM, "lstm": {"hidden": 5}}
    config = dataclasses.replace(
        CONFIG,
        model=model,
        model_args={"input_shape": (8, 8, 3), "classes": 7, **every[model]},
        optimizer="adamw",
        lr=1e-3,
    )
    losses = []
    for precision in ("float32", "bfloat16"):
        state, metrics = trained(mixed, dataclasses.replace(config, precision=precision))
        losses.append(metrics["loss"])
        for path, leaf in leaves(mixed.to_snapshot(state)).items():
            assert leaf.dtype == (np.int32 if path in ("step", "opt/count") else np.float32), path
    distance = np.abs(losses[1] / losses[0] - 1)
    assert 1e-5 < distance.max() < 2e-2  # observed: 2e-3


@pytest.mark.parametrize("layer", ["linear", "conv", "grouped conv", "rnn", "lstm"])
def test_bfloat16_rounds_the_operands_of_every_kind_of_layer(mixed, layer, rng):
    """A layer that was left in float32 would be 1e-7 from it; rounding the operands leaves 1e-3."""
    x = rng.normal(size=(2, 6, 6, 4)).astype(np.float32)
    outputs = [LAYERS[mixed.__name__](layer, x, bfloat16=bfloat16) for bfloat16 in (False, True)]
    gap = np.abs(outputs[1] - outputs[0]).max() / np.abs(outputs[0]).max()
    assert outputs[1].dtype == np.float32
    assert 2e-4 < gap < 2e-2, gap


def jax_layer(layer: str, x: np.ndarray, *, bfloat16: bool) -> np.ndarray:
    rngs = nnx.Rngs(0)
    rows = jnp.asarray(x.reshape(2, 6, 24))
    build, given = {
        "linear": (lambda: jax_nn.layers.Linear(24, 5, rngs=rngs), rows),
        "conv": (lambda: jax_nn.conv.Conv(4, 6, 3, rngs=rngs), jnp.asarray(x)),
        "grouped conv": (lambda: jax_nn.conv.Conv(4, 6, 3, groups=2, rngs=rngs), jnp.asarray(x)),
        "rnn": (lambda: jax_nn.recurrent.RNNLayer(24, 5, rngs=rngs), rows),
        "lstm": (lambda: jax_nn.recurrent.LSTMLayer(24, 5, rngs=rngs), rows),
    }[layer]
    module = build()
    if bfloat16:
        jax_nn.precision.use_bfloat16_matmuls(module)
    y = module(given)
    return np.asarray(y[0] if isinstance(y, tuple) else y)


def torch_layer(layer: str, x: np.ndarray, *, bfloat16: bool) -> np.ndarray:
    torch.manual_seed(0)
    rows, images = torch.tensor(x.reshape(2, 6, 24)), torch.tensor(x).permute(0, 3, 1, 2)
    module, given = {
        "linear": (torch_nn.layers.Linear(24, 5), rows),
        "conv": (torch_nn.conv.Conv(4, 6, 3), images),
        "grouped conv": (torch_nn.conv.Conv(4, 6, 3, groups=2), images),
        "rnn": (torch_nn.recurrent.RNNLayer(24, 5), rows),
        "lstm": (torch_nn.recurrent.LSTMLayer(24, 5), rows),
    }[layer]

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = module(x)
        return y[0] if isinstance(y, tuple) else y

    with torch.no_grad():
        return (torch_nn.precision.with_bfloat16_matmuls(forward) if bfloat16 else forward)(given).numpy()


LAYERS = {"jax_nn.train": jax_layer, "torch_nn.train": torch_layer}


def test_bfloat16_parity_leaves_out_numpy():
    config = dataclasses.replace(
        CONFIG, model="vgg", model_args=BATCH_NORM, precision="bfloat16", ema=0.9, accumulate=2
    )
    ((row, _),) = check.check_parity(config, list(tracks.TRACKS), steps=3)
    assert (row["a"], row["b"], row["passed"]) == ("jax", "torch", True), row["checks"]
    assert check.check_parity(config, ["numpy", "torch"]) == []


def test_numpy_refuses_bfloat16_with_the_reason(monkeypatch, tmp_path):
    reason = "NumPy has no bfloat16 arithmetic: choose float32 or float64, or another track"
    with pytest.raises(ValueError, match=reason):
        trained(tracks.load("numpy"), dataclasses.replace(CONFIG, precision="bfloat16"))
    end, _ = run(monkeypatch, tmp_path, precision="bfloat16")
    assert (end["status"], end["message"]) == ("failed", f"small mlp numpy: {reason}")


def test_bfloat16_gradients_accumulate_in_float32(rng):
    """In bfloat16 256 + 1 is 256: a bias or a kernel whose gradient were added up in it would learn from few images."""
    x = np.full((1, 600, 8, 8, 1), 255, np.uint8)
    y = np.zeros((1, 600), np.int32)
    args = {"input_shape": (8, 8, 1), "channels": (2,), "kernel": 3, "padding": 1, "hidden": 4}
    snapshot = MODELS["cnn"](**args).init(rng)
    moments = []
    for name, precision in (("numpy", "float32"), ("jax", "bfloat16"), ("torch", "bfloat16")):
        state = tracks.load(name).init_state(
            snapshot,
            model="cnn",
            model_args=args,
            optimizer="momentum",
            schedule_args={"lr": 0.1, "steps": 9},
            precision=precision,
        )
        state, _ = tracks.load(name).train_steps(state, x, y)
        moments.append(leaves(tracks.load(name).to_snapshot(state)["opt"]["mu"]))
    for other in moments[1:]:
        for path, expected in moments[0].items():
            assert check.distance(other[path], expected)[1] < 2e-2, path


# --- early stopping, best state ---------------------------------------------------------------------------------------

VALIDATION = [0.5, 0.7, 0.6, 0.7, 0.8, 0.1, 0.2, 0.3]
TEST = [0.9, 0.1, 0.8, 0.7, 0.2, 0.3, 0.95, 0.99]


def run(monkeypatch, tmp_path, *, val_size=20, stop_after=-1, **changes):
    """A tiny training with an evaluation after every 4 steps, the figures of which are invented."""
    rng = np.random.default_rng(0)
    data = Data(
        name="noise",
        train_x=rng.integers(0, 256, (100, 12, 10, 3), dtype=np.uint8),
        train_y=rng.integers(0, 7, 100, dtype=np.int32),
        test_x=np.zeros((10, 12, 10, 3), np.uint8),
        test_y=np.zeros(10, np.int32),
        classes=tuple("abcdefg"),
        **PIXELS,
    ).split(val_size, 0)
    rows = iter(zip(VALIDATION, TEST, strict=True))

    def evaluate(*_: object, **__: object) -> dict[str, float]:
        return dict(
            zip(("val_accuracy", "test_accuracy", "val_loss", "test_loss"), (*next(rows), 1.0, 1.0), strict=True)
        )

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(worker, "load_data", lambda *_, **__: data)
    events, stop = [], threading.Event()

    def emit(event):
        events.append(event)
        if event.get("step") == stop_after:
            stop.set()

    config = dataclasses.replace(CONFIG, **{"batch_size": 20, "epochs": 8, "precision": "float32", **changes})
    worker.run(Job(config, "numpy", threads=1, folder=tmp_path), emit=emit, stop=stop)
    return events[-1], [event for event in events if event["event"] == "eval"]


def test_without_patience_the_last_state_is_kept(monkeypatch, tmp_path):
    end, rows = run(monkeypatch, tmp_path)
    assert (end["status"], end["message"], end["steps"], end["best_step"]) == ("finished", None, 32, None)
    assert (len(rows), end["val_accuracy"], end["test_accuracy"]) == (8, 0.3, 0.99)
    assert end["checkpoint"] == str(tmp_path / "32")


def test_first_best_validation_accuracy_is_kept(monkeypatch, tmp_path):
    end, rows = run(monkeypatch, tmp_path, keep_best=True)
    assert (end["status"], end["message"], end["steps"], end["best_step"]) == ("finished", None, 32, 20)
    assert (len(rows), end["val_accuracy"], end["test_accuracy"]) == (8, 0.8, 0.2)
    assert end["checkpoint"] == str(tmp_path / "20")
    assert int(store.restore(tmp_path)[0]["step"]) == 20


@pytest.mark.parametrize(("patience", "steps", "best"), [(1, 12, 8), (2, 16, 8), (3, 32, 20), (9, 32, 20)])
def test_patience_stops_and_keeps_the_best_state(monkeypatch, tmp_path, patience, steps, best):
    end, rows = run(monkeypatch, tmp_path, patience=patience, keep_best=True)
    assert (end["status"], end["steps"], end["best_step"]) == ("finished", steps, best)
    assert end["val_accuracy"] == max(row["val_accuracy"] for row in rows)
    early = f"stopped early: best validation accuracy at step {best}"
    assert end["message"] == (early if steps < 32 else None)


def test_interrupted_training_keeps_the_last_state_for_resuming(monkeypatch, tmp_path):
    end, _ = run(monkeypatch, tmp_path, keep_best=True, stop_after=12)
    assert (end["status"], end["message"], end["best_step"]) == ("interrupted", "stopped after step 12 of 32", None)
    assert end["checkpoint"] == str(tmp_path / "12")


def test_keeping_the_best_state_needs_validation_images(monkeypatch, tmp_path):
    end, _ = run(monkeypatch, tmp_path, keep_best=True, val_size=0)
    assert end["status"] == "failed"
    assert "patience and keep_best need validation images, and there are none: increase val_size" in end["message"]

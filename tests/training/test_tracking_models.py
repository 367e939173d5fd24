"""Networks in MLflow: what a comparison on disk leaves there, and that a pyfunc answers as `predict` does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_results import fake_results

from compare import data
from compare.checkpoint import store as checkpoints
from compare.data.preparation import Preparation
from compare.eval.figures import softmax
from compare.predict import SHIPPED, Predictor
from compare.tracking import commands, contents, models
from compare.tracking.__main__ import main
from compare.tracking.store import client as client_of
from compare.tracking.store import opened
from compare.tracks import model_argument
from compare.weights.network import Network
from compare.weights.open import open_network
from numpy_nn.models import MODELS

pytestmark = pytest.mark.filterwarnings("ignore:.*type hint is inferred as AnyType")  # of MLflow's own code
ARGS = {"input_shape": (28, 28, 1), "hidden": (4,), "classes": 10}


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """A folder with results.json of one finished run, two of whose checkpoints were kept."""
    folder = tmp_path / "comparison"
    results = fake_results(presets=("mlp-mnist",), tracks=("jax",), steps=100)
    (run,) = results["runs"]
    run["checkpoint"] = "checkpoints/mlp-mnist-jax-seed0/100"
    snapshot = MODELS["mlp"](**ARGS).init(np.random.default_rng(0))
    for row in run["history"][-2:]:
        metrics = {name: row[name] for name in ("val_loss", "val_accuracy", "test_accuracy") if row[name] is not None}
        meta = {"config": {"model": "mlp", "model_args": ARGS, "dataset": "mnist"}, "track": "jax", "metrics": metrics}
        meta |= {"mean": [0.1], "std": [0.3]}
        state = {**snapshot, "step": np.int32(row["step"])}
        checkpoints.save(folder / "checkpoints" / "mlp-mnist-jax-seed0", row["step"], state, meta)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def uri(store: Path) -> str:
    return f"sqlite:///{store / 'mlflow.db'}"


def only(found: list[Any]) -> Any:
    (one,) = found
    return one


def test_kept_checkpoints_are_models_with_metrics_and_dataset(comparison: Path, store: Path):
    parent = commands.log(comparison, store=store)
    client, experiment = opened(uri(store), "compare")
    child = only(client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'"))
    assert {it.path for it in client.list_artifacts(child.info.run_id)} == {"curves.png", "checkpoint"}
    run = json.loads((comparison / "results.json").read_text())["runs"][0]
    last = run["history"][-1]
    used = only(child.inputs.dataset_inputs).dataset
    assert (used.name, used.digest) == (run["data"]["name"], run["data"]["digest"][: contents.DIGEST_LENGTH])
    assert json.loads(used.source)["sha256"] == run["data"]["digest"]
    assert json.loads(used.profile) == {"train_images": 55_000, "val_images": 5_000, "test_images": 10_000}
    found = {int(it.tags["step"]): it for it in client.search_logged_models([experiment])}
    assert sorted(found) == [90, 100]
    assert {it.step for it in child.outputs.model_outputs} == {90, 100}
    metrics = {it.key: it for it in found[100].metrics}
    assert metrics["val_accuracy"].value == pytest.approx(last["val_accuracy"])
    assert metrics["test_accuracy"].dataset_digest == used.digest
    assert found[100].params["model_args.hidden"] == "[4]"
    # and the run has them once
    assert len(client.get_metric_history(child.info.run_id, "val_accuracy")) == len(run["history"])


def test_logging_again_adds_nothing(comparison: Path, store: Path):
    first, second = (commands.log(comparison, store=store) for _ in range(2))
    assert first == second
    client, experiment = opened(uri(store), "compare")
    child = only(client.search_runs([experiment], f"tags.mlflow.parentRunId = '{first}'"))
    client.update_run(child.info.run_id, status="RUNNING")  # as if it had been cut before its end
    assert commands.log(comparison, store=store) == first
    assert len(client.search_runs([experiment])) == 2
    assert len(client.search_logged_models([experiment])) == 2


def test_best_is_an_alias_in_the_registry_that_a_worse_network_does_not_take(
    comparison: Path, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(store.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(store))
    assert main(["best", str(comparison)]) == 2
    assert f"is not in MLflow: python -m compare.tracking log {comparison}" in capsys.readouterr().err
    assert main(["log", str(comparison)]) == 0
    for _ in range(2):  # the second time it is there already
        assert main(["best", str(comparison)]) == 0
    assert "models:/mlp-mnist@best" in capsys.readouterr().out
    client = client_of(uri(store))
    version = client.get_model_version_by_alias("mlp-mnist", "best")
    score = float(version.tags["val_accuracy"])
    results = json.loads((comparison / "results.json").read_text())
    assert score == pytest.approx(max(row["val_accuracy"] for row in results["runs"][0]["history"][-2:]))
    assert len(client.search_model_versions("name = 'mlp-mnist'")) == 1
    client.set_model_version_tag("mlp-mnist", version.version, "val_accuracy", "2")
    worse = comparison.with_name("worse")
    shutil.copytree(comparison, worse)
    (worse / "results.json").write_text(json.dumps(results | {"id": "another"}))
    assert main(["log", str(worse)]) == 0
    assert main(["best", str(worse)]) == 0
    assert "best stays with version 1" in capsys.readouterr().out
    assert client.get_model_version_by_alias("mlp-mnist", "best").version == version.version


def test_models_are_found_after_the_folder_was_moved(comparison: Path, store: Path):
    import mlflow.pyfunc

    commands.log(comparison, store=store)
    assert commands.best(comparison, store_folder=store)
    moved = store.rename(store.with_name("moved 100%_x"))
    client, experiment = opened(uri(moved).replace("%", "%25"), "compare")
    for run in client.search_runs([experiment]):
        for file in client.list_artifacts(run.info.run_id):
            assert Path(client.download_artifacts(run.info.run_id, file.path)).exists()
    version = client.get_model_version_by_alias("mlp-mnist", "best")
    place = client.get_model_version_download_uri("mlp-mnist", version.version)
    answer = mlflow.pyfunc.load_model(place).predict(np.zeros((1, 28, 28, 1), np.uint8))
    assert len(answer[0]["probabilities"]) == 10


# --- the pyfunc -------------------------------------------------------------------------------------------------------


def probabilities(answers: list[dict[str, Any]]) -> np.ndarray:
    return np.array([each["probabilities"] for each in answers])


@pytest.mark.parametrize("name", MODELS)
def test_every_network_is_served_as_it_computes(name: str, tmp_path: Path):
    import mlflow.pyfunc

    snapshot = MODELS[name]().init(np.random.default_rng(0))
    shape = model_argument(name, {}, "input_shape")
    names = tuple(f"c{k}" for k in range(model_argument(name, {}, "classes")))
    trained = Network(
        name, {}, snapshot["params"], snapshot["stats"], (0.1,) * shape[-1], (0.3,) * shape[-1], names,
        meta={"config": {"model": name}}, preparation=Preparation(),
    )  # fmt: skip
    served = mlflow.pyfunc.load_model(str(models.package(trained, tmp_path)))
    highest = 256 if len(shape) == 3 else len(names)
    x = np.random.default_rng(1).integers(0, highest, (3, *shape), np.uint8)
    answers = served.predict(x)
    for image, answer in zip(x, answers, strict=True):
        logits = trained.logits(image[None])[0]
        expected = softmax(logits if logits.ndim == 1 else logits[-1])
        np.testing.assert_allclose(answer["probabilities"], expected, rtol=0, atol=1e-6)  # in a batch of 3, not of 1
        assert answer["probability"] == max(answer["probabilities"])
        assert answer["class"] == names[np.argmax(answer["probabilities"])]


ALONE = """
import json, sys
import numpy as np
import mlflow.pyfunc
served = mlflow.pyfunc.load_model(sys.argv[1])
answers = served.predict(np.load(sys.argv[2]))
import numpy_nn
print(json.dumps([[each["probabilities"] for each in answers], numpy_nn.__file__,
    sorted({"jax", "flax", "torch", "compare", "orbax"} & sys.modules.keys())]))
"""


def test_served_network_needs_numpy_only_and_brings_its_code(tmp_path: Path):
    x = data.load("mnist").test_x[:5]
    np.save(tmp_path / "x.npy", x)
    model = models.package(open_network(SHIPPED / "cnn-mnist.npz"), tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ALONE, str(model), str(tmp_path / "x.npy")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found, where, heavy = json.loads(done.stdout.splitlines()[-1])
    predictor = Predictor(open_network(SHIPPED / "cnn-mnist.npz"))
    np.testing.assert_allclose(found, [predictor.probabilities_of(image) for image in x], rtol=0, atol=1e-6)
    assert Path(where).is_relative_to(model / "artifacts" / "numpy_nn.zip")
    assert sum(each.stat().st_size for each in model.rglob("*") if each.suffix in (".py", ".zip")) < 80_000
    assert heavy == []
    requirements = (model / "requirements.txt").read_text().split()
    assert sorted(line.partition("==")[0] for line in requirements) == ["jaxtyping", "mlflow", "numpy"]


@pytest.mark.long
def test_mlflow_models_serve_answers_like_predict(tmp_path: Path):
    x = data.load("mnist").test_x[:7]
    network = open_network(SHIPPED / "cnn-mnist.npz")
    model = models.package(network, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }  # as in an activated venv
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], cwd=tmp_path, env=environment, process_group=0
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 240
        while not answers(f"{address}/ping"):
            assert server.poll() is None
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.5)
        body = json.dumps({"inputs": x.tolist()}).encode()
        request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            found = json.load(reply)["predictions"]
    finally:
        os.killpg(server.pid, 15)
        server.wait()
    predictor = Predictor(network)
    expected = np.array([predictor.probabilities_of(image) for image in x])
    np.testing.assert_allclose(probabilities(found), expected, rtol=0, atol=1e-6)
    assert [each["class"] for each in found] == [network.classes[k] for k in expected.argmax(axis=1)]


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False

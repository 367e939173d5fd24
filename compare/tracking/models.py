"""Networks in MLflow: a LoggedModel for each checkpoint that a run has kept, and the registry's ``best``.

Each is a pyfunc that needs NumPy only, see ``compare.tracking.served``.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import numpy_nn
from compare.checkpoint import store
from compare.errors import UserError
from compare.results.schema import RunResult
from compare.tracking import contents
from compare.weights.network import Network, description
from compare.weights.npz import write_npz
from compare.weights.open import open_network

CODE = Path(__file__).with_name("served.py")
NEEDED = ("numpy", "jaxtyping")  # what numpy_nn imports
ALIAS = "best"


def log(client: Any, child: str, *, experiment: str, run: RunResult, folder: Path) -> None:
    """Log every checkpoint of a run's folder as a LoggedModel, with its metrics and its dataset, once each."""
    from mlflow.entities import LoggedModelOutput

    known = {it.tags.get("step") for it in client.search_logged_models([experiment]) if it.source_run_id == child}
    for path in store.steps(folder):
        if path.name in known:  # before this comparison was resumed
            continue
        network, step = open_network(path), int(path.name)
        names = {"preset": run["preset"], "track": run["track"], "seed": run["seed"], "step": step}
        tags = {name: str(value) for name, value in names.items()}
        params = contents.params({"model": network.model, "model_args": network.args})
        name = "-".join((run["preset"], run["track"], f"seed{run['seed']}", f"step{step}"))
        number = client.create_logged_model(
            experiment, name=name, source_run_id=child, tags=tags, params=params, model_type=type_of(network)
        ).model_id
        status = "FAILED"
        try:
            with tempfile.TemporaryDirectory() as temporary:
                made = package(network, Path(temporary), run_id=child, model_id=number)
                client.log_model_artifacts(number, str(made))
            client.log_outputs(child, [LoggedModelOutput(number, step)])
            client.log_batch(child, metrics=list(_metrics(client, child, number, step, network, run)))
            status = "READY"
        finally:
            client.finalize_logged_model(number, status)


def type_of(network: Network) -> str:
    """What MLflow shows as the type of a model."""
    return "image classifier" if len(network.input_shape) == 3 else "language model"


def _metrics(client: Any, child: str, model: str, step: int, network: Network, run: RunResult) -> Iterable[Any]:
    """The evaluation of a checkpoint, linked to its model and dataset: the very entries that the run has already."""
    from mlflow.entities import Metric

    data = run.get("data")
    linked = {"dataset_name": data["name"], "dataset_digest": data["digest"][: contents.DIGEST_LENGTH]} if data else {}
    for name, value in (network.meta.get("metrics") or {}).items():
        times = [it.timestamp for it in client.get_metric_history(child, name) if it.step == step]
        if times:
            yield Metric(name, value, times[0], step, model_id=model, run_id=child, **linked)


def package(network: Network, folder: Path, *, run_id: str | None = None, model_id: str | None = None) -> Path:
    """Write a network as a pyfunc, with signature and input example, into ``folder``/model; returns that folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, about a type hint of its own
        import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    weights = folder / "network.npz"
    write_npz(weights, {"params": network.params, "stats": network.stats}, description(network))
    inputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, *network.input_shape))])
    columns: dict[str, Any] = {
        "class": DataType.string,
        "probability": DataType.double,
        "probabilities": Array(DataType.double),
    }
    grey = 0 if len(network.input_shape) == 1 else np.rint(255 * np.array(network.mean)).astype(np.uint8)
    example = np.full((1, *network.input_shape), grey, np.uint8)  # the mean colour, or the first character
    mlflow.pyfunc.save_model(
        str(folder / "model"),
        python_model=str(CODE),
        artifacts={"network": str(weights), "code": str(zipped(folder / "numpy_nn.zip"))},
        signature=ModelSignature(inputs, Schema([ColSpec(kind, name) for name, kind in columns.items()])),
        input_example=example,
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in NEEDED],
        mlflow_model=Model(run_id=run_id, model_id=model_id),
    )
    return folder / "model"


def zipped(path: Path) -> Path:
    """Write the sources of ``numpy_nn`` to one file, which Python imports from: a third of their size."""
    package = Path(numpy_nn.__file__).parent
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sorted(package.rglob("*.py")):
            archive.write(source, source.relative_to(package.parent))
    return path


# --- the registry -----------------------------------------------------------------------------------------------------


def register_best(client: Any, experiment: str, children: Iterable[Any], name: str) -> str:
    """Register the model of the highest validation accuracy among the runs ``children``; returns what was done.

    The alias ``best`` moves to it if no version of ``name`` that has the alias is as good.
    """
    runs = {child.info.run_id for child in children}
    found = [it for it in client.search_logged_models([experiment]) if it.source_run_id in runs]
    scores = {
        it.model_id: max((m.value for m in it.metrics or [] if m.key == "val_accuracy"), default=-1.0) for it in found
    }
    if not found:
        raise UserError(f"no model of {name} is logged: only runs that have finished have one")
    best = max(found, key=lambda it: scores[it.model_id])
    score = scores[best.model_id]
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'")
    version = next((it for it in versions if it.source == f"models:/{best.model_id}"), None)
    version = version or client.create_model_version(
        name,
        f"models:/{best.model_id}",
        run_id=best.source_run_id,
        model_id=best.model_id,
        tags={"val_accuracy": str(score), **best.tags},
    )
    holder = client.get_registered_model(name).aliases.get(ALIAS)
    better = [it for it in versions if it.version == holder and float(it.tags.get("val_accuracy", -1)) >= score]
    if better and holder != version.version:
        return f"{name}: version {version.version} ({score:.2%}); {ALIAS} stays with version {holder}"
    client.set_registered_model_alias(name, ALIAS, version.version)
    return f"{name}: version {version.version} ({score:.2%} validation accuracy) is models:/{name}@{ALIAS}"

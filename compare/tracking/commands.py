"""What ``python -m compare.tracking`` does: log a comparison, register its best networks, serve MLflow's page."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

from compare.errors import UserError
from compare.results.reader import read
from compare.results.schema import Results
from compare.tracking import contents, models, store
from compare.tracking.tracker import Tracker

STORE = Path("runs")
EXPERIMENT = "compare"
FILES = ("results.json", "report.html", "report.md", "curves.png")


def start(tracker: Tracker, results: Results, name: str, *, experiment: str = EXPERIMENT) -> str:
    """Start the parent run of a comparison, or continue it."""
    return tracker.start(
        experiment,
        name,
        key=results["id"],
        params={"command": results["command"]},
        tags=contents.comparison_tags(results),
        source=contents.source_tags(results["command"], results["environment"]["git_commit"]),
    )


def log(directory: Path, *, experiment: str = EXPERIMENT, uri: str | None = None, store: Path = STORE) -> str:
    """Send a comparison in ``directory`` to MLflow, whatever of it is missing there; returns the parent run's id."""
    results = read(directory)
    with Tracker(results_dir=directory, warn=lambda text: None, uri=uri, store=store) as tracker:
        parent = start(tracker, results, directory.resolve().name, experiment=experiment)
        for run in results["runs"]:
            if run["status"] != "not started":
                tracker.log_run(results, run)
        tracker.finish_comparison(results, [path for name in FILES if (path := directory / name).exists()])
    if tracker.error is not None:
        raise _unusable(f"{directory} was not logged", tracker.uri, tracker.error)
    return parent


def best(directory: Path, *, name: str | None = None, store_folder: Path = STORE) -> list[str]:
    """Register the best network of each preset of a comparison that is logged; returns a line for each."""
    results, uri = read(directory), store.uri_of(store_folder)
    presets = list(dict.fromkeys(run["preset"] for run in results["runs"]))
    if name and len(presets) > 1:
        raise UserError(f"--name names one model, and {directory} has several presets: {', '.join(presets)}")
    try:
        client, experiment = store.opened(uri, EXPERIMENT)
        parents = client.search_runs([experiment], f"tags.comparison = '{results['id']}'")
        if not parents:
            raise UserError(f"{directory} is not in MLflow: python -m compare.tracking log {directory}")
        below = f"tags.mlflow.parentRunId = '{parents[0].info.run_id}'"
        children = {
            preset: client.search_runs([experiment], f"{below} and tags.preset = '{preset}'") for preset in presets
        }
        with store.as_default(uri):
            return [models.register_best(client, experiment, runs, name or preset) for preset, runs in children.items()]
    except UserError:
        raise
    except Exception as error:  # MLflow and its database raise what they like
        raise _unusable(f"nothing of {directory} was registered", uri, error) from error


def ui(port: int) -> None:
    """Serve MLflow's page on this machine, and print the address of the runs; of a server, print its address only."""
    uri = store.uri_of(STORE)
    try:
        _, number = store.opened(uri, EXPERIMENT)
    except Exception as error:  # MLflow and its database raise what they like
        raise _unusable("MLflow's page cannot be opened", uri, error) from error
    page = f"/#/experiments/{number}/runs?workflowType=machine_learning"
    if re.match("https?://", uri):
        print(f"{store.without_password(uri).rstrip('/')}{page}")
        return
    require_free(port)
    print(f"http://127.0.0.1:{port}{page}   (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.environ |= {
        "MLFLOW_BACKEND_STORE_URI": uri,  # its password would be seen in the list of processes
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.execv(command[0], command)


def require_free(port: int) -> None:
    """Raise UserError if another program listens on this port of 127.0.0.1."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} is in use ({error.strerror}): choose another, make ui PORT={port + 1}"
            ) from error


def _unusable(what: str, uri: str, error: BaseException) -> UserError:
    problem = f"{what}: {store.without_password(uri)} failed ({store.reason(error)})"
    return UserError(". ".join(filter(None, [problem, store.remedy(uri, error)])))

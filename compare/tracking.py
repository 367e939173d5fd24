"""Log comparisons to MLflow: one parent run each, one child per (preset, track, seed).

The only importer of mlflow. Training never waits for MLflow and never fails with it. The first error of any kind turns
tracking off with one warning. `results.json` is on disk, and `python -m compare.tracking log DIR` sends it later.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import logging
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, NoReturn, ParamSpec
from urllib.parse import unquote

from compare import cli
from compare.cli import command_line
from compare.errors import UserError
from compare.results.reader import read
from compare.results.runs import final_metrics, trajectory
from compare.results.schema import RunResult

Metrics = Mapping[str, float | int | None]
Fields = Mapping[str, Any] | None
P = ParamSpec("P")

BATCH = 1000  # metrics per call, MLflow's limit; the same call takes at most 100 params
ENVIRONMENT = {  # with a server that is down, fail after seconds instead of the four minutes of MLflow's defaults
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
KIND = ("mlflow.experimentKind", "custom_model_development")  # shown in the experiment list; the address names the view
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED", "not started": "KILLED"}


def _never_stops_training(
    method: Callable[Concatenate[Tracker, P], str],
) -> Callable[Concatenate[Tracker, P], str]:
    """Turn tracking off at the first error instead of raising it; do nothing once it is off."""

    @functools.wraps(method)
    def call(self: Tracker, *args: P.args, **kwargs: P.kwargs) -> str:
        if self.error is not None or not self.enabled:
            return ""
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.error = error
            self._warn(
                f"MLflow tracking is off: {_without_password(self.uri)} failed ({_reason(error)}). "
                f"Training continues, and the results are written to {self._results_dir}. Log them later with: "
                f"python -m compare.tracking log {shlex.quote(str(self._results_dir))}"
            )
            return ""

    return call


class Tracker:
    """Writes a comparison to an MLflow store with explicit run ids: no global state, no active run.

    Metrics are kept in memory until `flush()`, so that the caller decides when the store may take a core.
    A run is named by its id, a string; it is empty when tracking is off.
    """

    def __init__(
        self,
        *,
        results_dir: Path,
        warn: Callable[[str], None],
        store: Path = Path("runs"),
        uri: str | None = None,
        enabled: bool = True,
    ) -> None:
        """Log to `uri`, else MLFLOW_TRACKING_URI, else `store`/mlflow.db with its artifacts in `store`/mlartifacts."""
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or cli.sqlite_url(store / "mlflow.db")
        self.error: Exception | None = None
        self.enabled = enabled
        self._results_dir, self._warn, self._store = results_dir, warn, store
        self._client: Any = None
        self._experiment, self._parent = "", ""
        self._open: list[str] = []
        self._kept: dict[str, list[Any]] = {}

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every open run: as finished, as killed after Ctrl-C, or as failed."""
        status = "finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed"
        self.finish(status)

    @_never_stops_training
    def start(self, experiment: str, name: str, *, params: Fields = None, tags: Fields = None, parent: str = "") -> str:
        """Create the store and the experiment if they are missing, and the parent run; return its id.

        ``parent`` is the id of an earlier parent run to continue, if it is in this store.
        """
        local = self.uri == cli.sqlite_url(self._store / "mlflow.db")
        with _one_at_a_time(self._store) if local else contextlib.nullcontext():
            self._client = _client(self.uri)
            self._experiment = self._experiment_id(experiment)
        self._parent = self._again(parent) or self._run(name, params or {}, tags or {})
        return self._parent

    @_never_stops_training
    def child(
        self,
        preset: str,
        track: str,
        seed: int,
        *,
        name: str = "",
        params: Fields = None,
        tags: Fields = None,
    ) -> str:
        """Create the run of one training below the parent; return its id."""
        names = {"preset": preset, "track": track, "seed": seed}
        return self._run(
            name or f"{preset} {track} seed {seed}",
            names | dict(params or {}),
            names | dict(tags or {}) | {"mlflow.parentRunId": self._parent},
        )

    @_never_stops_training
    def log_steps(self, run: str, rows: Iterable[tuple[int, Metrics]]) -> str:
        """Keep (step, {name: value}) for the next `flush` without calling the store. None and NaN are left out."""
        self._keep(run, rows)
        return run

    @_never_stops_training
    def flush(self) -> str:
        """Send the kept metrics, in as few calls as MLflow allows."""
        self._send()
        return self._parent

    @_never_stops_training
    def finish_child(
        self, run: str, status: str, *, metrics: Metrics | None = None, artifacts: Iterable[Path] = ()
    ) -> str:
        """End a training's run; `status` is that of results.json: finished, interrupted or failed."""
        self._keep(run, [(0, metrics or {})])
        self._send()
        self._end(run, status, artifacts)
        return run

    def log_run(self, run: RunResult, *, tags: Fields = None) -> None:
        """Log a training that has ended, from its entry in results.json."""
        child = self.child(run["preset"], run["track"], run["seed"], params=run.get("config"), tags=tags)
        self.log_steps(child, trajectory(run))
        self.finish_child(child, run["status"], metrics=final_metrics(run))

    @_never_stops_training
    def finish(self, status: str, *, artifacts: Iterable[Path] = ()) -> str:
        """End the parent run, and every child that is still open as interrupted. A second call does nothing."""
        parent, self._parent = self._parent, ""
        if parent:
            self._send()
            for run in self._open[:0:-1]:
                self._end(run, "interrupted" if status == "finished" else status, ())
            self._end(parent, status, artifacts)
        return parent

    def _keep(self, run: str, rows: Iterable[tuple[int, Metrics]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._kept.setdefault(run, []).extend(
            Metric(name, float(value), now, step)
            for step, metrics in rows
            for name, value in metrics.items()
            if value is not None and math.isfinite(value)
        )

    def _send(self) -> None:
        while self._kept:
            run, metrics = self._kept.popitem()
            for start in range(0, len(metrics), BATCH):
                self._client.log_batch(run, metrics=metrics[start : start + BATCH])

    def _experiment_id(self, name: str) -> str:
        number = self._found_or_created(name)
        self._client.set_experiment_tag(number, *KIND)
        return number

    def _found_or_created(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            local = re.match(r"sqlite(?:\+\w+)?:///([^?]*)", self.uri)
            beside = Path(unquote(local[1])).absolute().with_name("mlartifacts").as_uri() if local else None
            return self._client.create_experiment(name, beside)  # a server has its own place for artifacts
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _run(self, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        texts = {key: str(value) for key, value in tags.items() if value is not None}
        run = self._client.create_run(self._experiment, run_name=name, tags=texts).info.run_id
        self._open.append(run)
        entries = [Param(key, str(value)) for key, value in _flat(params).items()]
        for start in range(0, len(entries), 100):
            self._client.log_batch(run, params=entries[start : start + 100])
        return run

    def _again(self, run: str) -> str:
        """Reopen an earlier run; empty if this store does not have it."""
        known = self._client.search_runs([self._experiment], f"attributes.run_id = '{run}'") if run else []
        if not known:
            return ""
        self._client.update_run(run, status="RUNNING")
        self._open.append(run)
        return run

    def _end(self, run: str, status: str, artifacts: Iterable[Path]) -> None:
        for path in artifacts:
            self._client.log_artifact(run, str(path))
        self._client.set_terminated(run, STATUS[status])
        self._open.remove(run)


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, so that MLflow can search them: ``model_args.hidden``."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


@contextlib.contextmanager
def _one_at_a_time(store: Path) -> Iterator[None]:
    """Let one process create or migrate the SQLite database of `store`; others wait. The folder is made if missing."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / "mlflow.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _client(uri: str) -> Any:
    """A client with short timeouts and no log output. MLflow reads these variables at import or per request."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow.store.db.utils
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.store.db.utils.MAX_RETRY_COUNT = 3  # 0.4 s; the default ten tries sleep for 100 s on a database that is down
    return MlflowClient(uri)


def _reason(error: BaseException) -> str:
    """The innermost cause of an error, on one line."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)


def environment_tags(environment: Mapping[str, Any]) -> dict[str, Any]:
    """MLflow tags from results.json's `environment`: one per package version, the commit under MLflow's own name."""
    plain = {name: environment.get(name) for name in ("python", "platform", "cpu", "cores", "threads", "gemm_gflops")}
    versions = {f"version.{name}": version for name, version in (environment.get("versions") or {}).items()}
    return plain | versions | {"mlflow.source.git.commit": environment.get("git_commit")}


def log(directory: Path, *, experiment: str = "compare", uri: str | None = None, store: Path = Path("runs")) -> str:
    """Send a finished comparison in `directory` to MLflow; returns the parent run's id."""
    results = read(directory)
    tags = environment_tags(results["environment"])
    with Tracker(results_dir=directory, warn=lambda text: None, uri=uri, store=store) as tracker:
        parent = tracker.start(
            experiment, directory.resolve().name, params={"command": results.get("command")}, tags=tags
        )
        for run in results["runs"]:
            if run["status"] == "not started":
                continue
            tracker.log_run(run, tags=tags)
        files = [directory / name for name in ("results.json", "report.html", "report.md", "curves.png")]
        tracker.finish(results.get("status", "finished"), artifacts=[path for path in files if path.exists()])
    if tracker.error is not None:
        raise UserError(
            f"{directory} was not logged: {_without_password(tracker.uri)} failed ({_reason(tracker.error)}). "
            f"Start that server, or unset MLFLOW_TRACKING_URI to log to {store / 'mlflow.db'}."
        )
    return parent


def ui(port: int) -> NoReturn:
    """Serve MLflow's page on this machine, and print the address of the experiment's runs."""
    store = Path("runs").absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or cli.sqlite_url(store / "mlflow.db")
    remote = uri.startswith(("http://", "https://"))
    if not remote:
        store.mkdir(exist_ok=True)
    tracker = Tracker(results_dir=store, warn=lambda text: None, uri=uri)
    try:
        tracker._client = _client(uri)
        number = tracker._experiment_id("compare")
    except Exception as error:  # MLflow and its database raise what they like
        raise UserError(f"{_without_password(uri)} cannot be opened ({_reason(error)})") from error
    address = f"{uri.rstrip('/') if remote else f'http://127.0.0.1:{port}'}/#/experiments/{number}/runs?workflowType=machine_learning"
    print(address if remote else f"{address}   (Ctrl-C ends it)", flush=True)
    if remote:
        sys.exit(0)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execv(command[0], [*command, "--port", str(port), "--workers", "1"])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("tracking", "Open MLflow on the runs, or log comparisons for which tracking was off.")
    commands = options.add_subparsers(dest="command", required=True)
    text = "log an existing results.json with its report and curves"
    to_log = commands.add_parser("log", help=text, description=text)
    to_log.add_argument("directories", metavar="DIR", nargs="+", type=cli.path, help="a folder with a results.json")
    to_log.add_argument("--experiment", default="compare", metavar="NAME", help="MLflow experiment (default: compare)")
    text = "serve MLflow's page on this machine, and print the address of the runs"
    to_open = commands.add_parser("ui", help=text, description=text)
    to_open.add_argument("--port", type=int, default=5000, help="port to listen on (default: 5000)")
    return options


@command_line
def main(arguments: list[str] | None = None) -> int:
    """Return 0 if all was logged, 2 for invalid arguments or a store that does not work."""
    options = parser().parse_args(arguments)
    if options.command == "ui":
        ui(options.port)
    for directory in options.directories:
        print(f"{directory}: logged as run {log(directory, experiment=options.experiment)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

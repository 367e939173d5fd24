"""MLflow's store: opened with short timeouts, moved with its folder, and with a remedy where it is broken."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from compare import cli

ENVIRONMENT = {  # with a server that is down, fail after seconds instead of the four minutes of MLflow's defaults
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
KIND = ("mlflow.experimentKind", "custom_model_development")  # shown in the experiment list; the address names the view
ARTIFACTS = "mlartifacts"  # folder of the artifacts, beside a SQLite database
BROKEN = "file is not a database|malformed|no such (table|column)|Can't locate revision"  # what SQLite and Alembic say
LOCATIONS = (  # the columns in which MLflow keeps absolute addresses of artifacts
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def uri_of(store: Path) -> str:
    """MLFLOW_TRACKING_URI, or the database in the folder ``store``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or cli.sqlite_url(store / "mlflow.db")


def database_file(uri: str) -> Path | None:
    """The file of a SQLite URL; None for any other address."""
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]*)", uri)
    return Path(unquote(found[1])).absolute() if found else None


def opened(uri: str, experiment: str) -> tuple[Any, str]:
    """A client for the store, and the number of the experiment; both are made if they are missing.

    A SQLite database that was moved or copied together with its artifacts gets their new addresses.
    """
    file = database_file(uri)
    with _one_at_a_time(file.parent) if file else contextlib.nullcontext():
        made = client(uri)
        if file:
            relocate(file)
        found = made.get_experiment_by_name(experiment)
        if found is None:  # a server has its own place for artifacts
            number = made.create_experiment(experiment, (file.with_name(ARTIFACTS)).as_uri() if file else None)
        else:
            number = found.experiment_id
            if found.lifecycle_stage == "deleted":
                made.restore_experiment(number)
        made.set_experiment_tag(number, *KIND)
    return made, number


def client(uri: str) -> Any:
    """A client with short timeouts and no log output. MLflow reads these variables at import or per request."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow.store.db.utils
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.store.db.utils.MAX_RETRY_COUNT = 3  # 0.4 s; the default ten tries sleep for 100 s on a database that is down
    return MlflowClient(uri)


@contextlib.contextmanager
def as_default(uri: str) -> Iterator[None]:
    """Let MLflow's registry find models in this store: it asks for them where MLFLOW_TRACKING_URI says."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process create or migrate the database of a folder; others wait. The folder is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mlflow.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def relocate(file: Path) -> None:
    """Point the addresses of artifacts to the folder beside the database, if that has been moved or copied.

    MLflow stores absolute addresses only. Those of other folders than an ``mlartifacts`` are left alone.
    """
    beside = file.with_name(ARTIFACTS)
    if not beside.is_dir():
        return
    here = beside.as_uri()
    with contextlib.closing(sqlite3.connect(file, timeout=20)) as database, database:
        found = [address for (address,) in database.execute("SELECT DISTINCT artifact_location FROM experiments")]
        for old in found:
            if not str(old).endswith(f"/{ARTIFACTS}") or old == here:
                continue
            for table, column in LOCATIONS:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) IN (?, ?)",
                    (here, len(old) + 1, len(old) + 1, old, f"{old}/"),
                )


# --- what is wrong with a store ---------------------------------------------------------------------------------------


def reason(error: BaseException) -> str:
    """The innermost cause of an error, on one line."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def without_password(uri: str) -> str:
    """An address that may be printed."""
    return re.sub(r"//[^/@]*@", "//", uri)


def remedy(uri: str, error: BaseException) -> str:
    """What the user can do about a store that fails with this error, ending in a command; "" if that is not known."""
    text, file = f"{reason(error)} {error}", database_file(uri)
    if version := re.search(r"out-of-date database schema \(found version (\w+)", text):
        import mlflow.store.db_migrations

        versions = Path(next(iter(mlflow.store.db_migrations.__path__)), "versions")
        if any(versions.glob(f"{version[1]}_*.py")):
            address = shlex.quote(f"sqlite:///{file}" if file else without_password(uri))
            return f"An older MLflow wrote it. Back it up and migrate it: python -m mlflow db upgrade {address}"
        return "A newer MLflow wrote it. Update this one: python -m pip install --upgrade mlflow"
    if file is None:
        return "Start that server, or use a local store: unset MLFLOW_TRACKING_URI"
    if not file.is_dir() and not re.search(BROKEN, text):
        return ""
    moved = shlex.join(["mv", str(file), f"{file}.broken"])
    return f"The next command makes a new one if you move it away: {moved}"

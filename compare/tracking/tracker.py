"""Writes runs to MLflow while they train: one parent run for each comparison, one child per (preset, track, seed).

Training never waits for MLflow and never fails with it. The first error of any kind turns tracking off with one
warning. `results.json` is on disk, and `python -m compare.tracking log DIR` sends it later.
"""

from __future__ import annotations

import functools
import math
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec

from compare import networks
from compare.errors import UserError
from compare.report.markdown import document
from compare.results.runs import trajectory
from compare.results.schema import DataFacts, Results, RunResult
from compare.tracking import contents, models, store
from compare.tracking.store import uri_of as store_uri

Metrics = Mapping[str, float | int | None]
Fields = Mapping[str, Any] | None
P = ParamSpec("P")

BATCH = 1000  # metrics per call, MLflow's limit; the same call takes at most 100 params
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
            problem = f"MLflow tracking is off: {store.without_password(self.uri)} failed ({store.reason(error)})"
            self._warn(
                f"{'. '.join(filter(None, [problem, store.remedy(self.uri, error)]))}\n"
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
        self.uri = uri or store_uri(store)
        self.error: Exception | None = None
        self.enabled = enabled
        self._results_dir, self._warn = results_dir, warn
        self._client: Any = None
        self._experiment, self._parent, self._again = "", "", False
        self._source: dict[str, Any] = {}
        self._open: list[str] = []
        self._kept: dict[str, list[Any]] = {}
        self._logged: dict[str, int] = {}  # of a run that is continued: the last step that the store has

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every open run: as finished, as killed after Ctrl-C, or as failed."""
        status = "finished" if kind is None else "interrupted" if kind is KeyboardInterrupt else "failed"
        self.finish(status)

    @_never_stops_training
    def start(
        self,
        experiment: str,
        name: str,
        *,
        key: str = "",
        params: Fields = None,
        tags: Fields = None,
        source: Fields = None,
    ) -> str:
        """Create the store and the experiment if they are missing, and the parent run; return its id.

        A parent run with the same ``key`` is continued instead. ``source`` are tags of the parent and its children.
        """
        self._client, self._experiment = store.opened(self.uri, experiment)
        self._source = dict(source or {})
        known = self._search(f"tags.comparison = '{key}'") if key else []
        self._again = bool(known)
        own = {"comparison": key or None, **(tags or {})}
        self._parent = self._reopen(known[0]) if known else self._run(name, params or {}, own)
        return self._parent

    @_never_stops_training
    def child(self, preset: str, track: str, seed: int, *, name: str = "", params: Fields = None) -> str:
        """Create the run of one training below the parent, or continue the one of this name; return its id."""
        names = {"preset": preset, "track": track, "seed": seed}
        name = name or run_name(preset, track, seed)
        if earlier := self._earlier(name):
            return self._reopen(earlier)
        return self._run(name, names | dict(params or {}), names | {"mlflow.parentRunId": self._parent})

    @_never_stops_training
    def log_dataset(self, run: str, facts: DataFacts) -> str:
        """Name the dataset of a run, with its digest."""
        from mlflow.entities import DatasetInput, InputTag

        context = InputTag("mlflow.data.context", "training, validation and test")
        self._client.log_inputs(run, datasets=[DatasetInput(contents.dataset(facts), [context])])
        return run

    @_never_stops_training
    def log_steps(self, run: str, rows: Iterable[tuple[int, Metrics]]) -> str:
        """Keep (step, {name: value}) for the next `flush` without calling the store. None and NaN are left out."""
        self._keep(run, rows)
        return run

    @_never_stops_training
    def log_chunk(self, run: str, event: Mapping[str, Any]) -> str:
        """Keep what a worker reports of a chunk of steps: its mean loss, learning rate, and the use of the machine."""
        loss = sum(event["loss"]) / len(event["loss"])
        self._keep(run, [(event["step"], {"train_loss": loss, "lr": event["lr"], **event.get("usage", {})})])
        return run

    @_never_stops_training
    def flush(self) -> str:
        """Send the kept metrics, in as few calls as MLflow allows."""
        self._send()
        return self._parent

    @_never_stops_training
    def finish_child(self, run: str, status: str) -> str:
        """End a training's run; `status` is that of results.json: finished, interrupted or failed."""
        self._send()
        self._end(run, status)
        return run

    @_never_stops_training
    def finish_run(self, child: str, results: Results, run: RunResult) -> str:
        """End a training's run with everything that its entry in results.json says.

        One that has finished gets its curves, its checkpoint, and a model for each checkpoint that was kept.
        """
        self._keep(child, [(run["steps"] or 0, contents.closing_metrics(run))], closing=True)
        self._send()
        self._tag(child, contents.run_tags(results, run))
        folder = self._results_dir / (run["checkpoint"] or "")
        if run["status"] == "finished" and run["checkpoint"] and folder.is_dir():
            self._add_files(child, results, run, folder)
        self._end(child, run["status"])
        return child

    def _add_files(self, child: str, results: Results, run: RunResult, checkpoint: Path) -> None:
        from compare.report.figure import figure

        with tempfile.TemporaryDirectory() as folder:
            curves = Path(folder, "curves.png")
            curves.write_bytes(figure({**results, "runs": [run]}))
            self._client.log_artifact(child, str(curves))
        self._client.log_artifacts(child, str(checkpoint), "checkpoint")
        if networks.is_file(run["model"]):  # its code is not numpy_nn's
            return
        try:
            models.log(self._client, child, experiment=self._experiment, run=run, folder=checkpoint.parent)
        except UserError as error:  # a checkpoint that cannot be read is no fault of MLflow
            self._warn(f"no MLflow model of {checkpoint.parent}: {error}")

    @_never_stops_training
    def log_run(self, results: Results, run: RunResult) -> str:
        """Log a training that has ended, from its entry in results.json; one that is logged already is left alone."""
        earlier = self._earlier(run_name(run["preset"], run["track"], run["seed"]))
        if earlier and earlier.info.status == STATUS["finished"]:
            return earlier.info.run_id
        child = self.child(run["preset"], run["track"], run["seed"], params=run.get("config"))
        if facts := run.get("data"):
            self.log_dataset(child, facts)
        self.log_steps(child, trajectory(run))
        return self.finish_run(child, results, run)

    @_never_stops_training
    def finish_comparison(self, results: Results, artifacts: Iterable[Path]) -> str:
        """End the parent run with the summary of its runs, the report as its description, and files."""
        return self.finish(
            results["status"],
            metrics=contents.summary_metrics(results),
            tags=contents.comparison_tags(results) | contents.note(document(results)),
            documents={"environment.json": dict(results["environment"])},
            artifacts=artifacts,
        )

    @_never_stops_training
    def finish(
        self,
        status: str,
        *,
        metrics: Metrics | None = None,
        tags: Fields = None,
        documents: Fields = None,
        artifacts: Iterable[Path] = (),
    ) -> str:
        """End the parent run, and every child that is still open as interrupted. A second call does nothing."""
        parent, self._parent = self._parent, ""
        if parent:
            self._keep(parent, [(0, metrics or {})])
            self._send()
            self._tag(parent, tags or {})
            for name, content in (documents or {}).items():
                self._client.log_dict(parent, content, name)
            for path in artifacts:
                self._client.log_artifact(parent, str(path))
            for run in self._open[:0:-1]:
                self._end(run, "interrupted" if status == "finished" else status)
            self._end(parent, status)
        return parent

    def _keep(self, run: str, rows: Iterable[tuple[int, Metrics]], *, closing: bool = False) -> None:
        """Keep rows for `_send`; of a run that is continued, those beyond the steps that the store has."""
        from mlflow.entities import Metric

        now, first = int(1000 * time.time()), -1 if closing else self._logged.get(run, -1)
        self._kept.setdefault(run, []).extend(
            Metric(name, float(value), now, step)
            for step, metrics in rows
            for name, value in metrics.items()
            if step > first and value is not None and math.isfinite(value)
        )

    def _send(self) -> None:
        while self._kept:
            run, metrics = self._kept.popitem()
            for start in range(0, len(metrics), BATCH):
                self._client.log_batch(run, metrics=metrics[start : start + BATCH])

    def _run(self, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        texts = {key: str(value) for key, value in {**self._source, **tags}.items() if value is not None}
        run = self._client.create_run(self._experiment, run_name=name, tags=texts).info.run_id
        self._open.append(run)
        entries = [Param(key, value) for key, value in contents.params(params).items()]
        for start in range(0, len(entries), 100):
            self._client.log_batch(run, params=entries[start : start + 100])
        return run

    def _search(self, condition: str) -> list[Any]:
        return list(self._client.search_runs([self._experiment], condition))

    def _earlier(self, name: str) -> Any:
        """The child of this name in a parent run that is continued; None if there is none."""
        if not self._again:
            return None
        below = f"tags.mlflow.parentRunId = '{self._parent}' and attributes.run_name = '{name}'"
        return next(iter(self._search(below)), None)

    def _reopen(self, run: Any) -> str:
        """Continue an earlier run."""
        number = run.info.run_id
        self._client.update_run(number, status="RUNNING")
        self._logged[number] = max(
            (it.step for it in self._client.get_metric_history(number, "train_loss")), default=-1
        )
        self._open.append(number)
        return number

    def _tag(self, run: str, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def _end(self, run: str, status: str) -> None:
        self._client.set_terminated(run, STATUS[status])
        self._open.remove(run)


def run_name(preset: str, track: str, seed: int) -> str:
    """What a child is called."""
    return f"{preset} {track} seed {seed}"

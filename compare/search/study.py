"""The study of a search: its trials in a database that several processes share. The only importer of optuna.

Each process sends a heartbeat every few seconds. When one has been silent for long, its trial counts as failed, and the
next free process runs it again from its last checkpoint.
"""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compare.errors import UserError, require_packages
from compare.overrides import Choice, Field

NAME = "search"
BEAT, GRACE = 10, 120  # seconds between heartbeats, and of silence until a process counts as dead
RETRIES = 3  # of a trial whose process died: the trial itself may be the reason
ENOUGH = 8  # finished trials for an estimate of importance
WHY = "message"  # attribute of a trial that was pruned, or failed for a reason of its own
PRUNERS = ("median", "none")


class FailedTrialError(Exception):
    """A training that failed: the trial ends, the search continues."""


def library() -> Any:
    """Optuna, quiet; UserError if it is not installed."""
    require_packages("a search", "optuna", extra="search")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def opened(url: str, directory: Path, settings: Mapping[str, Any]) -> Any:
    """The study in this database, a new one if there is none; UserError if it is of another search."""
    optuna = library()
    storages = optuna.storages
    patient = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        with _locked(directory):  # so that one process alone makes the tables
            storage = storages.RDBStorage(
                url,
                engine_kwargs=patient,
                heartbeat_interval=BEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(RETRIES),
            )
            study = optuna.create_study(
                storage=storage, study_name=NAME, direction="maximize", load_if_exists=True, pruner=_pruner(settings)
            )
            before = study.user_attrs.get("asked")
            if before is None:
                study.set_user_attr("asked", dict(settings))
    except Exception as error:  # whatever a damaged file or an absent server makes of two libraries
        what = " ".join(str(error).split())[:200]
        remedy = "; choose a local folder with --out" if isinstance(error, OSError) else ""
        raise UserError(f"no study can be opened at {url} ({type(error).__name__}: {what}){remedy}") from error
    if different := [name for name in settings if before and before.get(name) != settings[name]]:
        there = ", ".join(f"its {name} is {before[name]!r}, not {settings[name]!r}" for name in different)
        raise UserError(f"{url} holds another search: {there}; choose another folder with --out")
    return study


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock that the processes of this search share."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pruner(settings: Mapping[str, Any]) -> Any:
    pruners = library().pruners
    return (
        pruners.MedianPruner(n_startup_trials=4, n_min_trials=3)
        if settings["pruner"] == "median"
        else pruners.NopPruner()
    )


def grid_size(fields: Mapping[str, Field]) -> int:
    """The number of trials of a grid; UserError for a range, which has no end of values."""
    size = 1
    for field in fields.values():
        if not isinstance(field, Choice):
            raise UserError(
                f"a grid needs values, and {field.name} is a range: give some, like {field.name}=0.01,0.1,1"
            )
        size *= len(field.values)
    return size


# --- trials -----------------------------------------------------------------------------------------------------------


def next_trial(study: Any, objective: Callable[[Any], float], fields: Mapping[str, Field], *, grid: bool) -> bool:
    """Run one trial; False if another process had taken it over. After Ctrl-C, a resumed search runs it again."""
    optuna = library()
    if grid:
        values = {name: list(field.labels) for name, field in fields.items() if isinstance(field, Choice)}
        study.sampler = optuna.samplers.GridSampler(values, seed=0)
    else:  # seeded by the trial's number: a resumed search is the one that was not stopped
        study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)))
    begun: list[int] = []
    broken: list[int] = []

    def noted(trial: Any) -> float:
        begun.append(trial.number)
        try:
            return objective(trial)
        except ValueError:  # ours; Optuna's own, for a trial that has ended, comes after the objective
            broken.append(trial.number)
            raise

    try:
        study.optimize(noted, n_trials=1, catch=(FailedTrialError,))
    except KeyboardInterrupt:
        for number in begun:
            optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[number])
        raise
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        if broken or not any(_taken_over(study.trials[number]) for number in begun):
            raise
        return False
    return True


def _taken_over(trial: Any) -> bool:
    """Whether another process failed the trial because this one was silent; its result then comes too late."""
    return trial.state.name == "FAIL" and WHY not in trial.user_attrs


def ended(study: Any) -> list[Any]:
    """The trials that are not run again: finished, pruned, or failed for reasons of their own."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and WHY in trial.user_attrs)
    ]


def running(study: Any) -> int:
    """The number of trials that live processes are running."""
    library().storages.fail_stale_trials(study)
    return sum(trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False))


def first_number(trial: Any) -> int:
    """The number of a trial, or of the first attempt if it is run again."""
    stored = trial.study.get_trials(deepcopy=False)[trial.number]
    first = library().storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(stored)
    return int(trial.number if first is None else first)


def pruned(why: str) -> Exception:
    """The exception that ends a trial as pruned."""
    return library().TrialPruned(why)


def importances(study: Any, names: Sequence[str]) -> dict[str, float]:
    """Share of each setting in being among the best quarter (PED-ANOVA); {} if too few trials have finished."""
    optuna = library()
    finished = [trial for trial in ended(study) if trial.state.name == "COMPLETE"]
    if len(finished) < ENOUGH or len({trial.value for trial in finished}) < 2 or not names:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return {
        name: float(share)
        for name, share in optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=list(names)
        ).items()
    }

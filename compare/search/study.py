"""The study of a search: its trials in a database that several processes share. The only importer of optuna.

A process tells every few seconds that it lives. When one is silent for long, the others take its trial for dead, and
whoever is free does it again, from its last checkpoint.
"""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compare.errors import UserError
from compare.overrides import Choice, Field

NAME = "search"
BEAT, GRACE = 10, 120  # seconds between signs of life, and until silence is death
RETRIES = 3  # of a trial whose process died: perhaps it died of the trial
ENOUGH = 8  # complete trials, to tell what was important
WHY = "message"  # attribute of a trial that failed for a reason of its own, or was cut off
PRUNERS = ("median", "none")


class FailedTrialError(Exception):
    """A training that came to nothing: the trial is over, the search is not."""


def library() -> Any:
    """Optuna, quiet; UserError if it is not installed."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError('a search needs Optuna: pip install -e ".[search]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def opened(url: str, directory: Path, asked: Mapping[str, Any]) -> Any:
    """The study in this database, a new one if there is none; UserError if it is of another search."""
    optuna = library()
    storages = optuna.storages
    patient = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        with _alone(directory):  # to make the tables, once
            storage = storages.RDBStorage(
                url,
                engine_kwargs=patient,
                heartbeat_interval=BEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(RETRIES),
            )
            study = optuna.create_study(
                storage=storage, study_name=NAME, direction="maximize", load_if_exists=True, pruner=_pruner(asked)
            )
            before = study.user_attrs.get("asked")
            if before is None:
                study.set_user_attr("asked", dict(asked))
    except Exception as error:  # whatever a damaged file or an absent server makes of two libraries
        what = " ".join(str(error).split())[:200]
        raise UserError(f"no study can be opened at {url} ({type(error).__name__}: {what})") from error
    if different := [name for name in asked if before and before.get(name) != asked[name]]:
        there = ", ".join(f"its {name} is {before[name]!r}, not {asked[name]!r}" for name in different)
        raise UserError(f"{url} holds another search: {there}; choose another folder with --out")
    return study


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """While no other process of this search does the same."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pruner(asked: Mapping[str, Any]) -> Any:
    pruners = library().pruners
    return (
        pruners.MedianPruner(n_startup_trials=4, n_min_trials=3) if asked["pruner"] == "median" else pruners.NopPruner()
    )


def grid_size(fields: Mapping[str, Field]) -> int:
    """How many trials a grid has; UserError where a range has no end of them."""
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
    """Do one trial; False if it came too late. One that is stopped by Ctrl-C is left to whoever goes on."""
    optuna = library()
    if grid:
        values = {name: list(field.labels) for name, field in fields.items() if isinstance(field, Choice)}
        study.sampler = optuna.samplers.GridSampler(values, seed=0)
    else:  # the seed is that of the trial's number, so that a search that goes on is the one that was not stopped
        study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)))
    begun: list[int] = []
    broken: list[int] = []

    def noted(trial: Any) -> float:
        begun.append(trial.number)
        try:
            return objective(trial)
        except ValueError:  # of ours; Optuna's own, of a trial that is over, comes after the objective
            broken.append(trial.number)
            raise

    try:
        study.optimize(noted, n_trials=1, catch=(FailedTrialError,))
    except KeyboardInterrupt:
        for number in begun:
            optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[number])
        raise
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        if broken or not any(_taken_for_dead(study.trials[number]) for number in begun):
            raise
        return False
    return True


def _taken_for_dead(trial: Any) -> bool:
    """Has another process given up on it, because this one slept? Then its result comes too late."""
    return trial.state.name == "FAIL" and WHY not in trial.user_attrs


def over(study: Any) -> list[Any]:
    """The trials that need not be done again: complete, cut off, or failed for reasons of their own."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and WHY in trial.user_attrs)
    ]


def under_way(study: Any) -> int:
    """How many trials are being done, by processes that live."""
    library().storages.fail_stale_trials(study)
    return sum(trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False))


def first_number(trial: Any) -> int:
    """Of a trial that is done again, the number it had the first time."""
    stored = trial.study.get_trials(deepcopy=False)[trial.number]
    first = library().storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(stored)
    return int(trial.number if first is None else first)


def cut_off(why: str) -> Exception:
    """What ends a trial that would not become one of the best."""
    return library().TrialPruned(why)


def importances(study: Any, names: Sequence[str]) -> dict[str, float]:
    """Share of each field in being among the better trials (PED-ANOVA); {} where there are too few to tell."""
    optuna = library()
    complete = [trial for trial in over(study) if trial.state.name == "COMPLETE"]
    if len(complete) < ENOUGH or len({trial.value for trial in complete}) < 2 or not names:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return {
        name: float(share)
        for name, share in optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=list(names)
        ).items()
    }

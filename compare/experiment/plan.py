"""results.json before anything has run: the plan of a new comparison, or of one that is resumed.

Every run is listed from the start, with its configuration and the status "not started", so that
``--resume`` knows what is left to do, whatever killed the program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import shlex
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from compare import machine, networks
from compare.cli import require_writable
from compare.config import SETTINGS, UNKNOWN, Config
from compare.data import load as load_data
from compare.errors import UserError
from compare.results.reader import read
from compare.results.schema import SCHEMA, Environment, Results, RunResult, new_run
from compare.training import preflight, steps
from compare.training.checks import require_same_data, require_steps_left
from compare.training.flops import training_bytes, training_flops
from compare.workers import process


def plan(
    directory: Path,
    configs: Sequence[Config],
    track_names: Sequence[str],
    *,
    command: Sequence[str],
    parity: bool = True,
    mlflow: bool = True,
    save_every: str = "60s",
    keep: int = 2,
    resume_from: Path | None = None,
) -> Results:
    """The results of a new comparison in ``directory``, all of its runs not started; UserError if one cannot start."""
    require_writable(directory)
    preflight.require(configs, track_names, folder=directory, keep=keep)
    costs = {preset: step_costs(config) for preset, config in {each.preset: each for each in configs}.items()}
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "id": uuid.uuid4().hex[:12],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "status": "interrupted",
        "command": shlex.join(command),
        "settings": {
            "parity": parity,
            "mlflow": mlflow,
            "save_every": save_every,
            "keep": keep,
            "resume_from": str(resume_from.absolute()) if resume_from else None,
        },
        "environment": environment(),
        "runs": [planned(config, track, costs[config.preset]) for config in configs for track in track_names],
        "parity": [],
        "drift": [],
    }


def environment() -> Environment:
    """The machine, measured before the first run."""
    threads = machine.cores()
    found = machine.describe(threads=threads)
    (before,) = found.pop("load")
    return cast(Environment, found | {"load": {"before": before, "after": None}, "disturbed": []})


class StepCosts(TypedDict):
    """What a training step costs, whatever computes it."""

    flops_per_image: int | None
    step_bytes: int | None


def step_costs(config: Config) -> StepCosts:
    """FLOPs per image and bytes per step of a training of this config, counted from its layers' shapes."""
    there = networks.available(config.model, ["numpy", "torch"], asked=False)
    flops = training_flops(config) if "torch" in there else None
    return {"flops_per_image": flops, "step_bytes": training_bytes(config) if "numpy" in there else None}


def planned(config: Config, track: str, costs: StepCosts) -> RunResult:
    """The entry of a run that has not started."""
    run = new_run(config, track)
    run["flops_per_image"], run["step_bytes"] = costs["flops_per_image"], costs["step_bytes"]
    return run


def resumed(directory: Path) -> tuple[Results, list[str]]:
    """The results of a comparison to resume, every unfinished run reset to "not started".

    Also a list of what has changed on this machine since, which may change the figures.
    """
    results = read(directory)
    if "settings" not in results:
        raise UserError(f"{directory} was written by a version that could not resume: start the comparison again")
    for number, run in enumerate(results["runs"]):
        if run["status"] != "finished":
            config = Config.from_json(run["config"])
            networks.require_unchanged(config.model, config.network_digest)
            results["runs"][number] = planned(config, run["track"], step_costs(config))
    left = [run for run in results["runs"] if run["status"] != "finished"]
    preflight.require(
        [Config.from_json(run["config"]) for run in left],
        list(dict.fromkeys(run["track"] for run in left)),
        folder=directory,
    )
    then, now = cast(dict[str, Any], results["environment"]), machine.facts(threads=machine.cores())
    results["status"] = "interrupted"
    changed = [
        f"{name} was {then[name]} and is {now[name]}"
        for name in ("cpu", "threads", "python", "versions", "git_commit")
        if then[name] != now[name]
    ]
    return results, changed


def from_checkpoint(path: Path, wanted: Config | None, changes: Mapping[str, Any]) -> Config:
    """The config of a run that starts from a checkpoint: ``wanted`` or else the checkpoint's own, with ``changes``.

    UserError lists everything that differs and must not.
    """
    meta = process.call("compare.checkpoint", "show", "--json", str(path.absolute()))
    then = Config.from_json(meta["config"])
    if then.dataset == UNKNOWN:
        raise UserError(
            f"{path} holds imported weights and no training state: fine-tune them with python -m compare.transfer"
        )
    now = dataclasses.replace(wanted or then, **changes)
    if networks.is_file(then.model):
        if not networks.is_file(now.model) or "model" not in changes:
            raise UserError(f"{path} holds a network of {then.model}: add --network {then.model}")
        networks.require_unchanged(now.model, then.network_digest)
        then = dataclasses.replace(then, model=now.model)  # the same file, perhaps in another place
    old, new = (json.loads(json.dumps(config.to_json())) for config in (then, now))
    lasting = [name for name, setting in SETTINGS.items() if setting.resume == "state"]
    unfit = [f"{name} is {old[name]!r}, not {new[name]!r}" for name in lasting if old[name] != new[name]]
    if unfit:
        raise UserError(f"{path} cannot continue as this run: its {'; its '.join(unfit)}")
    data = load_data(now.dataset, data_dir=now.data_dir, val_size=now.val_size, seed=now.seed)
    require_same_data(path, meta, data)
    require_steps_left(path, meta["step"], steps.plan(now, len(data.train_x), first=meta["step"]).steps)
    return now


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock the folder against other processes; the lock ends with this process, however it ends.

    Raises UserError if another process has it, if it belongs to another user, or if the folder's file system has no
    locks.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot write to {directory / 'lock'} ({error.strerror}): choose another folder, or work as the user to "
            f"whom this one belongs"
        ) from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{directory} is in use by another process: wait until it ends, or stop it") from error
        except OSError as error:
            Path(lock.name).unlink()
            with contextlib.suppress(OSError):  # not empty: it was there before
                directory.rmdir()
            raise UserError(
                f"{directory} cannot be locked ({error.strerror}): choose a local folder with --out"
            ) from error
        yield

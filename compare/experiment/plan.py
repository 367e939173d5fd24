"""results.json before anything has run: every run of a comparison, planned, or resumed.

All runs stand in it from the start, each with its configuration and as "not started", so that
whatever kills the program, ``--resume`` knows what is left to do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compare import machine
from compare.cli import require_writable
from compare.config import SETTINGS, Config
from compare.errors import UserError
from compare.results import SCHEMA, Results, Run, read
from compare.training.flops import training_bytes, training_flops
from compare.workers import process

FIGURES = (
    "steps best_step epochs test_accuracy test_count test_loss val_accuracy val_loss val_count seconds step_ms "
    "images_per_second input_share chunk parameters peak_rss_mb import_rss_mb checkpoint message resumed "
    "flops_per_image step_bytes gflops gemm_gflops gemm_share compile_note insight hardware products peak_device_mb"
).split()


def plan(
    directory: Path,
    configs: Sequence[Config],
    track_names: Sequence[str],
    *,
    command: Sequence[str],
    proof: bool = True,
    mlflow: bool = True,
    save_every: str = "60s",
    keep: int = 2,
    resume_from: Path | None = None,
) -> Results:
    """The results of a new comparison in ``directory``, all of its runs not started."""
    require_writable(directory)
    costs = {preset: step_costs(config) for preset, config in {each.preset: each for each in configs}.items()}
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "status": "interrupted",
        "command": shlex.join(command),
        "settings": {
            "proof": proof,
            "mlflow": mlflow,
            "save_every": save_every,
            "keep": keep,
            "resume_from": str(resume_from.absolute()) if resume_from else None,
        },
        "environment": machine.describe(threads=machine.cores()),
        "runs": [planned(config, track, costs[config.preset]) for config in configs for track in track_names],
        "parity": [],
        "proof": [],
    }


def step_costs(config: Config) -> dict[str, int]:
    """What a training step costs whatever computes it: ``flops_per_image``, and ``step_bytes`` of a batch."""
    return {"flops_per_image": training_flops(config), "step_bytes": training_bytes(config)}


def planned(config: Config, track: str, costs: Mapping[str, Any]) -> Run:
    """An entry of results.json's ``runs`` before the run has begun; ``costs`` are those of :func:`step_costs`."""
    return {
        "preset": config.preset,
        "track": track,
        "seed": config.seed,
        "model": config.model,
        "dataset": config.dataset,
        "precision": config.precision,
        "device": "cpu" if track == "numpy" else config.device,
        "devices": config.devices,
        "batch_size": config.batch_size,
        **dict.fromkeys(FIGURES),
        "flops_per_image": costs["flops_per_image"],
        "step_bytes": costs["step_bytes"],
        "history": [],
        "step_loss": [],
        "config": config.to_json(),
        "status": "not started",
    }


def resumed(directory: Path) -> tuple[Results, list[str]]:
    """The results of a comparison to resume, with unfinished runs as not started, and what has changed since.

    The changes of the machine and of the versions may make other figures than an uninterrupted comparison's.
    """
    results = read(directory)
    if "settings" not in results:
        raise UserError(f"{directory} was written by another version, which could not be resumed: start it again")
    for number, run in enumerate(results["runs"]):
        if run["status"] != "finished":
            config = Config.from_json(run["config"])
            results["runs"][number] = planned(
                config, run["track"], run if run["flops_per_image"] else step_costs(config)
            )
    then, now = results["environment"], machine.describe(threads=machine.cores())
    results["status"] = "interrupted"
    changed = [
        f"{name} was {then.get(name)} and is {now[name]}"
        for name in ("cpu", "threads", "python", "versions", "git_commit")
        if then.get(name) != now[name]
    ]
    return results, changed


def from_checkpoint(path: Path, wanted: Config | None, changes: Mapping[str, Any]) -> Config:
    """What to train from a checkpoint on: what was wanted, or as it was trained so far; with changes.

    Raises UserError with everything that does not fit.
    """
    meta = process.call("compare.checkpoint", "show", "--json", str(path.absolute()))
    then = Config.from_json(meta["config"])
    if then.dataset == "elsewhere":
        raise UserError(
            f"{path} holds weights from elsewhere and no training to go on with: learn something new from them with "
            "python -m compare.transfer"
        )
    now = dataclasses.replace(wanted or then, **changes)
    old, new = (json.loads(json.dumps(config.to_json())) for config in (then, now))
    lasting = [name for name, setting in SETTINGS.items() if setting.resume == "state"]
    unfit = [f"{name} is {old[name]!r}, not {new[name]!r}" for name in lasting if old[name] != new[name]]
    if unfit:
        raise UserError(f"{path} is of another training: its {'; its '.join(unfit)}")
    return now


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep any other process from working on this comparison; the lock ends with the process.

    Raises UserError if another process has it, or if the folder's file system has no locks.
    """
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{directory} is being worked on by another process: wait for it, or stop it") from error
        except OSError as error:
            raise UserError(
                f"{directory} cannot be locked ({error.strerror}): choose a local folder with --out"
            ) from error
        yield

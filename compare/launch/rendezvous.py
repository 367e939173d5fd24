"""The rendezvous of a training's processes: they agree on the settings, the folder and the checkpoint to resume.

Process 0 broadcasts its settings and its checkpoint, and the others compare them with their own. Every process hears
of every difference, so that all end and none waits for another.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compare.checkpoint import store
from compare.checkpoint.store import Checkpoint, CheckpointError
from compare.config import SETTINGS, Config
from compare.errors import UserError
from compare.training import resume
from compare.workers.protocol import Job

AllGather = Callable[[str], list[str]]  # takes this process's text, returns those of all processes by rank

MARK = "begun"  # a file by which the processes recognise a shared folder
PATIENCE = 10.0  # seconds until a network file system shows what another machine has written


def found_by_all(job: Job, note: resume.Note, *, process: int, all_gather: AllGather) -> Checkpoint | None:
    """Return the checkpoint from which all processes resume, None for step 0; UserError in all if they disagree."""
    own: dict[str, Any] = {"config": lasting(job.config)}
    found, problem = None, ""
    try:
        if process == 0:
            found = resume.find(job, note)
            require_same(found, job)
            own |= {"mark": leave_mark(job.folder), "found": found and [found.step, found.meta["digest"]]}
    except UserError as error:
        problem = str(error)
    first = json.loads(all_gather(json.dumps(own))[0])
    try:
        if process and "mark" in first:
            found = look_for(first, job, whose=f"process {process} on {socket.gethostname()}")
    except UserError as error:
        problem = str(error)
    if problems := [each for each in all_gather(problem) if each]:
        raise UserError("; ".join(problems))
    return found


def look_for(first: dict[str, Any], job: Job, *, whose: str) -> Checkpoint | None:
    """The checkpoint of process 0, read by another process; ``whose`` is that process's name in errors."""
    if different := differences(first["config"], lasting(job.config)):
        raise UserError(f"{whose} was started with other settings than process 0: {different}")
    until = time.monotonic() + PATIENCE
    while (text := read_mark(job.folder)) != first["mark"]:
        if time.monotonic() > until:
            what = "does not see" if text is None else "sees another"
            raise UserError(not_shared(job.folder, f"{whose} {what} {job.folder / MARK} of process 0"))
        time.sleep(0.1)
    if not first["found"]:
        return None
    step, digest = first["found"]
    missing = not_shared(job.folder, f"{whose} does not see checkpoint {job.folder / str(step)} of process 0")
    try:
        found = store.read(job.folder, step)
    except CheckpointError as error:
        raise UserError(f"{missing} ({error})") from error
    if found.meta["digest"] != digest:
        raise UserError(missing)
    return found


def leave_mark(folder: Path) -> str:
    """Write this process's host, id and time to the folder, and return that text."""
    mark = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).write_text(mark, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); choose another folder with --out") from error
    return mark


def read_mark(folder: Path) -> str | None:
    """The text of the mark, None if there is none."""
    try:
        return (folder / MARK).read_text(encoding="utf-8")
    except OSError:
        return None


def not_shared(folder: Path, why: str) -> str:
    """The message for a folder that is not shared."""
    return f"the folder {folder} is not shared: {why}; give --out a folder that all machines have in common"


def require_same(found: Checkpoint | None, job: Job) -> None:
    """Raise UserError if the folder's checkpoints are those of another training."""
    then = found and lasting(Config.from_json(found.meta["config"]))
    if then and (different := differences(then, lasting(job.config))):
        raise UserError(f"{job.folder} holds another training: {different}; choose another folder with --out")


def lasting(config: Config) -> dict[str, Any]:
    """The fields of a config that decide what is learned, as plain JSON types."""
    values = json.loads(json.dumps(config.to_json()))
    return {name: value for name, value in values.items() if SETTINGS[name].resume != "free"}


def differences(then: dict[str, Any], now: dict[str, Any]) -> str:
    """The fields that differ, as text; empty if none does."""
    return ", ".join(f"its {name} is {now[name]!r}, not {then[name]!r}" for name in now if then[name] != now[name])

"""What the processes of one training agree on before it begins: what they train, the folder, and where they go on.

Process 0 says what it trains and where it begins; the others look whether that is so for them. All hear of every
difference, so that all end, and none waits for another.
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

Say = Callable[[str], list[str]]  # what each process says, in their order

MARK = "begun"  # a file by which the folder is known to be the same
PATIENCE = 10.0  # seconds until a network's file system shows what another machine has written


def found_by_all(job: Job, note: resume.Note, *, process: int, say: Say) -> Checkpoint | None:
    """The checkpoint from which all processes go on, None at step 0; UserError in all of them if they do not agree."""
    own: dict[str, Any] = {"config": lasting(job.config)}
    found, problem = None, ""
    try:
        if process == 0:
            found = resume.find(job, note)
            require_same(found, job)
            own |= {"mark": leave_mark(job.folder), "found": found and [found.step, found.meta["digest"]]}
    except UserError as error:
        problem = str(error)
    first = json.loads(say(json.dumps(own))[0])
    try:
        if process and "mark" in first:
            found = look_for(first, job, whose=f"process {process} on {socket.gethostname()}")
    except UserError as error:
        problem = str(error)
    if problems := [each for each in say(problem) if each]:
        raise UserError("; ".join(problems))
    return found


def look_for(first: dict[str, Any], job: Job, *, whose: str) -> Checkpoint | None:
    """What process 0 found, seen by another process, ``whose`` name goes into the error."""
    if different := differences(first["config"], lasting(job.config)):
        raise UserError(f"{whose} was started by another command than process 0: {different}")
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
    """Write who begins, and when, into the folder, and return it."""
    mark = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).write_text(mark, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); choose another folder with --out") from error
    return mark


def read_mark(folder: Path) -> str | None:
    """What stands there."""
    try:
        return (folder / MARK).read_text(encoding="utf-8")
    except OSError:
        return None


def not_shared(folder: Path, why: str) -> str:
    """What is wrong, and the remedy."""
    return f"the folder {folder} is not shared: {why}; give --out a folder that all machines have in common"


def require_same(found: Checkpoint | None, job: Job) -> None:
    """Raise UserError if the folder's checkpoints are those of another training."""
    then = found and lasting(Config.from_json(found.meta["config"]))
    if then and (different := differences(then, lasting(job.config))):
        raise UserError(f"{job.folder} holds another training: {different}; choose another folder with --out")


def lasting(config: Config) -> dict[str, Any]:
    """What of a config decides what is learned, as plain JSON types."""
    values = json.loads(json.dumps(config.to_json()))
    return {name: value for name, value in values.items() if SETTINGS[name].resume != "free"}


def differences(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Which fields differ, in words; empty if none does."""
    return ", ".join(f"its {name} is {now[name]!r}, not {then[name]!r}" for name in now if then[name] != now[name])

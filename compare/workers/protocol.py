"""The protocol of a parent and its worker process: a job (JSON) one way, events (one JSON line each) the other."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compare.config import Config, Interval
from compare.files import finite

Event = dict[str, Any]
Emit = Callable[[Event], None]


@dataclass(frozen=True)
class Job:
    """One run of one track: what to train, where to resume it, where to save it."""

    config: Config
    track: str  # a name in ``tracks.TRACKS``
    threads: int  # cores to use
    folder: Path  # for its checkpoints; a run that has some there resumes from them
    resume_from: Path | None = None  # where else to start: another run's checkpoint
    save_every: Interval = field(default_factory=lambda: Interval.parse("60s"))
    keep: int = 2  # checkpoints: the last so many, and the best
    origin: Mapping[str, Any] = field(default_factory=dict)  # versions and git commit, for the checkpoints
    chunk: int | None = None  # steps per call, if not as planned
    arguments: Mapping[str, Any] = field(default_factory=dict)  # further ones of the track's init_state

    def to_json(self) -> dict[str, Any]:
        """Every field, as plain JSON types."""
        return asdict(self) | {
            "folder": str(self.folder),
            "resume_from": str(self.resume_from) if self.resume_from else None,
            "save_every": str(self.save_every),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Job:
        """Undo :meth:`to_json`."""
        return cls(
            **values
            | {
                "config": Config.from_json(values["config"]),
                "folder": Path(values["folder"]),
                "resume_from": Path(values["resume_from"]) if values["resume_from"] else None,
                "save_every": Interval.parse(values["save_every"]),
            }
        )


def received() -> tuple[dict[str, Any], Emit]:
    """In a worker: the job on standard input, and the function that sends an event to the parent.

    Events go to what was standard output; from now on prints of libraries go to standard error. If the parent is gone,
    sending ends the process at once: whoever resumes the run must not meet a second writer in its folder.
    """
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: Event) -> None:
        try:
            print(json.dumps(finite(event)), file=events, flush=True)
        except BrokenPipeError:
            os._exit(1)

    return json.load(sys.stdin), emit


def stop_signals() -> list[signal.Signals]:
    """The signals that ask a process to save and stop: SIGTERM, and SIGHUP unless ``nohup`` has it ignored."""
    return [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]

"""What the parent tells a worker to do: one training, and where it comes from and goes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compare.config import Config, Interval


@dataclass(frozen=True)
class Job:
    """One run of one track."""

    config: Config
    track: str  # a name in ``tracks.TRACKS``
    threads: int  # cores to use
    folder: Path  # for its checkpoints; a run that has some there goes on from them
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

"""Worker processes seen from the parent: started clean, listened to, never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compare import tracks
from compare.errors import UserError
from compare.workers.protocol import Event, Job

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """``python -m module ...``, given a job and telling of events, one JSON line each: a context manager.

    In a process group of its own, so that Ctrl-C reaches the parent alone, which may then ask
    the worker to save and leave. Leaving the ``with`` block ends it.
    """

    def __init__(self, *module: str, job: Mapping[str, Any], variables: Mapping[str, str], log: Path):
        self._module, self._job, self._variables, self._log = module, job, variables, log

    def __enter__(self) -> Worker:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("w", encoding="utf-8") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._module],
                env={**os.environ, **self._variables},
                cwd=ROOT,
                process_group=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def events(self) -> Iterator[Event]:
        """Yield what the worker reports; the last event is "end", spoken for it if it died without a word."""
        self._send(json.dumps(self._job))
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            last = event["event"] == "end"
            yield event
            if last:
                return
        code = self._process.wait()
        yield {"event": "end", "status": "failed", "message": _obituary(code, self._log)}

    def ask_to_stop(self) -> None:
        """Let the worker finish its chunk, save, report and end."""
        self._process.terminate()

    def _send(self, text: str) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(text)
            self._process.stdin.close()


def trainer(job: Job, *, log: Path) -> Worker:
    """The worker of one training; what its libraries print goes to ``log``."""
    variables = tracks.environment(job.track, job.config, threads=job.threads)
    return Worker("compare.training.worker", job=job.to_json(), variables=variables, log=log)


def _obituary(code: int, log: Path) -> str:
    """How a worker died, and its last line."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"the worker {how}{hint}; its last words: {_last_line(log.read_text('utf-8'))} (the whole: {log})"


def _last_line(words: str) -> str:
    return next((line.strip() for line in reversed(words.splitlines()) if line.strip()), "none")


def call(module: str, *arguments: str, variables: Mapping[str, str] | None = None) -> Any:
    """Run ``python -m module arguments`` and read its standard output as JSON.

    Raises UserError if that is what ended it, and RuntimeError with its last words if it failed otherwise.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | dict(variables or {}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    words = _last_line(done.stderr)
    if done.returncode == 2 and words.startswith("error: "):
        raise UserError(words.removeprefix("error: "))
    if not done.stdout.strip():
        raise RuntimeError(f"python -m {module} ended with exit code {done.returncode}: {words}")
    return json.loads(done.stdout)


Answer = dict[str, Any]


def ask(module: str, *, job: Mapping[str, Any], variables: Mapping[str, str], log: Path) -> Answer:
    """Give a worker its one job and return its answer; ``{"error": why}`` if it failed."""
    with Worker(module, job=job, variables=variables, log=log) as worker:
        *_, end = worker.events()
    del end["event"]
    if end.pop("status") == "failed":
        return {"error": end["message"]}
    return end

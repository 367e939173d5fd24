"""Starts worker processes, reads their events, and ends them with everything that they started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from compare import tracks
from compare.errors import UserError
from compare.workers.protocol import Event, Job

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """``python -m module ...``, which is given a job and answers with events, one JSON line each: a context manager.

    The worker has a process group of its own, so that Ctrl-C reaches the parent alone, which may then ask
    the worker to save and stop. Leaving the ``with`` block kills the worker and every process of its group.
    """

    def __init__(self, *module: str, job: Mapping[str, Any], variables: Mapping[str, str], log: Path):
        self._module, self._job, self._variables, self._log = module, job, variables, log

    def __enter__(self) -> Worker:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._module],
                env={**os.environ, **self._variables},
                cwd=ROOT,
                process_group=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def events(self) -> Iterator[Event]:
        """Yield the worker's events; the last one is "end", made here if the worker died without sending it."""
        self._send(json.dumps(self._job))
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            last = event["event"] == "end"
            yield event
            if last:
                return
        code = self._process.wait()
        yield {"event": "end", "status": "failed", "message": _why_it_ended(code, self._log)}

    def ask_to_stop(self) -> None:
        """Ask the worker to finish its chunk, save, report and end."""
        self._process.terminate()

    def _send(self, text: str) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(text)
            self._process.stdin.close()


def trainer(job: Job, *, log: Path) -> Worker:
    """The worker of one training; its standard error and its libraries' prints go to ``log``."""
    variables = tracks.environment(job.track, job.config, threads=job.threads) | tracks.COLD
    return Worker("compare.training.worker", job=job.to_json(), variables=variables, log=log)


def _why_it_ended(code: int, log: Path) -> str:
    """How a worker ended, and the last line of its log."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"the worker {how}{hint}; the last line of {log}: {_last_line(log.read_text('utf-8'))}"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "none")


TOLD = "progress: "


def tell(text: str) -> None:
    """Report progress to the process that runs this one with :func:`call`."""
    print(f"{TOLD}{text}", file=sys.stderr, flush=True)


def call(
    module: str,
    *arguments: str,
    variables: Mapping[str, str] | None = None,
    hear: Callable[[str], object] = lambda text: None,
) -> Any:
    """Run ``python -m module arguments`` and return its standard output, parsed as JSON.

    ``hear`` gets each text that the process tells (:func:`tell`) as soon as it does.
    Raises the UserError that ended it, and RuntimeError with its last line if it failed otherwise.
    """
    lines = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:  # a full pipe would block what writes to it
        with subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | dict(variables or {}),
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            assert running.stderr
            for line in running.stderr:
                if line.startswith(TOLD):
                    hear(line.removeprefix(TOLD).strip())
                else:
                    lines.append(line)
        output.seek(0)
        found = output.read()
    last = _last_line("".join(lines))
    if running.returncode == 2 and last.startswith("error: "):
        raise UserError(last.removeprefix("error: "))
    if not found.strip():
        raise RuntimeError(f"python -m {module} ended with exit code {running.returncode}: {last}")
    return json.loads(found)


Answer = dict[str, Any]


def ask(module: str, *, job: Mapping[str, Any], variables: Mapping[str, str], log: Path) -> Answer:
    """Give a worker its one job and return the fields of its "end" event; ``{"error": message}`` if it failed."""
    with Worker(module, job=job, variables=variables, log=log) as worker:
        *_, end = worker.events()
    del end["event"]
    if end.pop("status") == "failed":
        return {"error": end["message"]}
    return end

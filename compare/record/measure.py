"""Measures cold seconds and test accuracy: fresh processes, one for each row and seed, that take turns."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from compare import machine, presets, tracks
from compare.errors import UserError
from compare.machine import disturbance
from compare.record.results import SCRIPTS, Entry, Row, Run
from compare.workers.process import ROOT

EXTRA = 2  # disturbed runs of a row that are repeated, at most
ANSWER = '{"test_accuracy"'  # how the line begins that ends the clock


def measure(entry: Entry, roots: Mapping[str | None, Path], note: Callable[[str], None]) -> None:
    """Fill in the runs of every row, A B C A B C; ``roots`` are the checkouts of their commits."""
    extra: dict[int, int] = {}
    for seed in range(entry["seeds"]):
        for number, row in enumerate(entry["rows"]):
            run = once(entry["preset"], row, seed, roots[row["commit"]])
            while run["disturbed"] and extra.get(number, 0) < EXTRA:
                extra[number] = extra.get(number, 0) + 1
                note(f"⚠ {row['name']} was disturbed and is repeated: {run['disturbed']}")
                run = once(entry["preset"], row, seed, roots[row["commit"]])
            row["runs"].append(run)
            mark = f"  ⚠ {run['disturbed']}" if run["disturbed"] else ""
            text = f"{run['seconds']:6.2f} s  {run['test_accuracy']:.2%}{mark}"
            note(f"{seed + 1}/{entry['seeds']}  {row['name']:<12} {(row['commit'] or '')[:7]:<8} {text}")


def once(preset: str, row: Row, seed: int, root: Path) -> Run:
    """One process: the clock runs from before it starts until it has said its test accuracy."""
    name, threads = row["name"], machine.cores()
    if name in SCRIPTS:  # as its user would start it
        command, variables = [SCRIPTS[name], preset, str(seed)], {"JAX_PLATFORMS": "cpu"}
    else:
        command = ["compare.record.track", preset, str(seed), name]
        variables = tracks.environment(name, presets.get(preset), threads=threads)
    before = disturbance.counters()
    seconds, accuracy = clocked(command, root, variables | tracks.COLD)
    reason = disturbance.reason(disturbance.between(before, disturbance.counters()))
    return {"seed": seed, "seconds": round(seconds, 3), "test_accuracy": accuracy, "disturbed": reason}


def clocked(command: list[str], root: Path, variables: Mapping[str, str]) -> tuple[float, float]:
    """Seconds and test accuracy of ``python -m command``, run in a checkout; UserError if it fails."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=root, env=os.environ | dict(variables), stdout=subprocess.PIPE, stderr=log, text=True, process_group=0,
        ) as process:  # fmt: skip
            assert process.stdout
            try:
                answer = next((line for line in process.stdout if line.startswith(ANSWER)), None)
                seconds = time.perf_counter() - start
            finally:  # also after Ctrl-C, and with whatever it has started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        log.seek(0)
        last = next((line.strip() for line in reversed(log.readlines()) if line.strip()), "none")
    if answer is None:
        raise UserError(f"python -m {' '.join(command)} in {root} ended without a test accuracy; its last line: {last}")
    return seconds, float(json.loads(answer)["test_accuracy"])


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A worktree of another commit, which is removed in the end; UserError if there is no such commit here."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "checkout"
        git("worktree", "add", "--detach", str(root), commit)
        try:
            yield root
        finally:
            git("worktree", "remove", "--force", str(root))


def git(*words: str) -> str:
    """What git says in the project's checkout; UserError if it fails."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"git {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout.strip()

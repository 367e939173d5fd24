"""Was a timed run disturbed by other programs? Counters of the kernel before and after, held against limits.

    others        processor time that the run's cores spent on other programs, or lost to other virtual machines
                  (steal), as a share of the time that these cores had
    throttled     time that a CPU quota (cgroup) kept the run waiting, as a share of the elapsed time
    preemptions   involuntary context switches of the run's processes, per second
    step_spread   90th over 10th percentile of the time of a step
    matmul_swing  speed of a large matmul before the run over its speed after, or the inverse: at least 1

A run is disturbed if ``others``, ``throttled``, ``step_spread`` or ``matmul_swing`` exceeds its limit. Preemptions are
recorded and have no limit: a program with more threads than cores preempts itself.

Observed on two cores: at a load of 5 to 6, six of six runs of ``mlp-mnist`` (one epoch, all tracks) were marked, their
``others`` between 0.50 and 0.76.

How often an idle machine is marked: one of 101 cold trainings of ``speedrun-mnist`` (``others`` 0.23; a record checks
the first two limits). On a shared host it is more, and rightly: while a matmul there ran at 148 to 317 GFLOP/s from
minute to minute, 6 of 22 trials of the benchmark were marked, all by ``matmul_swing``, one by ``step_spread`` too.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

PROC = Path("/proc")
QUOTAS = Path("/sys/fs/cgroup")
SHORTEST = 0.5  # seconds: the kernel counts processor time in hundredths, too coarse for less

LIMITS = {
    "others": 0.10,
    "throttled": 0.02,
    "step_spread": 2.0,
    "matmul_swing": 1.5,
}


class Disturbance(TypedDict):
    """What was seen during one timed run; None where the system does not tell."""

    others: float | None
    throttled: float | None
    preemptions: float | None
    step_spread: float | None
    matmul_swing: float | None
    load: float | None


@dataclass(frozen=True)
class Counters:
    """The kernel's counters at one moment, in seconds; ``preemptions`` is a number of switches."""

    clock: float
    cores: int
    busy: float  # the allowed cores were not idle, or wanted by another virtual machine
    own: float  # this process, and all that it started
    throttled: float | None
    preemptions: int


def counters(proc: Path = PROC, quotas: Path = QUOTAS) -> Counters | None:
    """The counters now; None where the system has no /proc/stat."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        busy = sum(_busy_ticks(proc / "stat", allowed))
        tree = [proc / "self", *_descendants(proc / "self", proc)]
    except OSError:
        return None
    tick = os.sysconf("SC_CLK_TCK")
    return Counters(
        clock=time.monotonic(),
        cores=len(allowed),
        busy=busy / tick,
        own=sum(map(_own_ticks, tree)) / tick,
        throttled=_throttled(quotas),
        preemptions=sum(map(_preemptions, tree)),
    )


def between(before: Counters | None, after: Counters | None) -> Disturbance:
    """What the counters say of the time between them; spread and swing are the caller's to add."""
    found = Disturbance(
        others=None,
        throttled=None,
        preemptions=None,
        step_spread=None,
        matmul_swing=None,
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    )
    if before is None or after is None or after.clock - before.clock < SHORTEST:
        return found
    seconds = after.clock - before.clock
    others = (after.busy - before.busy) - (after.own - before.own)
    found["others"] = round(max(others, 0.0) / (seconds * after.cores), 3)
    found["preemptions"] = round(max(after.preemptions - before.preemptions, 0) / seconds, 1)
    if before.throttled is not None and after.throttled is not None:
        found["throttled"] = round((after.throttled - before.throttled) / seconds, 3)
    return found


def spread(step_ms: Sequence[float]) -> float | None:
    """90th over 10th percentile of the times of steps; None for fewer than five."""
    if len(step_ms) < 5:
        return None
    ordered = sorted(step_ms)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.1, 0.9))
    return round(high / low, 2) if low > 0 else None


def swing(before: Sequence[float], after: Sequence[float]) -> float | None:
    """How much the median speed of a matmul changed from before to after, as a factor of at least 1."""
    if not before or not after:
        return None
    ratio = statistics.median(before) / statistics.median(after)
    return round(max(ratio, 1 / ratio), 2)


SENTENCES = {
    "others": "other programs took {:.0%} of the cores",
    "throttled": "a CPU quota stopped the run for {:.0%} of its time",
    "step_spread": "the slowest tenth of the steps took {:.1f} times as long as the fastest",
    "matmul_swing": "the speed of a large matmul changed by a factor of {:.1f} during the run",
}


def reason(found: Disturbance) -> str | None:
    """Why the run counts as disturbed, in words; None if every figure is within its limit."""
    exceeded = [
        SENTENCES[name].format(value)
        for name, limit in LIMITS.items()
        if (value := found[name]) is not None and value > limit  # type: ignore[literal-required]
    ]
    return "; ".join(exceeded) or None


def watch(seconds: float = SHORTEST) -> Disturbance:
    """What other programs do for a moment, while this process sleeps."""
    before = counters()
    time.sleep(seconds + 0.05)
    return between(before, counters())


def is_quiet() -> bool:
    """Whether other programs leave the machine alone, watched for a moment."""
    return reason(watch()) is None


def wait_until_quiet(limit: float, *, stop: Callable[[], bool] = lambda: False) -> bool:
    """True as soon as the machine is quiet; False if it is not after ``limit`` seconds, or once ``stop()`` says so."""
    start = time.monotonic()
    while not stop():
        if is_quiet():
            return True
        if time.monotonic() - start >= limit:
            break
    return False


def _busy_ticks(stat: Path, allowed: set[int]) -> Iterator[int]:
    """Clock ticks of each allowed core, idle and waiting for disks excepted."""
    for line in stat.read_text(encoding="ascii").splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in allowed:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            yield user + nice + system + irq + softirq + steal


def _own_ticks(process: Path) -> int:
    """Clock ticks of a process, and of those of its children that have ended; 0 if it has just ended itself."""
    with contextlib.suppress(OSError):
        fields = (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return 0


def _preemptions(process: Path) -> int:
    with contextlib.suppress(OSError):
        lines = (process / "status").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("nonvoluntary_ctxt_switches")), 0)
    return 0


def _descendants(process: Path, proc: Path) -> Iterator[Path]:
    for listing in process.glob("task/*/children"):
        with contextlib.suppress(OSError):
            for number in listing.read_text(encoding="ascii").split():
                yield proc / number
                yield from _descendants(proc / number, proc)


def _throttled(quotas: Path) -> float | None:
    """Seconds for which this group of processes was throttled; None where no quota is counted."""
    for file, unit in ((quotas / "cpu.stat", 1e6), (quotas / "cpu" / "cpu.stat", 1e9)):  # cgroup 2 and 1
        with contextlib.suppress(OSError, ValueError):
            values = dict(line.split() for line in file.read_text(encoding="ascii").splitlines())
            for name in ("throttled_usec", "throttled_time"):
                if name in values:
                    return int(values[name]) / unit
    return None

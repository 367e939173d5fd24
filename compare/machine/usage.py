"""How busy the machine is, and how much of its memory is used, sampled between timed chunks by the process that trains.

The names are those under which MLflow shows system metrics.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from compare import machine
from compare.machine import disturbance

INTERVAL = 1.0  # seconds between two samples, at least


class Sampler:
    """Samples the kernel's counters; what it returns is for the time since the sample before."""

    def __init__(self, interval: float = INTERVAL):
        self._interval, self._last, self._next = interval, disturbance.counters(), time.monotonic() + interval

    def sample(self) -> dict[str, float]:
        """Use of the cores and the memory; {} before ``interval`` seconds have passed, or where there is no /proc."""
        if time.monotonic() < self._next or self._last is None:
            return {}
        before, now = self._last, disturbance.counters()
        self._last, self._next = now, time.monotonic() + self._interval
        if now is None:
            return {}
        available = (now.clock - before.clock) * max(now.cores, 1)
        return {
            "system/cpu_utilization_percentage": round(100 * (now.busy - before.busy) / available, 1),
            "system/training_cpu_utilization_percentage": round(100 * (now.own - before.own) / available, 1),
            **memory(),
        }


def memory(meminfo: Path = Path("/proc/meminfo")) -> dict[str, float]:
    """Memory of the machine that is in use, in MB (2²⁰ bytes) and per cent, and that of this process."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        total, free = (int(lines[name].split()[0]) / 1024 for name in ("MemTotal", "MemAvailable"))
        found = {
            "system/system_memory_usage_megabytes": round(total - free, 1),
            "system/system_memory_usage_percentage": round(100 * (total - free) / total, 1),
        }
        own = machine.rss_mb()
        return found | ({} if own is None else {"system/training_memory_usage_megabytes": own})
    return {}

"""What the figures were measured on: processor, threads, versions, and how fast it multiplied matrices."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = (
    "numpy jax jaxlib flax optax orbax-checkpoint torch torchvision tensorflow-cpu keras tensorflow-datasets mlflow "
    "matplotlib rich"
).split()
DIRTY = "-dirty"  # after a commit: there are uncommitted changes


def cores() -> int:
    """Cores that this process may use: those of its affinity, within its CPU quota (``docker run --cpus``)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(min(allowed, math.floor(quota)), 1)


def cpu_quota(quotas: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """The cores' worth of time that this process may take: the smallest of its control groups' (cgroup 2 or 1).

    None without a limit. ``own`` names the groups: in a container the one that is mounted at ``quotas``, on a host
    (systemd's CPUQuota, a batch system) one below it, whose parents limit it, too.
    """
    found = []
    for hierarchy, read in ((quotas, _quota), (quotas / "cpu", _quota_1), (quotas / "cpu,cpuacct", _quota_1)):
        inside = hierarchy / _group(own, "" if hierarchy == quotas else "cpu")
        for folder in (hierarchy, *(each for each in (inside, *inside.parents) if each.is_relative_to(hierarchy))):
            with contextlib.suppress(OSError, ValueError):
                found.append(read(folder))
    return min(filter(None, found), default=None)


def _group(own: Path, controller: str) -> str:
    """The path of a process's control group below its hierarchy; "" if it is the top, or unknown."""
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(",") and ".." not in path:
                return path.strip("/")
    return ""


def _quota(folder: Path) -> float | None:
    limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    return None if limit == "max" else int(limit) / int(period)


def _quota_1(folder: Path) -> float | None:
    limit, period = (int((folder / f"cpu.cfs_{name}_us").read_text("ascii")) for name in ("quota", "period"))
    return None if limit <= 0 else limit / period


def describe(*, threads: int) -> dict[str, Any]:
    """The ``environment`` of results.json: what is known, and what is measured."""
    found = {"gemm_gflops": gemm_gflops(threads=threads), "memory_gbs": bandwidth_gbs("memory", threads=threads)}
    return facts(threads=threads) | found | {"load": [load()]}


def facts(*, threads: int) -> dict[str, Any]:
    """Processor, versions and commit."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores(),
        "threads": threads,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "git_commit": git_commit(),
    }


def load() -> float | None:
    """Number of processes that wanted a core, averaged over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def peak_rss_mb() -> float | None:
    """Largest resident memory so far of this process and of those it started, in MB (2²⁰ bytes).

    A sum of peaks, which need not have been at one moment, and memory that several processes share is counted in each:
    no less than what was needed at once. None where the system does not tell.
    """
    return _megabytes("status", "VmHWM")


def rss_mb() -> float | None:
    """Resident memory now, summed in the same way: a tenth of a millisecond, where :func:`pss_mb` takes ten."""
    return _megabytes("status", "VmRSS")


def pss_mb() -> float | None:
    """Memory of this process and of those it started, now, in MB (2²⁰ bytes): a page that several share counts once.

    None where the system does not tell.
    """
    return _megabytes("smaps_rollup", "Pss:")


def _megabytes(file: str, name: str) -> float | None:
    """A line of a file in ``/proc``, in MB, summed over this process and its descendants; None without that file."""
    root = Path("/proc/self")
    if not (root / file).exists():
        return None
    return round(sum(_kilobytes(each / file, name) for each in [root, *_descendants(root)]) / 1024, 1)


def _kilobytes(file: Path, name: str) -> int:
    """A line of a process's file; 0 if the process has just ended."""
    with contextlib.suppress(OSError):
        lines = file.read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
    return 0


def _descendants(process: Path) -> Iterator[Path]:
    """The processes that this one has started, and those that they have; one may end while we look."""
    for listing in process.glob("task/*/children"):
        with contextlib.suppress(OSError):
            for number in listing.read_text(encoding="ascii").split():
                yield Path("/proc", number)
                yield from _descendants(Path("/proc", number))


SIZES = {"memory": 2**24, "cache": 2**15}  # numbers in an array that is copied

MATMUL = """
import numpy, time
a, b = numpy.random.default_rng(0).standard_normal((2, 2048, 2048), dtype="float32")
def seconds():
    start = time.perf_counter(); a @ b
    return time.perf_counter() - start
seconds()
print(*(2 * 2048**3 / seconds() / 1e9 for _ in range(5)))
"""

ACCELERATOR_MATMUL = """
import sys, time, torch
number, precision = sys.argv[1:]
torch.backends.cuda.matmul.fp32_precision = "ieee"
device = torch.device(torch.accelerator.current_accelerator().type, int(number))
a, b = torch.randn(2, 8192, 8192, dtype=getattr(torch, precision), device=device)
def seconds():
    torch.accelerator.synchronize(device); start = time.perf_counter(); a @ b
    torch.accelerator.synchronize(device); return time.perf_counter() - start
seconds()
print(*(2 * 8192**3 / seconds() / 1e9 for _ in range(5)))
"""

COPY = """
import numpy, sys, threading, time
threads, numbers = map(int, sys.argv[1:])
pairs = [(numpy.zeros(numbers, "float32"), numpy.ones(numbers, "float32")) for _ in range(threads)]
laps = max(1, 2**26 // numbers)  # 256 MB written by each thread
def copy(pair, start):
    start.wait()
    for _ in range(laps):
        numpy.copyto(*pair)
def seconds():
    start = threading.Barrier(threads + 1)
    workers = [threading.Thread(target=copy, args=(pair, start)) for pair in pairs]
    for worker in workers: worker.start()
    start.wait(); begin = time.perf_counter()
    for worker in workers: worker.join()
    return time.perf_counter() - begin
print(*(threads * 2 * 4 * numbers * laps / seconds() / 1e9 for _ in range(5)))
"""


def matmul_gflops(*, threads: int) -> list[float]:
    """GFLOP/s of five matmuls of two float32 matrices (2048, 2048), in a fresh process; [] if that fails."""
    return _figures(MATMUL, threads=threads)


def record_peak(environment: dict[str, Any], *speeds: float) -> None:
    """Keep the highest speed of a large matmul on the CPU, in whatever library, in ``environment``."""
    environment["gemm_gflops"] = max([environment["gemm_gflops"] or 0.0, *speeds]) or None


def on_cpu(hardware: str | None) -> bool:
    """Is it the CPU, or a part of it, that a run's ``hardware`` names? None: it did not come so far."""
    return hardware is None or hardware.endswith("cpu")


def accelerator_gflops(device: str, precision: str) -> float | None:
    """Median of five matmuls (8192, 8192) by PyTorch on an accelerator; float32 without TF32."""
    found = _figures(ACCELERATOR_MATMUL, device.partition(":")[2] or "0", precision, threads=1)
    return statistics.median(found) if found else None


def gemm_gflops(*, threads: int) -> float | None:
    """The best of five such matmuls."""
    return max(matmul_gflops(threads=threads), default=None)


def bandwidth_gbs(where: str, *, threads: int) -> float | None:
    """GB/s read and written by the best of five copies of float32 arrays, each thread its own, in a fresh process.

    ``memory``: arrays of 64 MB, beyond most caches; ``cache``: arrays of 128 KB, inside each core's own.
    """
    return max(_figures(COPY, str(threads), str(SIZES[where]), threads=threads), default=None)


def _figures(program: str, *arguments: str, threads: int) -> list[float]:
    """The numbers that a Python program prints; none if it fails."""
    variables = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    return [round(float(number), 1) for number in done.stdout.split()] if done.returncode == 0 else []


def git_commit() -> str | None:
    """Commit of the project's own checkout, with ``-dirty`` if there are uncommitted changes.

    None outside of a checkout, in an archive that was unpacked inside another repository, too.
    """
    root = Path(__file__).resolve().parents[2]
    commands = "rev-parse --show-toplevel", "rev-parse HEAD", "status --porcelain --untracked-files=no"
    try:
        top, commit, changes = (
            subprocess.run(["git", *words.split()], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for words in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    if Path(top).resolve() != root:
        return None
    return f"{commit}{DIRTY}" if changes else commit


def is_clean(commit: str | None) -> bool:
    """Whether a :func:`git_commit` is known and has no uncommitted changes."""
    return commit is not None and not commit.endswith(DIRTY)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's own name, where the system tells it."""
    return _processor("model name") or platform.processor() or platform.machine()


def code_target() -> str:
    """What decides which machine code this processor can run: its name and its instruction sets."""
    return f"{platform.machine()} {_cpu()} {_processor('flags') or _processor('Features')}"


def _processor(field: str) -> str:
    """A field of the first processor that the system lists; empty where it lists none."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
    return ""

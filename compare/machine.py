"""What the figures were measured on: processor, threads, versions, and the matrix-multiply peak of this very run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "numpy jax jaxlib flax optax orbax-checkpoint torch torchvision tensorflow-datasets mlflow matplotlib rich"
).split()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe(*, threads: int) -> dict[str, Any]:
    """The ``environment`` of results.json."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": cores(),
        "threads": threads,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "git_commit": git_commit(),
        "gemm_gflops": gemm_gflops(threads=threads),
        "load": [load()],
    }


def load() -> float | None:
    """Number of processes that wanted a core, averaged over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def peak_rss_mb() -> float | None:
    """Largest resident memory of this process so far, in MB (2²⁰ bytes); None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return round(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024, 1)


def gemm_gflops(*, threads: int) -> float | None:
    """GFLOP/s of the best of ten products of two float32 matrices (2048, 2048), all threads, in a fresh process."""
    program = (
        "import numpy, time\n"
        "a, b = numpy.random.default_rng(0).standard_normal((2, 2048, 2048), dtype='float32')\n"
        "def seconds():\n"
        "    start = time.perf_counter(); a @ b\n"
        "    return time.perf_counter() - start\n"
        "print(2 * 2048**3 / min(seconds() for _ in range(10)) / 1e9)"
    )
    variables = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    return round(float(done.stdout), 1) if done.returncode == 0 else None


def git_commit() -> str | None:
    """Commit of the project's own checkout, with ``+`` if there are uncommitted changes."""
    root = Path(__file__).parent
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

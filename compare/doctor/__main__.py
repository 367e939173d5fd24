"""Show the hardware and packages of this machine, whether it is idle, and which flags would be refused.

    python -m compare.doctor

No framework is imported. The command takes about a second, half of it to watch for other programs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from compare import cli, machine
from compare.cli import command_line
from compare.data.loaders import NEEDS, require
from compare.errors import UserError
from compare.machine import disturbance

VECTORS = ("avx512f", "avx512_bf16", "amx_bf16", "avx2", "fma", "asimd", "sve")  # of /proc/cpuinfo
KERNELS = ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename", "openblas_get_corename")
NVIDIA = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


def facts() -> dict[str, str]:
    """What the machine has, by the name of the property."""
    quota = machine.cpu_quota()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found = machine.facts(threads=machine.cores())
    return {
        "processor": found["cpu"],
        "cores": f"{machine.cores()} usable of {os.cpu_count()}",
        "CPU quota": "none" if quota is None else f"{quota:g} cores",
        "vector instructions": ", ".join(vectors()) or "unknown",
        "BLAS of NumPy": blas(),
        "accelerator": "; ".join(accelerators()) or "none found",
        "platform": found["platform"],
        "Python": platform.python_version(),
        **found["versions"],
        "git commit": found["git_commit"] or "unknown",
        "free disk here": f"{free:.1f} GB",
    }


def vectors(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The vector instructions of the processor that matter for training."""
    with contextlib.suppress(OSError):
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "").split()
        return [name for name in VECTORS if name in flags]
    return []


def blas() -> str:
    """Name and version of NumPy's BLAS, and the kernel that it chose for this processor."""
    import numpy as np

    config = np.show_config(mode="dicts")
    known = config["Build Dependencies"]["blas"] if config else {}
    name = f"{known.get('name', 'unknown')} {known.get('version', '')}".strip()
    for file in (Path(np.__file__).parent.parent / "numpy.libs").glob("*openblas*"):
        library = ctypes.CDLL(str(file))
        for symbol in KERNELS:
            if hasattr(library, symbol):
                kernel = getattr(library, symbol)
                kernel.restype = ctypes.c_char_p
                return f"{name}, kernel {kernel().decode()}"
    return name


def accelerators() -> list[str]:
    """Name, memory and driver of each accelerator that the system knows; a framework may still lack support for it."""
    if shutil.which(NVIDIA[0]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(NVIDIA, capture_output=True, text=True, check=False, timeout=2)
            return done.stdout.strip().splitlines() if done.returncode == 0 else []
    if Path("/dev/kfd").exists():
        return ["AMD (ROCm)"]
    return ["Apple (Metal)"] if (sys.platform, platform.machine()) == ("darwin", "arm64") else []


def refused() -> list[str]:
    """The flags that no command takes on this machine, each with the reason."""
    found = [f"--devices {machine.cores() + 1} or more on the CPU: this process may use {machine.cores()} cores"]
    if not accelerators():
        found.append("--device gpu: no accelerator was found")
    for track, package in (("jax", "flax"), ("torch", "torch")):
        if not importlib.util.find_spec(package):
            found.append(f"--tracks {track}: {package} is not installed")
    if not importlib.util.find_spec("tensorflow"):
        found.append("--tensorflow: TensorFlow is not installed")
    for loader in NEEDS:
        try:
            require(loader)
        except UserError as error:
            found.append(f"--loader {loader}: {error}")
    return found


def idle() -> str:
    """Whether other programs would disturb a measurement now, watched for half a second."""
    seen = disturbance.watch()
    if seen["others"] is None:
        return "unknown: this system does not count the processor time of other programs"
    problem = disturbance.reason(seen)
    return f"no: {problem}" if problem else f"yes: other programs took {seen['others']:.0%} of the cores"


def text(found: dict[str, str], not_taken: list[str]) -> str:
    """The facts and what is refused, for the terminal."""
    width = max(map(len, found))
    lines = [f"{name:<{width}}  {value}" for name, value in found.items()]
    return "\n".join([*lines, "", "Refused on this machine:", *(f"  {line}" for line in not_taken)])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("doctor", __doc__)
    cli.add_json(options, "the facts and what is refused")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the facts, whether the machine is idle, and what would be refused; returns 0."""
    options = parser().parse_args(arguments)
    found = facts() | {"idle": idle()}
    lines = refused()
    with cli.figures(options.json) as show:
        show({**found, "refused": lines}, lambda: print(text(found, lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

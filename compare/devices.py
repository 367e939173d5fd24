"""Where a run computes: what may be asked for, and what a process must be told before its framework starts.

Whether a GPU is there only the framework knows; its track refuses what is not, in the worker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from compare import machine
from compare.config import Config
from compare.errors import UserError


def parse(text: str) -> str:
    """A device as ``--device`` names it."""
    if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", text):
        raise UserError(f"{text!r} is no device: it is auto, cpu, gpu, or one of several, like gpu:1")
    return text


def require(config: Config, names: Sequence[str]) -> None:
    """Raise UserError for shards that are not equal, and for more devices than a CPU has cores, where one is used."""
    require_shards(config)
    if (config.device == "cpu" or "numpy" in names) and config.devices > max(machine.cores(), 1):
        numpy_too = "" if config.device == "cpu" else ", NumPy's always; --tracks jax torch leaves it out"
        raise UserError(
            f"--devices {config.devices}: on a CPU they share its cores{numpy_too}, and this process may use "
            f"{machine.cores()}"
        )


def require_shards(config: Config) -> None:
    """Raise UserError where a batch is not one equal shard per device."""
    n, devices, parts = config.batch_size, config.devices, config.accumulate
    if n % (devices * parts):
        micro = f" x {parts} micro-batches" if parts > 1 else ""
        raise UserError(
            f"{config.preset}: a batch of {n} does not divide by {devices} devices{micro}: choose another --batch-size"
        )


def variables(config: Config) -> dict[str, str]:
    """Environment variables for JAX, which reads them when it starts; PyTorch needs none.

    By itself JAX takes three quarters of a GPU's memory at once, and who comes next finds too little.
    On a CPU its devices are made: as many as ``--xla_force_host_platform_device_count`` says.
    """
    if config.device == "cpu":
        found = {"JAX_PLATFORMS": "cpu"}
    else:
        found = {"JAX_PLATFORMS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if config.devices > 1:
        forced = f"--xla_force_host_platform_device_count={config.devices}"
        found["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), forced]))  # the last one counts
    return found

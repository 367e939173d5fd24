"""The contract between the runner and a track, and the door to each track.

A track is a module with these functions; nothing is inherited, and nothing of
``compare`` is known there.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from compare import machine
from compare.config import Config
from compare.errors import UserError
from compare.files import CACHE

if TYPE_CHECKING:  # the command line must not wait for them
    import numpy as np

    from numpy_nn.tree import Tree

TRACKS = {"numpy": "numpy_nn.train", "jax": "jax_nn.train", "torch": "torch_nn.train"}
COLD = {  # a compilation is measured, not what an earlier process cached on disk
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
}
WARM_BYTES = 2**28  # of compiled programs kept on disk; a comparison of two small networks needs 2**19


class Track(Protocol):
    """What every ``train.py`` offers; ``State`` is each track's own."""

    def init_state(self, snapshot: Tree, **arguments: Any) -> Any:
        """Build the track's state from a snapshot, fresh or half-way."""

    def train_steps(self, state: Any, x: np.ndarray, y: np.ndarray) -> tuple[Any, dict[str, Any]]:
        """Take k steps: x uint8 (k, n, h, w, c), y int32 (k, n); metrics of shape (k,)."""

    def eval_batch(self, state: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """Sums and counts over one batch: ``loss_sum``, ``correct``, ``count``."""

    def logits(self, state: Any, x: np.ndarray) -> Any:
        """Outputs of the network as it is used: (n, classes)."""

    def to_snapshot(self, state: Any) -> Tree:
        """Copy the state into the form that every track reads."""

    def synchronize(self, state: Any) -> None:
        """Return when the device is idle."""

    def place_dataset(self, state: Any, x: np.ndarray, y: np.ndarray) -> Any:
        """The dataset on the accelerator, to be indexed by positions (k, n); None on a CPU."""

    def device_facts(self, state: Any) -> dict[str, Any]:
        """What computes: ``hardware``, ``matmul_precision``, ``peak_device_mb`` (2²⁰ bytes, or None)."""


def load(name: str) -> Track:
    """Import a track, and with it its framework."""
    return cast(Track, importlib.import_module(TRACKS[name]))


def supporting(precision: str, names: Sequence[str]) -> list[str]:
    """Those of the named tracks that compute in this precision: NumPy has no bfloat16."""
    return [name for name in names if not (name == "numpy" and precision == "bfloat16")]


def environment(track: str, config: Config, *, threads: int) -> dict[str, str]:
    """Environment variables that a process needs before it imports the track.

    Which cores it may use is decided by CPU affinity, the one cap that binds
    NumPy, XLA and PyTorch alike. The NumPy track has a process for each core,
    and wants a single-threaded matrix library in all of them. Memory that was freed
    stays with the process, for all alike: to get every large array from the system
    anew, page by page, takes glibc a fifth of a convolutional step of NumPy or PyTorch.
    """
    return {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1" if track == "numpy" else str(threads),
        "JAX_ENABLE_X64": "1" if config.precision == "float64" else "0",
        **device_variables(config),
    }


def compilation_cache() -> dict[str, str]:
    """Environment variables with which JAX keeps its compiled programs on disk: for processes that are not timed.

    XLA compiles for the processor that it runs on, so each kind of processor has a folder of its own.
    """
    folder = CACHE.expanduser() / f"xla-{hashlib.sha256(machine.code_target().encode()).hexdigest()[:12]}"
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_COMPILATION_CACHE_MAX_SIZE": str(WARM_BYTES),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def state_arguments(config: Config, track: str, *, steps: int, threads: int) -> dict[str, Any]:
    """The keyword arguments of ``init_state`` that a Config stands for; no Config crosses into a track."""
    return {
        "model": config.model,
        "model_args": config.model_args,
        "loss": config.loss,
        "loss_args": config.loss_args,
        "optimizer": config.optimizer,
        "optimizer_args": config.optimizer_args,
        "schedule": config.schedule,
        "schedule_args": {"lr": config.lr, "steps": steps, **config.schedule_args},
        "lr_scale": config.lr_scale,
        "accumulate": config.accumulate,
        "ema": config.ema,
        "seed": config.seed,
        "devices": config.devices,
        **({} if track == "numpy" else {"device": config.device}),
        "threads": threads,
        "precision": config.precision,
    }


def model_argument(model: str, args: Mapping[str, Any], name: str) -> Any:
    """An argument of a model: as given in ``args``, else the model's default."""
    from compare import networks

    return args[name] if name in args else networks.parameters(model)[name].default


def require_devices(config: Config, names: Sequence[str]) -> None:
    """Raise UserError for shards that are not equal, and for devices that the CPU lacks, where it is used.

    NumPy computes on the CPU whatever the device of the other tracks; alone it is refused another.
    """
    require_shards(config)
    if set(names) == {"numpy"} and config.device not in ("auto", "cpu"):
        raise UserError(f"--device {config.device}: NumPy computes on the CPU only; add --tracks jax or torch")
    if (config.device == "cpu" or "numpy" in names) and config.devices > max(machine.cores(), 1):
        without = "" if config.device == "cpu" else ", or leave NumPy out with --tracks jax torch"
        raise UserError(
            f"--devices {config.devices}: on a CPU each device needs a core, and this process may use "
            f"{machine.cores()}; choose at most that many{without}"
        )


def require_shards(config: Config) -> None:
    """Raise UserError where a batch is not one equal shard per device."""
    n, devices, parts = config.batch_size, config.devices, config.accumulate
    if n % (devices * parts):
        micro = f" x {parts} micro-batches" if parts > 1 else ""
        raise UserError(
            f"{config.preset}: a batch of {n} does not divide by {devices} devices{micro}: choose another --batch-size"
        )


def device_variables(config: Config) -> dict[str, str]:
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

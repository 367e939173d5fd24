"""Choosing devices by name, and settings that depend on the device.

On an accelerator JAX reserves three quarters of the memory when it starts. To share
the device, set ``XLA_PYTHON_CLIENT_PREALLOCATE=false`` before that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

CPU_DEVICES = "XLA_FLAGS=--xla_force_host_platform_device_count"  # set before JAX starts, it divides the CPU


def choose(device: str = "cpu", count: int = 1) -> list[jax.Device]:
    """Return ``count`` devices: "cpu", "gpu", "gpu:N" (GPU N and those after it), or "auto" (a GPU if there is one).

    ValueError for an invalid name or too few devices; the message lists the available ones.
    """
    kind, _, first = device.partition(":")
    if kind not in ("auto", "cpu", "gpu") or (first and not (kind == "gpu" and first.isdecimal())):
        raise ValueError(f"invalid device {device!r}: expected auto, cpu, gpu or gpu:N")
    if count < 1:
        raise ValueError(f"devices is {count}: it must be at least 1")
    found = [] if kind == "cpu" else accelerators()
    if kind == "gpu" and not found:
        raise ValueError(
            f"JAX finds no GPU for device {device!r}: install jax[cuda13] where there is one, or choose device 'cpu'"
        )
    available = found or jax.devices("cpu")
    chosen = available[int(first or 0) :][:count]
    if len(chosen) < count:
        names = ", ".join(map(str, available))
        remedy = "" if found else f"; {CPU_DEVICES}={count} divides the CPU into more"
        raise ValueError(f"cannot use {count} devices from {device!r}: JAX has {len(available)}: {names}{remedy}")
    return chosen


def accelerators() -> list[jax.Device]:
    """Return the GPUs of CUDA or ROCm, or else Apple's through the jax-metal plugin."""
    for platform in ("gpu", "METAL"):
        try:
            return list(jax.devices(platform))
        except RuntimeError:  # no such platform
            continue
    return []


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, str] | None:
    """Return XLA's compiler options for a CPU, None elsewhere.

    They let YNNPACK compute matmuls and reductions, as by default, but not convolutions: its convolutions take up to
    five times as long as XLA's own (Eigen), which reach the speed of a matmul.
    """
    fusions = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    return {"xla_cpu_experimental_ynn_fusion_type": fusions} if devices[0].platform == "cpu" else None


@dataclass(frozen=True)
class DeviceDataset:
    """A dataset on the device: images uint8 (N, h, w, c), labels int32 (N,). Batches are indexed there."""

    x: Array
    y: Array

    def __getitem__(self, index: np.ndarray) -> tuple[Array, Array]:
        """Return the images and labels at positions ``index`` (k, n)."""
        return _take(self.x, self.y, index)


@jax.jit
def _take(x: Array, y: Array, index: Array) -> tuple[Array, Array]:
    return x[index], y[index]


def full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with full float32 matmuls; a GPU would otherwise round the operands to TF32 (11 bits)."""

    def exact(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments)

    return exact


def facts(devices: Sequence[jax.Device], precision: str) -> dict[str, Any]:
    """Return ``hardware``, ``matmul_precision`` and ``peak_device_mb``.

    The peak is that of the fullest device of this process, in units of 2²⁰ bytes; None on a CPU.
    """
    local = [each for each in devices if each.process_index == jax.process_index()]
    name = "cpu" if local[0].platform == "cpu" else local[0].device_kind
    memory = [each.memory_stats() or {} for each in local]
    peaks = [stats["peak_bytes_in_use"] for stats in memory if "peak_bytes_in_use" in stats]
    details = {"float32": "float32 (no TF32)", "bfloat16": "bfloat16, summed in float32"}
    return {
        "hardware": name if len(devices) == 1 else f"{len(devices)} x {name}",
        "matmul_precision": details.get(precision, precision),
        "peak_device_mb": round(max(peaks) / 2**20, 1) if peaks else None,
    }

"""Where it is computed: a device is asked for by name, and refused by name if it is not there.

On an accelerator JAX reserves three quarters of the memory when it starts; whoever shares
the device sets ``XLA_PYTHON_CLIENT_PREALLOCATE=false`` before that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

FORCED = "XLA_FLAGS=--xla_force_host_platform_device_count"  # set before JAX starts, it cuts the CPU into devices


def choose(device: str = "cpu", count: int = 1) -> list[jax.Device]:
    """``count`` devices: "cpu"; "gpu", "gpu:1" (that one and those after it); "auto" is a GPU or else the CPU.

    ValueError says what there is instead.
    """
    kind, _, first = device.partition(":")
    if kind not in ("auto", "cpu", "gpu") or (first and not (kind == "gpu" and first.isdecimal())):
        raise ValueError(f"unknown device {device!r}; known: auto, cpu, gpu, gpu:0, gpu:1, …")
    if count < 1:
        raise ValueError(f"devices {count}: it is a number of devices, 1 at least")
    found = [] if kind == "cpu" else accelerators()
    if kind == "gpu" and not found:
        raise ValueError(
            f"JAX finds no GPU for device {device!r}: install jax[cuda13] where there is one, or choose device 'cpu'"
        )
    available = found or jax.devices("cpu")
    chosen = available[int(first or 0) :][:count]
    if len(chosen) < count:
        names = ", ".join(map(str, available))
        remedy = "" if found else f"; {FORCED}={count} makes more of a CPU"
        raise ValueError(f"{count} of device {device!r} are asked for, and JAX has {len(available)}: {names}{remedy}")
    return chosen


def accelerators() -> list[jax.Device]:
    """GPUs of CUDA or ROCm, or else Apple's by the jax-metal plugin."""
    for platform in ("gpu", "METAL"):
        try:
            return list(jax.devices(platform))
        except RuntimeError:  # no such platform
            continue
    return []


def compiler_options(devices: Sequence[jax.Device]) -> dict[str, str] | None:
    """What XLA should do differently on a CPU: leave products and sums to YNNPACK, as it would, but not convolutions.

    YNNPACK's take up to five times as long as XLA's own (Eigen's), which reach the speed of a matrix product.
    """
    left = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    return {"xla_cpu_experimental_ynn_fusion_type": left} if devices[0].platform == "cpu" else None


@dataclass(frozen=True)
class Resident:
    """A dataset on the device, images uint8 (N, h, w, c), labels int32 (N,): only numbers of images travel there."""

    x: Array
    y: Array

    def __getitem__(self, index: np.ndarray) -> tuple[Array, Array]:
        """The images and labels of these numbers (k, n)."""
        return _taken(self.x, self.y, index)


@jax.jit
def _taken(x: Array, y: Array, index: Array) -> tuple[Array, Array]:
    return x[index], y[index]


def in_full(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, its float32 products in full: a GPU would else round their factors to TF32's 11 digits."""

    def exact(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*arguments)

    return exact


def facts(devices: Sequence[jax.Device], precision: str) -> dict[str, Any]:
    """``hardware``, ``products``: their precision, ``peak_device_mb``: 2²⁰ bytes, of the fullest; None on a CPU."""
    own = [each for each in devices if each.process_index == jax.process_index()]
    name = "cpu" if own[0].platform == "cpu" else own[0].device_kind
    memory = [each.memory_stats() or {} for each in own]
    peaks = [stats["peak_bytes_in_use"] for stats in memory if "peak_bytes_in_use" in stats]
    return {
        "hardware": name if len(devices) == 1 else f"{len(devices)} x {name}",
        "products": {"float32": "float32 (no TF32)", "bfloat16": "bfloat16, summed in float32"}.get(
            precision, precision
        ),
        "peak_device_mb": round(max(peaks) / 2**20, 1) if peaks else None,
    }

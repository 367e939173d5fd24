"""Choosing devices by name, and settings that depend on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def choose(device: str = "cpu", count: int = 1) -> list[torch.device]:
    """Return ``count`` devices: "cpu", "gpu", "gpu:N" (GPU N and those after it), or "auto" (a GPU if there is one).

    On a CPU each device is a process, so any number is available. ValueError for an invalid name or too few devices;
    the message lists the available ones.
    """
    kind, _, first = device.partition(":")
    if kind not in ("auto", "cpu", "gpu") or (first and not (kind == "gpu" and first.isdecimal())):
        raise ValueError(f"invalid device {device!r}: expected auto, cpu, gpu or gpu:N")
    if count < 1:
        raise ValueError(f"devices is {count}: it must be at least 1")
    found = [] if kind == "cpu" else accelerators()
    if kind == "gpu" and not found:
        build = f"it is built for CUDA {torch.version.cuda}" if torch.version.cuda else "it is not built for CUDA"
        raise ValueError(f"PyTorch finds no GPU for device {device!r} ({build}): choose device 'cpu'")
    if not found:
        return [torch.device("cpu")] * count
    chosen = found[int(first or 0) :][:count]
    if len(chosen) < count:
        names = ", ".join(map(str, found))
        raise ValueError(f"cannot use {count} devices from {device!r}: PyTorch has {len(found)}: {names}")
    return chosen


def accelerators() -> list[torch.device]:
    """Return the accelerators that this PyTorch supports and finds: GPUs of CUDA or ROCm, Apple's, Intel's."""
    if not torch.accelerator.is_available():
        return []
    kind = torch.accelerator.current_accelerator().type
    return [torch.device(kind, number) for number in range(torch.accelerator.device_count())]


@dataclass(frozen=True)
class DeviceDataset:
    """A dataset on the device: images uint8 (N, h, w, c), labels int32 (N,). Batches are indexed there."""

    x: Tensor
    y: Tensor

    def __getitem__(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the images and labels at positions ``index`` (k, n)."""
        positions = torch.from_numpy(index).to(self.x.device)
        return self.x[positions], self.y[positions]


def set_full_precision(device: torch.device, precision: str) -> None:
    """Turn TF32 off: a GPU would otherwise round the operands of float32 convolutions to 11 bits.

    ValueError if the device has no float64 and ``precision`` asks for it.
    """
    if device.type == "mps" and precision == "float64":
        raise ValueError("Apple's GPUs have no float64: choose float32, or device 'cpu'")
    if device.type == "cuda":
        for library in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
            library.fp32_precision = "ieee"


def facts(device: torch.device, devices: int, precision: str) -> dict[str, Any]:
    """Return ``hardware``, ``matmul_precision`` and ``peak_device_mb``.

    The peak is that of this process's device, in units of 2²⁰ bytes; None without CUDA.
    """
    on_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else device.type
    details = {"float32": "float32 (no TF32)", "bfloat16": "bfloat16, summed in float32"}
    return {
        "hardware": name if devices == 1 else f"{devices} x {name}",
        "matmul_precision": details.get(precision, precision),
        "peak_device_mb": round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if on_cuda else None,
    }

"""Where it is computed: a device is asked for by name, and refused by name if it is not there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def choose(device: str = "cpu", count: int = 1) -> list[torch.device]:
    """``count`` devices: "cpu"; "gpu", "gpu:1" (that one and those after it); "auto" is a GPU or else the CPU.

    On a CPU a device is a process, and there may be any number. ValueError says what there is instead.
    """
    kind, _, first = device.partition(":")
    if kind not in ("auto", "cpu", "gpu") or (first and not (kind == "gpu" and first.isdecimal())):
        raise ValueError(f"unknown device {device!r}; known: auto, cpu, gpu, gpu:0, gpu:1, …")
    if count < 1:
        raise ValueError(f"devices {count}: it is a number of devices, 1 at least")
    found = [] if kind == "cpu" else accelerators()
    if kind == "gpu" and not found:
        build = f"it is built for CUDA {torch.version.cuda}" if torch.version.cuda else "it is not built for CUDA"
        raise ValueError(f"PyTorch finds no GPU for device {device!r} ({build}): choose device 'cpu'")
    if not found:
        return [torch.device("cpu")] * count
    chosen = found[int(first or 0) :][:count]
    if len(chosen) < count:
        names = ", ".join(map(str, found))
        raise ValueError(f"{count} of device {device!r} are asked for, and PyTorch has {len(found)}: {names}")
    return chosen


def accelerators() -> list[torch.device]:
    """GPUs of CUDA or ROCm, Apple's, Intel's: whatever this PyTorch is built for and finds."""
    if not torch.accelerator.is_available():
        return []
    kind = torch.accelerator.current_accelerator().type
    return [torch.device(kind, number) for number in range(torch.accelerator.device_count())]


@dataclass(frozen=True)
class Resident:
    """A dataset on the device, images uint8 (N, h, w, c), labels int32 (N,): only numbers of images travel there."""

    x: Tensor
    y: Tensor

    def __getitem__(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """The images and labels of these numbers (k, n)."""
        there = torch.from_numpy(index).to(self.x.device)
        return self.x[there], self.y[there]


def in_full(device: torch.device, precision: str) -> None:
    """From now on float32 products in full: a GPU's convolutions would else round their factors to TF32's 11 digits."""
    if device.type == "mps" and precision == "float64":
        raise ValueError("Apple's GPUs have no float64: choose float32, or device 'cpu'")
    if device.type == "cuda":
        for library in (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn):
            library.fp32_precision = "ieee"


def facts(device: torch.device, devices: int, precision: str) -> dict[str, Any]:
    """``hardware``, ``products``: their precision, ``peak_device_mb``: 2²⁰ bytes, of this one; None but with CUDA."""
    on_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else device.type
    return {
        "hardware": name if devices == 1 else f"{devices} x {name}",
        "products": {"float32": "float32 (no TF32)", "bfloat16": "bfloat16, summed in float32"}.get(
            precision, precision
        ),
        "peak_device_mb": round(torch.cuda.max_memory_allocated(device) / 2**20, 1) if on_cuda else None,
    }

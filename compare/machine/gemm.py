"""The GEMM peak: how fast a large matmul is in the fastest of the libraries that are compared.

A shared machine has slow minutes, so NumPy's matmul (PyTorch's, on an accelerator) is timed just before and after every
run. The other libraries are timed at the end of their own workers. What a library gains over NumPy's there, the median
over its runs, is taken to hold around every run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from compare import machine
from compare.config import Config

LAPS = 3


def own_gflops(library: str, *, device: str, precision: str, threads: int) -> dict[str, float]:
    """``{library: GFLOP/s}`` of a large matmul in the library that this worker has used, the median of three.

    Empty for NumPy, which its parent times with all cores. In float32 without TF32; on an accelerator in bfloat16
    where that is the precision of the run.
    """
    if library not in MATMULS:
        return {}
    matmul, side = MATMULS[library](device, precision, threads)
    matmul()  # compiles and warms up
    laps = []
    for _ in range(LAPS):
        start = time.perf_counter()
        matmul()
        laps.append(2 * side**3 / (time.perf_counter() - start) / 1e9)
    return {library: round(statistics.median(laps), 1)}


Matmul = tuple[Callable[[], object], int]  # waits for its result; the side of its matrices


def _jax(device: str, precision: str, threads: int) -> Matmul:
    import jax
    import jax.numpy as jnp

    from jax_nn import devices

    (there,) = devices.choose(device)
    kind = _kind(there.platform, precision)
    x = jax.device_put(jnp.asarray(_matrix(there.platform), kind), there)
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision="highest" if kind == "float32" else None))
    return lambda: multiply(x).block_until_ready(), len(x)


def _torch(device: str, precision: str, threads: int) -> Matmul:
    import torch

    from torch_nn import devices

    (there,) = devices.choose(device)
    devices.set_full_precision(there, precision)
    torch.set_num_threads(threads)
    x = torch.from_numpy(_matrix(there.type)).to(there, getattr(torch, _kind(there.type, precision)))

    def matmul() -> None:
        x @ x
        if there.type != "cpu":
            torch.accelerator.synchronize(there)

    return matmul, len(x)


def _tensorflow(device: str, precision: str, threads: int) -> Matmul:
    import tensorflow as tf

    x = tf.constant(_matrix("cpu"))
    return lambda: tf.matmul(x, x).numpy(), len(x)


def _matrix(platform: str) -> np.ndarray:
    side = 2048 if platform == "cpu" else 8192
    return np.random.default_rng(0).standard_normal((side, side), dtype="float32")


def _kind(platform: str, precision: str) -> str:
    return "bfloat16" if precision == "bfloat16" and platform != "cpu" else "float32"


MATMULS: dict[str, Callable[[str, str, int], Matmul]] = {"jax": _jax, "torch": _torch, "tensorflow": _tensorflow}


def around(
    row: Mapping[str, Any], before: list[float], after: list[float], *, environment: dict[str, Any], config: Config
) -> dict[str, float] | None:
    """``matmul_gflops`` of a run or trial that a worker has reported, whose own library is in it already.

    GFLOP/s by library: that, and the reference, NumPy's median of those ``before`` and ``after``, or PyTorch's on the
    accelerators of the run. None if the reference was not measured. ``environment`` keeps the highest on the CPU.
    """
    library = row.get("matmul_gflops") or {}
    if not machine.on_cpu(row.get("hardware")):
        machine.record_peak(environment, *before, *after)
        speed = machine.accelerator_gflops(config.device, config.precision)
        return {name: each * config.devices for name, each in {"torch": speed, **library}.items()} if speed else None
    machine.record_peak(environment, *before, *after, *library.values())
    return {"numpy": statistics.median(before + after), **library} if before or after else None


def set_peaks(rows: Iterable[Any]) -> None:
    """Set ``gemm_gflops`` of runs or trials: the speed of the fastest library's large matmul around each of them.

    And ``gemm_share``, where a row has the ``gflops`` that it reached.

    Each has ``matmul_gflops``, GFLOP/s by library, the reference (NumPy, or PyTorch on an accelerator) always among
    them, or none where nothing was measured. Runs on other hardware or in another precision are other groups.
    """
    groups: dict[tuple[Any, Any], list[Any]] = {}
    for row in rows:
        if row.get("matmul_gflops"):
            groups.setdefault((row.get("hardware"), row.get("precision")), []).append(row)
    for (hardware, _), group in groups.items():
        reference = "numpy" if machine.on_cpu(hardware) else "torch"
        gains: dict[str, list[float]] = {}
        for row in group:
            for library, speed in row["matmul_gflops"].items():
                gains.setdefault(library, []).append(speed / row["matmul_gflops"][reference])
        best = max(map(statistics.median, gains.values()))
        for row in group:
            speeds = row["matmul_gflops"]
            row["gemm_gflops"] = max(best * speeds[reference], *speeds.values())
            if row.get("gflops"):
                row["gemm_share"] = row["gflops"] / row["gemm_gflops"]

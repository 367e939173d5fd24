"""The variants in which people run each track, and one trial of a variant in a fresh process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compare import tracks
from compare.config import Config
from compare.workers.process import Answer, ask
from compare.workers.protocol import Job

ALL = "all"  # stands for the number of cores


@dataclasses.dataclass(frozen=True)
class Variant:
    """A way in which people run a track."""

    track: str
    name: str
    chunk: int | None = None  # steps per call, instead of the trial's
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of init_state
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the process's environment
    module: str | None = None  # called instead of the track

    @property
    def label(self) -> str:
        """``jax scan``."""
        return f"{self.track} {self.name}"

    def fits(self, config: Config, *, threads: int) -> bool:
        """Whether it can be measured: several cores for several processes, a baseline script for this network."""
        if self.name == "processes":
            return threads > 1
        if self.name == "baseline":
            plain = not (config.augment or config.ema or config.lr_scale or config.accumulate > 1)
            optimizers = ("sgd", "momentum", "nesterov") + (("adamw",) if self.track == "torch" else ())
            known = config.optimizer in optimizers and config.precision == "float32"
            here = self.track == "torch" or not (config.device != "cpu" or config.model_args.get("batch_norm"))
            return config.model in ("mlp", "cnn") and plain and known and here
        return True


VARIANTS = (
    Variant("numpy", "plain", arguments={"threads": 1}, variables={"OPENBLAS_NUM_THREADS": ALL}),
    Variant("numpy", "processes", arguments={"threads": ALL}, variables={"OPENBLAS_NUM_THREADS": "1"}),
    Variant("jax", "jit", chunk=1),
    Variant("jax", "scan"),
    Variant("torch", "eager"),
    Variant("torch", "compiled", arguments={"compile": True}),
    Variant("torch", "baseline", module="compare.benchmark.baseline_torch"),
    Variant(
        "tensorflow", "baseline", module="compare.benchmark.baseline_keras", variables={"TF_CPP_MIN_LOG_LEVEL": "3"}
    ),
)
FAST = ("numpy processes", "jax scan", "torch eager")  # where one variant of each track is enough, on several cores


def of_tracks(names: Sequence[str]) -> list[Variant]:
    """The variants of these tracks."""
    return [variant for variant in VARIANTS if variant.track in names]


def measure(config: Config, variant: Variant, *, threads: int, chunk: int | None, folder: Path, **how: Any) -> Answer:
    """One trial in a fresh process: who was measured, and the figures of ``trial.run`` or ``error``.

    Args:
        config: what to train, for how long.
        variant: how to run it.
        threads: cores to use, of those that this process may use.
        chunk: steps per call unless the variant sets them; None leaves it to ``training.steps.plan``.
        folder: where the log goes; the next trial overwrites it.
        how: further arguments of ``trial.run``.
    """
    given = {name: threads if value == ALL else value for name, value in variant.arguments.items()}
    job = Job(
        config=config,
        track=variant.track,
        threads=threads,
        folder=folder / "nothing-is-saved",
        chunk=variant.chunk or chunk,
        arguments=given,
    )
    wanted = {name: str(threads) if value == ALL else value for name, value in variant.variables.items()}
    answer = ask(
        "compare.benchmark.trial",
        job={"job": job.to_json(), "module": variant.module, **how},
        variables=tracks.environment(variant.track, config, threads=threads) | tracks.COLD | wanted,
        log=folder / "log.txt",
    )
    return {"preset": config.preset, "track": variant.track, "variant": variant.name, **answer}


def time_layers(config: Config, track: str, *, folder: Path) -> Answer:
    """Time every layer of a network by itself, in a fresh process of one thread: ``layers`` or ``error``."""
    return ask(
        "compare.benchmark.trial",
        job={"layers": config.to_json(), "track": track},
        variables=tracks.environment(track, config, threads=1) | tracks.COLD | {"OPENBLAS_NUM_THREADS": "1"},
        log=folder / "log.txt",
    )


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Restrict this process, and those it starts, to the first ``count`` of its cores.

    Process affinity is the one limit that the thread pools of NumPy, XLA and PyTorch all obey. Where the system has
    none, only the thread counts limit them.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)

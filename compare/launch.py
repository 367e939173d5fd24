"""One training on the devices of many processes, on one machine or several, started by the tools that people have.

    torchrun --nproc-per-node 2 -m compare.launch mlp-mnist --track torch --out DIR
    python -m compare.launch mlp-mnist --track jax --coordinator HOST:PORT --processes 2 --process 0 --out DIR

Every process runs this same command (docs/scaling.md has it for Slurm, Kubernetes and ssh), makes the same batches, and
computes its own shard of each; process 0 reports, and writes the trained network to DIR/PRESET-TRACK.npz.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import devices, machine, presets, tracks
from compare.clocks import Timings
from compare.config import Config
from compare.errors import UserError, command_line
from compare.jobs import Job


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m compare.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("preset", metavar="PRESET")
    options.add_argument("--track", choices=("jax", "torch"), required=True)
    options.add_argument(
        "--steps", type=int, metavar="N", help="exact number of updates (default: as the preset has it)"
    )
    options.add_argument("--batch-size", type=int, metavar="N", help="of all processes together")
    options.add_argument("--precision", choices=("float32", "float64", "bfloat16"))
    options.add_argument("--device", type=devices.parse, default="cpu", help="auto, cpu or gpu (default: cpu)")
    options.add_argument("--out", type=Path, required=True, metavar="DIR")
    options.add_argument("--timeout", type=int, default=60, metavar="S", help="seconds to wait for the others (60)")
    jax = options.add_argument_group("JAX, where no Slurm, MPI or Kubernetes says it")
    jax.add_argument("--coordinator", metavar="HOST:PORT", help="an address of process 0")
    jax.add_argument("--processes", type=int, metavar="N")
    jax.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")
    return options


def join(options: argparse.Namespace) -> tuple[int, int]:
    """Find the others: this process's number, and that of all devices."""
    module = importlib.import_module(f"{options.track}_nn.launch")
    try:
        if options.track == "torch":
            return module.join(options.device, timeout=options.timeout)
        given = {"processes": options.processes, "process": options.process}
        return module.join(options.coordinator, **given, timeout=options.timeout)
    except (TimeoutError, ValueError) as error:
        raise UserError(str(error)) from error


def train(config: Config, job: Job, *, report: bool) -> tuple[dict[str, Any], Any]:
    """Train to the end, the same in every process; returns the figures, and the trained snapshot."""
    from compare import runner

    timings, track = Timings(), tracks.load(job.track)
    training = runner.begin(job, track, timings, lambda event: None)
    while not training.finished:
        chunk = training.chunk()
        if report:
            pace = f"loss {chunk['loss'][-1]:.4f}  {chunk['images_per_second']:,.0f} images/s"
            print(f"step {chunk['step']:,} of {training.schedule.steps:,}  {pace}", flush=True)
        if training.step in training.schedule.evaluations:
            training.evaluation(chunk)
    return training.result() | track.device_facts(training.state), track.to_snapshot(training.state)


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the network was trained, 2 for a wrong question."""
    options = parser().parse_args(arguments)
    named = ("steps", "batch_size", "precision", "device")
    given = {name: value for name in named if (value := getattr(options, name)) is not None}
    config = dataclasses.replace(presets.get(options.preset), **given)
    os.environ.update(tracks.environment(options.track, config, threads=machine.cores()))
    rank, world = join(options)
    config = dataclasses.replace(config, devices=world)
    devices.require_shards(config)
    arguments_of_track = {"parallel": "shard_map"} if options.track == "jax" else {}
    job = Job(config, options.track, machine.cores(), options.out / "none", arguments=arguments_of_track)
    figures, snapshot = train(config, job, report=rank == 0)
    if rank == 0:
        from compare.data import load
        from compare.networks import write_npz

        data = load(config.dataset, data_dir=config.data_dir)
        meta = {"config": config.to_json(), "track": options.track, "mean": list(data.mean), "std": list(data.std)}
        path = options.out / f"{config.preset}-{options.track}.npz"
        write_npz(path, {"params": snapshot.get("ema") or snapshot["params"], "stats": snapshot["stats"]}, meta)
        print(f"{path}: test accuracy {figures['test_accuracy']:.2%}, {world} devices ({figures['hardware']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())

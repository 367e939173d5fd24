"""Train one network with multiple processes, on one machine or several, as torchrun, Slurm or MPI start them.

    torchrun --nproc-per-node 2 -m compare.launch mlp-mnist --tracks torch --out DIR
    python -m compare.launch mlp-mnist --tracks jax --coordinator HOST:PORT --processes 2 --process 0 --out DIR

Every process runs this command (see docs/devices.md for Slurm, Kubernetes and ssh), generates the same batches, and
computes its shard of each. Process 0 reports, saves to DIR/checkpoints, and writes the trained network to
DIR/PRESET-TRACK.npz. If a process is lost, the others end and name it; the same command resumes from the last
checkpoint. NumPy's processes share the memory of one machine: `python -m compare.run_all --devices N` starts them.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from compare import cli, machine, overrides, presets, tracks
from compare.cli import command_line
from compare.errors import UserError
from compare.launch import rendezvous
from compare.workers.protocol import Event, Job

FLAGS = ("epochs", "steps", "batch_size", "lr", "dataset", "data_dir", "precision", "device")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("launch", __doc__)
    cli.group(options, "what to train").add_argument("preset", metavar="PRESET", help="see compare.run_all --list")
    cli.add_track(options, known=("jax", "torch"))
    cli.add_settings(options, *FLAGS)
    cli.add_saving(options)
    cli.add_output(options, required=True)
    processes = cli.group(options, "processes")
    processes.add_argument(
        "--timeout",
        type=cli.number(int),
        default=60,
        metavar="SECONDS",
        help="time to wait for the other processes (default: 60)",
    )
    jax = cli.group(options, "JAX processes, if not started by Slurm or MPI")
    jax.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    jax.add_argument("--processes", type=cli.number(int), metavar="N", help="number of processes")
    jax.add_argument("--process", type=cli.number(int, 0), metavar="N", help="rank of this process, from 0")
    return options


REMEDY = "start all processes again with the same command: training resumes from the last checkpoint"


def join(options: argparse.Namespace) -> tuple[Any, int, int]:
    """Join the other processes; return the track's launch module, this process's rank and the number of devices.

    Raises UserError if they do not join before the timeout.
    """
    module = importlib.import_module(f"{options.track}_nn.launch")
    try:
        if options.track == "torch":
            return module, *module.join(options.device or "cpu", timeout=options.timeout, on_loss=lost)
        given = {"processes": options.processes, "process": options.process}
        return module, *module.join(options.coordinator, **given, timeout=options.timeout, on_loss=lost)
    except (TimeoutError, ValueError) as error:
        raise UserError(str(error)) from error


def train(job: Job, *, process: int, all_gather: rendezvous.AllGather) -> tuple[dict[str, Any], Any]:
    """Train in every process and save in process 0; return the figures and their snapshot."""
    from compare.training import loop, worker
    from compare.training.clocks import Timings
    from compare.training.saver import Saver

    def tell(text: str) -> None:
        if process == 0:
            print(text, flush=True)

    track, find = tracks.load(job.track), partial(rendezvous.found_by_all, process=process, all_gather=all_gather)
    training = worker.begin(job, track, Timings(), lambda event: tell(event["text"]), find=find)
    training.alone = False  # process 0 saves while the others train on
    if training.resumed:
        tell(f"resuming from {training.resumed[-1]['checkpoint']}")

    def report(event: Event) -> None:
        if event["event"] == "chunk":
            pace = f"loss {event['loss'][-1]:.4f}  {event['images_per_second']:,.0f} images/s"
            tell(f"step {event['step']:,} of {training.schedule.steps:,}  {pace}")

    if process == 0:
        with Saver(job, training) as saver:
            loop.train(training, report, save=saver.save_if_due)
            saver.finish()
    else:
        loop.train(training)
    result = training.best_state or training.saved_state()
    return training.result() | track.device_facts(training.state), result.snapshot


def lost(why: str, *, status: int = 1) -> NoReturn:
    """Exit at once, because a normal exit would wait for the lost process."""
    print(f"error: {why}" + (f"; {REMEDY}" if status == 1 else ""), file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def fail(error: Exception, module: Any, process: int) -> NoReturn:
    """Send the others this process's error, or receive theirs, and end."""
    own = f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    others = module.leave(error, f"process {process} on {socket.gethostname()} ended: {own}")
    if isinstance(error, UserError):
        lost(own, status=2)
    if not others:
        traceback.print_exception(error)
    lost("; ".join(others) or own)


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Train; return 0, 2 for invalid arguments, 1 if this process or another was lost."""
    options = parser().parse_args(arguments)
    config = dataclasses.replace(presets.get(options.preset), **cli.given(options))
    overrides.require_arguments(config)
    os.environ.update(tracks.environment(options.track, config, threads=machine.cores()))
    module, process, world = join(options)
    config = dataclasses.replace(config, devices=world)
    name = f"{config.preset}-{options.track}"
    job = Job(
        config,
        options.track,
        machine.cores(),
        folder=options.out / "checkpoints" / name,
        save_every=options.save_every,
        keep=options.keep,
        arguments={"parallel": "shard_map"} if options.track == "jax" else {},
    )
    try:
        tracks.require_shards(config)
        figures, snapshot = train(job, process=process, all_gather=module.exchange)
        if process == 0:
            path = write(snapshot, job, options.out / f"{name}.npz")
            print(f"{path}: test accuracy {figures['test_accuracy']:.2%}, {world} devices ({figures['hardware']})")
    except KeyboardInterrupt:
        lost("stopped", status=130)
    except Exception as error:
        fail(error, module, process)
    module.leave()
    return 0


def write(snapshot: Any, job: Job, path: Path) -> Path:
    """Write the trained network as a file that ``compare.predict`` reads, and return its path."""
    from compare.data import load
    from compare.training.saver import facts
    from compare.weights.npz import write_npz

    config = job.config
    data = load(config.dataset, data_dir=config.data_dir)
    meta = {"config": config.to_json(), "track": job.track, **facts(data)}
    write_npz(path, {"params": snapshot.get("ema") or snapshot["params"], "stats": snapshot["stats"]}, meta)
    return path


if __name__ == "__main__":
    sys.exit(main())

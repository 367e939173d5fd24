"""Measure the data loaders: the same batches, in fresh processes that take turns.

    python -m compare.loaders                                 MNIST, all five loaders, three repeats
    python -m compare.loaders cifar10 --loaders memory torch  another dataset, fewer loaders
    python -m compare.loaders --tracks jax --repeats 5        train with another track

Each loader first delivers one epoch as fast as it can, then supplies a training of mlp-mnist's network. No figures
are shown for a loader whose batches differ from the others'; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import shlex
import statistics
import sys
from collections.abc import Sequence
from typing import Any, cast

from compare import cli, machine, presets
from compare.cli import LOADERS, command_line
from compare.errors import UserError
from compare.files import write_json
from compare.loaders import report
from compare.loaders.results import KIND, NAME, SCHEMA, Loaders, Trial, problems

K, BATCH_SIZE = 32, 128  # steps of a chunk, images of a step
CHUNKS = 12  # timed: about an epoch of MNIST
WRITES = {"tfds", "tfdata"}  # these write files when they first run, which is not timed


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("loaders", __doc__, what="data")
    options.add_argument(
        "dataset", nargs="?", type=cli.dataset, default="mnist", metavar="DATASET", help="default: mnist"
    )
    options.add_argument(
        "--loaders", nargs="+", type=cli.each(cli.one_of("loader", LOADERS)), action=cli.Several, default=list(LOADERS),
        metavar="NAME", help=f"{', '.join(LOADERS)} (default: all)",
    )  # fmt: skip
    cli.add_settings(options, "data_dir")
    cli.add_track(options, default="numpy")
    cli.group(options, "what to train").add_argument(
        "--repeats", type=cli.number(int), default=3, metavar="N", help="fresh processes for each loader (default: 3)"
    )
    cli.add_output(options, default="loaders-")
    cli.add_json(options, f"the content of {NAME}")
    return options


def delivered(loader: str, options: argparse.Namespace, *, chunks: int = CHUNKS) -> dict[str, Any]:
    """The figures of ``trial.run`` in a fresh process, or ``error``."""
    from compare.workers import process

    job = {"loader": loader, "dataset": options.dataset, "data_dir": options.data_dir}
    size = {"batch_size": BATCH_SIZE, "k": K, "chunks": chunks}
    threads = {"OMP_NUM_THREADS": str(machine.cores())}
    return process.ask("compare.loaders.trial", job=job | size, variables=threads, log=options.out / "log.txt")


def measured(loader: str, number: int, options: argparse.Namespace) -> Trial:
    """Measure one loader once: its throughput, and a training with it, each in a fresh process."""
    from compare.benchmark import variants

    delivery = delivered(loader, options)
    if "error" in delivery:
        return {"loader": loader, "repeat": number, "error": delivery["error"]}
    config = dataclasses.replace(
        presets.get("mlp-mnist"),
        dataset=options.dataset,
        data_dir=options.data_dir,
        loader=loader,
        model_args={"input_shape": delivery["shape"], "classes": delivery["classes"]},
        steps=K * CHUNKS,
        batch_size=BATCH_SIZE,
        lr=0.1,
    )
    variant = variants.Variant(options.track, "as in run_all")
    how = {"threads": machine.cores(), "chunk": K, "evaluate": False, "breakdown": False}
    trained = variants.measure(config, variant, folder=options.out, **how)
    if "error" in trained:
        return {"loader": loader, "repeat": number, "error": trained["error"]}
    figures = {"step_ms": statistics.median(trained["step_ms"]), "input_share": trained["input_share"]}
    return cast(Trial, {"loader": loader, "repeat": number, **delivery, **figures})


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all loaders gave the same batches, 1 if one did not, 2 for a usage error, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    from rich.console import Console

    command = shlex.join(["python", "-m", "compare.loaders", *arguments])
    with cli.figures(options.json) as show:
        found, status = measure(options, command)
        show({"folder": str(options.out), **found}, lambda: report.show(found, Console()))
        print(options.out / NAME)
    return status or (1 if problems(found["trials"]) else 0)


def measure(options: argparse.Namespace, command: str) -> tuple[Loaders, int]:
    """Measure all that was asked for; what was measured before Ctrl-C, and 130, if it came."""
    from compare.data import load, loaders

    for loader in options.loaders:
        loaders.require(loader)
    data = load(options.dataset, data_dir=options.data_dir)
    if data.train_x.ndim == 2:
        raise UserError(f"{data.name} is a text, and this command trains a network of images: choose another dataset")
    if len(data.train_x) < BATCH_SIZE:
        few = f"{data.name} has {len(data.train_x)} training images, fewer than a batch of {BATCH_SIZE}"
        raise UserError(f"{few}: choose a larger dataset")
    options.out = cli.output_folder(options.out, "loaders-")
    cli.require_writable(options.out)
    print(data.describe())
    options.out.mkdir(parents=True, exist_ok=True)
    found = begin(options, command)
    try:
        run(options, found)
    except KeyboardInterrupt:
        print("\nStopped; the processes that have ended are reported.")
        return found, 130
    return found, 0


def begin(options: argparse.Namespace, command: str) -> Loaders:
    """The content of loaders.json before anything has been measured."""
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "environment": machine.describe(threads=machine.cores()),
        "dataset": options.dataset,
        "track": options.track,
        "loaders": options.loaders,
        "trials": [],
    }


def run(options: argparse.Namespace, found: Loaders) -> None:
    """Measure the loaders in turns, A B C A B C; write the file after each measurement."""
    for loader in WRITES & set(options.loaders):
        delivered(loader, options, chunks=2)
    for number in range(options.repeats):
        for loader in options.loaders:
            trial = measured(loader, number, options)
            found["trials"].append(trial)
            outcome = trial.get("error") or f"{trial['images_per_second']:,.0f} images/s"
            print(f"{number + 1}/{options.repeats}  {loader:<6}  {outcome}", flush=True)
            write_json(options.out / NAME, found)


if __name__ == "__main__":
    sys.exit(main())

"""The loaders side by side: the same batches, in fresh processes that take turns.

python -m compare.loaders                                 MNIST, all five, three repeats
python -m compare.loaders cifar10 --loaders memory torch  others, fewer
python -m compare.loaders --track jax --repeats 5         what a step waits for its images in another track

Every loader delivers one epoch as fast as it can, and then feeds the training of the MLP of mlp-mnist. Whose
checksum is not that of all the others has no figures, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import machine, presets
from compare.cli import LOADERS, TRACKS, command_line
from compare.errors import UserError

K, BATCH_SIZE = 32, 128  # steps of a chunk, images of a step
CHUNKS = 12  # timed ones, with the images of about an epoch of MNIST
WRITES = {"tfds", "tfdata"}  # files, the first time: before anything is timed
Results = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m compare.loaders", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("dataset", nargs="?", default="mnist", metavar="DATASET", help="default: mnist")
    options.add_argument("--loaders", nargs="+", choices=LOADERS, default=list(LOADERS), metavar="NAME")
    options.add_argument("--repeats", type=int, default=3, metavar="N", help="fresh processes for each (default: 3)")
    options.add_argument("--track", choices=TRACKS, default="numpy", help="what trains (default: numpy)")
    options.add_argument("--data-dir", metavar="DIR", help="where datasets are that do not ship (or set NN_DATA_DIR)")
    options.add_argument("--out", type=Path, metavar="DIR", help="where loaders.json goes (default: runs/loaders-DATE)")
    return options


def delivered(loader: str, options: argparse.Namespace, *, chunks: int = CHUNKS) -> Results:
    """What a loader delivers, in a fresh process."""
    from compare.workers import process

    job = {"loader": loader, "dataset": options.dataset, "data_dir": options.data_dir}
    size = {"batch_size": BATCH_SIZE, "k": K, "chunks": chunks}
    threads = {"OMP_NUM_THREADS": str(machine.cores())}
    return process.ask("compare.loaders.trial", job=job | size, variables=threads, log=options.out / "log.txt")


def measured(loader: str, number: int, options: argparse.Namespace) -> Results:
    """One loader once: its delivery, and the training that it feeds, in a fresh process each."""
    from compare.benchmark import variants

    delivery = delivered(loader, options)
    if "error" in delivery:
        return {"loader": loader, "repeat": number, **delivery}
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
    usual = variants.Variant(options.track, "as in run_all")
    how = {"threads": machine.cores(), "chunk": K, "evaluate": False, "breakdown": False}
    trained = variants.measure(config, usual, folder=options.out, **how)
    if "error" in trained:
        return {"loader": loader, "repeat": number, "error": trained["error"]}
    step = {"step_ms": statistics.median(trained["step_ms"]), "input_share": trained["input_share"]}
    return {"loader": loader, "repeat": number, **delivery, **step}


def problems(trials: Sequence[Results]) -> dict[str, str]:
    """Why a loader has no figures: it failed, or its batches are not those of the first."""
    first = next((trial for trial in trials if "checksum" in trial), None)
    found = {}
    for trial in trials:
        if "error" in trial:
            found[trial["loader"]] = trial["error"]
        elif first and trial["checksum"] != first["checksum"]:
            found[trial["loader"]] = f"its batches are not those of {first['loader']}"
    return found


def table(results: Results) -> Any:
    """Medians over the repeats."""
    from rich.table import Table

    shown = Table(
        title=f"{results['dataset']}, batches of {BATCH_SIZE}; a step of mlp-mnist's network in {results['track']}"
    )
    shown.add_column("loader")
    for name in ("images/s", "start s", "MB", "step ms", "of it waiting"):
        shown.add_column(name, justify="right")
    wrong = problems(results["trials"])
    for loader in results["loaders"]:
        trials = [trial for trial in results["trials"] if trial["loader"] == loader]
        if loader in wrong:
            shown.add_row(loader, *["-"] * 5)
            continue

        def median(name: str, trials: list[Results] = trials) -> float:
            return statistics.median(trial[name] for trial in trials)

        shown.add_row(
            loader,
            f"{median('images_per_second'):,.0f}",
            f"{median('start_seconds'):.1f}",
            f"{median('memory_mb'):.0f}",
            f"{median('step_ms'):.2f}",
            f"{median('input_share'):.1%}",
        )
    return shown


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all loaders gave the same batches, 1 if one did not, 2 for a wrong question."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: at least 1")
    from rich.console import Console

    from compare.data import load, loaders

    for loader in options.loaders:
        loaders.require(loader)
    options.data_dir = str(Path(options.data_dir).resolve()) if options.data_dir else None
    options.out = options.out or Path("runs", f"loaders-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    options.out.mkdir(parents=True, exist_ok=True)
    print(load(options.dataset, data_dir=options.data_dir).describe())
    for loader in WRITES & set(options.loaders):
        delivered(loader, options, chunks=2)
    results: Results = {
        "schema": 1,
        "kind": "loaders",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "compare.loaders", *arguments]),
        "environment": machine.describe(threads=machine.cores()),
        "dataset": options.dataset,
        "track": options.track,
        "loaders": options.loaders,
        "trials": [],
    }
    for number in range(options.repeats):
        for loader in options.loaders:
            trial = measured(loader, number, options)
            results["trials"].append(trial)
            said = trial.get("error") or f"{trial['images_per_second']:,.0f} images/s"
            print(f"{number + 1}/{options.repeats}  {loader:<6}  {said}", flush=True)
            (options.out / "loaders.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    Console().print(table(results))
    wrong = problems(results["trials"])
    for loader, problem in wrong.items():
        print(f"{loader}: {problem}")
    print(options.out / "loaders.json")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

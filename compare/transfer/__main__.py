"""``python -m compare.transfer``: train in one process per track, in turn, and report."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compare import machine
from compare.cli import told
from compare.config import Config
from compare.data import DATASETS
from compare.errors import UserError
from compare.progress import Progress
from compare.results import name_of
from compare.tracks import TRACKS, environment
from compare.transfer import methods, report, results
from compare.workers.process import Worker
from compare.workers.protocol import Event, received


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m compare.transfer",
        description="Learn a new task from few labels: from scratch, by a linear probe, and by fine-tuning.",
    )
    tasks = options.add_subparsers(dest="task", required=True)
    digits = tasks.add_parser(
        "digits", help="MNIST: pretrain on the digits 0 to 4, transfer to 5 to 9 (offline, about 3 minutes)"
    )
    digits.add_argument("--labels", type=int, default=10, metavar="N", help="labels per class (default: %(default)s)")
    to = tasks.add_parser("to", help="transfer a published network to few labels of a dataset")
    to.add_argument("dataset", metavar="DATASET", help=f"{', '.join(DATASETS)} or folder:PATH")
    to.add_argument("--pretrained", required=True, metavar="NAME", help="torchvision:resnet18, or resnet20:FILE")
    to.add_argument(
        "--fraction",
        type=float,
        default=0.01,
        metavar="X",
        help="share of the labels that is used (default: %(default)s)",
    )
    to.add_argument("--size", type=int, metavar="PIXELS", help="image size, instead of the network's own")
    to.add_argument("--data-dir", metavar="DIR", help="where the dataset is (or set NN_DATA_DIR)")
    for task, seeds in ((digits, range(5)), (to, range(1))):
        text = " ".join(map(str, seeds))
        task.add_argument("--tracks", nargs="+", choices=list(TRACKS), default=list(TRACKS), metavar="TRACK")
        task.add_argument("--seeds", type=int, nargs="+", default=list(seeds), metavar="S", help=f"default: {text}")
        task.add_argument("--steps", type=int, metavar="N", help="steps of each training, instead of the recipe's")
        task.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: runs/transfer-DATE_TIME)")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all went well, 2 for a usage error, 130 after Ctrl-C; seeds that have ended are always reported."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--work"]:
        return work()
    options = vars(parser().parse_args(given))
    task, seeds, out = (options.pop(name) for name in ("task", "seeds", "out"))
    names = [track for track in TRACKS if track in options["tracks"]]
    del options["tracks"]
    if options.get("data_dir"):
        options["data_dir"] = str(Path(options["data_dir"]).resolve())
    out = out or Path("runs", f"transfer-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    threads = machine.cores()
    rows: list[Any] = []
    status = 0
    with Progress() as progress, tempfile.TemporaryDirectory() as cache:
        try:
            for track in names:
                job = {"task": task, "track": track, "seeds": list(dict.fromkeys(seeds)), "threads": threads}
                log = out / "logs" / f"{track}.log"
                with worker(job | {"options": options}, cache=Path(cache), log=log) as at_work:
                    for row in watch(at_work.events(), progress):
                        rows.append(row)
        except UserError as error:
            status = told(error)
        except KeyboardInterrupt:
            progress.note("Stopped; the seeds that have ended are reported.")
            status = 130
        if rows:
            command = ["python", "-m", "compare.transfer", *given]
            found = results.results(rows, task=task, options=options, command=command, threads=threads)
            written = report.write(found, out)
            progress.note(report.text(found))
            progress.note(f"written: {', '.join(map(str, written))}")
    return status


def watch(events: Iterator[Event], progress: Progress) -> Iterator[Event]:
    """Show the events of a worker and yield the rows of each seed that has ended."""
    label, step = "", 0
    for event in events:
        if event["event"] == "begin":
            label, step = event["label"], 0
            progress.begin(label, event["steps"])
        elif event["event"] == "chunk":
            step += event["steps"]
            progress.update(step, loss=event["loss"])
        elif event["event"] == "rows":
            last = {row["method"]: row["accuracy"] for row in event["rows"]}
            yield from event["rows"]  # before the line below appears: an interruption then does not lose them
            progress.end(label, ", ".join(f"{method} {100 * value:.2f} %" for method, value in last.items()))
        elif event["status"] == "failed":
            raise UserError(event["message"])


# --- the worker and its parent ----------------------------------------------------------------------------------------


def worker(job: Event, *, cache: Path, log: Path) -> Worker:
    """A process for the trainings of one track.

    JAX keeps its compiled programs in the folder ``cache``, because all seeds run the same ones.
    """
    config = Config(preset="", model="", dataset="", promise="")
    variables = environment(job["track"], config, threads=job["threads"]) | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return Worker("compare.transfer", "--work", job=job, variables=variables, log=log)


def work() -> int:
    """Run the job on standard input."""
    job, emit = received()
    try:
        for seed in job["seeds"]:
            steps = methods.total_steps(job["task"], job["options"]["steps"])
            emit({"event": "begin", "label": f"{name_of(job['track'])}, seed {seed}", "steps": steps})
            how = {"seed": seed, "threads": job["threads"], "emit": emit}
            emit({"event": "rows", "rows": methods.TASKS[job["task"]](job["track"], **how, **job["options"])})
        emit({"event": "end", "status": "finished"})
    except UserError as error:
        emit({"event": "end", "status": "failed", "message": str(error)})
    return 0


if __name__ == "__main__":
    sys.exit(main())

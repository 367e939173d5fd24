"""Train on few labels, from a random init and from a pretrained network, in one process per track.

python -m compare.transfer digits
python -m compare.transfer to fashion-mnist --pretrained resnet20:resnet20-cifar10.th --data-dir DIR
python -m compare.transfer to folder:PHOTOS --pretrained torchvision:resnet18 --size 64
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compare import cli, machine
from compare.cli import command_line
from compare.config import Config
from compare.errors import UserError
from compare.progress import Progress
from compare.report.style import name_of
from compare.tracks import TRACKS, environment
from compare.transfer import methods, report, results
from compare.workers.process import Worker
from compare.workers.protocol import Event, received


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("transfer", __doc__)
    tasks = options.add_subparsers(dest="task", required=True)
    text = "MNIST: pretrain on the digits 0 to 4, transfer to 5 to 9 (offline, about 3 minutes)"
    digits = tasks.add_parser("digits", help=text, description=text)
    text = "transfer a published network to few labels of a dataset"
    to = tasks.add_parser("to", help=text, description=text)
    for task, seeds in ((digits, range(5)), (to, range(1))):
        cli.add_tracks(task)
        cli.add_seeds(task, default=list(seeds), what="one training of each method")
        cli.group(task, "what to train").add_argument(
            "--steps",
            type=cli.setting("steps"),
            metavar="N",
            help="steps of each training (default: those of the recipe)",
        )
        cli.add_output(task, default="transfer-")
        cli.add_json(task, f"the content of {results.NAME}")
    digits.add_argument(
        "--labels", type=cli.number(int), default=10, metavar="N", help="labels per class (default: 10)"
    )
    to.add_argument("dataset", type=cli.dataset, metavar="DATASET", help="mnist, fashion-mnist, cifar10 or folder:PATH")
    to.add_argument(
        "--pretrained",
        required=True,
        type=cli.pretrained,
        metavar="NAME",
        help="torchvision:resnet18, or resnet20:FILE",
    )
    to.add_argument(
        "--fraction", type=cli.number(float, 0, 1, above=True), default=0.01, metavar="X",
        help="share of the labels, above 0 to 1 (default: 0.01)",
    )  # fmt: skip
    to.add_argument(
        "--size",
        type=cli.number(int, 1, 4096),
        metavar="PIXELS",
        help="side of the images (default: the network's own)",
    )
    cli.add_settings(to, "data_dir")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all went well, 2 for a usage error, 130 after Ctrl-C; seeds that have ended are always reported."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--work"]:
        return work()
    options = vars(parser().parse_args(given))
    task, seeds, out, as_json = (options.pop(name) for name in ("task", "seeds", "out", "json"))
    names = [track for track in TRACKS if track in options["tracks"]]
    del options["tracks"]
    out = cli.output_folder(out, "transfer-")
    cli.require_writable(out)
    threads = machine.cores()
    rows: list[Any] = []
    status = 0
    with cli.figures(as_json) as show, Progress() as progress, tempfile.TemporaryDirectory() as cache:
        try:
            for track in names:
                job = {"task": task, "track": track, "seeds": seeds, "threads": threads}
                log = out / "logs" / f"{track}.log"
                with worker(job | {"options": options}, cache=Path(cache), log=log) as at_work:
                    for row in watch(at_work.events(), progress):
                        rows.append(row)
        except UserError as error:
            status = cli.report(error)
        except KeyboardInterrupt:
            progress.note("Stopped; the seeds that have ended are reported.")
            status = 130
        if rows:
            command = ["python", "-m", "compare.transfer", *given]
            found = results.results(rows, task=task, options=options, command=command, threads=threads)
            written = report.write(found, out)
            show({"folder": str(out), **found}, lambda: progress.note(report.text(found)))
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
            step += len(event["loss"])
            progress.update(step, loss=event["loss"][-1])
        elif event["event"] == "rows":
            last = {row["method"]: row["accuracy"] for row in event["rows"]}
            yield from event["rows"]  # before the line below appears: an interruption then does not lose them
            progress.end(label, ", ".join(f"{method} {100 * value:.2f} %" for method, value in last.items()))
        elif event.get("status") == "failed":
            raise UserError(event["message"])


# --- the worker and its parent ----------------------------------------------------------------------------------------


def worker(job: Event, *, cache: Path, log: Path) -> Worker:
    """A process for the trainings of one track.

    JAX keeps its compiled programs in the folder ``cache``, because all seeds run the same ones.
    """
    config = Config(preset="", model="", dataset="")
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

"""Measure the time from a cold start to a test accuracy in each track, over many seeds.

    python -m compare.record speedrun-mnist --seeds 20                    99 % of the test images
    python -m compare.record mlp-mnist --tracks numpy jax torch           98.3 %, without the plain scripts
    python -m compare.record cnn-mnist --against COMMIT                   also the tracks of another commit, in turn

The time includes the start of Python, imports, data, compilation, training and the test. Plain scripts in PyTorch and
Flax, as a user would write them, are measured as baselines. The command writes one JSON entry to docs/records/; `python
-m compare.entries write` makes docs/records.md from all entries.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import cli, machine, presets
from compare.cli import TRACKS, command_line
from compare.errors import require_packages
from compare.record import results
from compare.record.results import SCRIPTS, TARGETS, Entry, Row
from compare.statistics import p_above


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("record", __doc__, what="what to train")
    known = ", ".join(f"{name} ({100 * target:g} %%)" for name, target in TARGETS.items())
    options.add_argument(
        "preset", type=cli.one_of("preset of a record", list(TARGETS)), metavar="PRESET", help=known
    )  # fmt: skip
    cli.add_tracks(options, default=(*TRACKS, *SCRIPTS), extra=tuple(SCRIPTS))
    training = cli.group(options, "what to train")
    training.add_argument(
        "--seeds", type=cli.number(int), default=20, metavar="N", help="number of seeds (default: 20)"
    )
    training.add_argument(
        "--against", metavar="COMMIT", help="also measure the tracks of this commit, such as that of the current record"
    )
    cli.group(options, "output").add_argument(
        "--out", type=cli.output, metavar="FILE", help="the entry (default: a new file in docs/records/, or here)"
    )
    cli.add_json(options, "the entry")
    return options


def begin(options: argparse.Namespace, command: str) -> Entry:
    """The entry before anything has been measured."""
    from compare.record.measure import git

    facts: Any = machine.facts(threads=machine.cores())
    here = facts["git_commit"]
    against = git("rev-parse", f"{options.against}^{{commit}}") if options.against else None
    rows: list[Row] = [{"name": name, "commit": here, "runs": []} for name in options.tracks]
    if against:
        rows += [{"name": name, "commit": against, "runs": []} for name in options.tracks if name in TRACKS]
    return {
        "schema": 1,
        "kind": "record",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "preset": options.preset,
        "config": presets.get(options.preset).to_json(),
        "target": TARGETS[options.preset],
        "seeds": options.seeds,
        "against": against,
        "environment": facts,
        "rows": rows,
    }


def file_of(entry: Entry) -> Path:
    """Where an entry is written by itself: with the others, or here if the project is installed as a package.

    Preset, processor, time and commit are its name.
    """
    from compare.workers.process import ROOT

    docs = ROOT / "docs"
    cpu = re.sub(r"[^a-z0-9]+", "-", entry["environment"]["cpu"].lower()).strip("-")
    time = re.sub(r"[^0-9]", "", entry["created"])[:12]
    name = f"{entry['preset']}-{cpu}-{time}-{(entry['rows'][0]['commit'] or 'none')[:7]}.json"
    return (docs / "records" if docs.is_dir() else Path.cwd()) / name


def shown(entry: Entry) -> str:
    """The table of one entry: seconds and accuracy of each row, and p of the target."""
    from compare.benchmark.tables import table
    from compare.entries.pages import of_rung

    head = ("row", "commit", "n", "cold seconds", "test accuracy", f"p (above {entry['target']:.1%})")
    return table(head, [of_rung(rung) for rung in results.ladder([entry])])


def measured(entry: Entry) -> bool:
    """Fill in the runs, the other commit checked out beside this one; False if it was interrupted."""
    from compare.record.measure import checkout, measure
    from compare.workers.process import ROOT

    roots: dict[str | None, Path] = {entry["environment"]["git_commit"]: ROOT}
    with contextlib.ExitStack() as stack:
        if (against := entry["against"]) and against not in roots:
            roots[against] = stack.enter_context(checkout(against))
        try:
            measure(entry, roots, lambda text: print(text, flush=True))
        except KeyboardInterrupt:
            print("\nStopped; the seeds that have ended are kept.")
            return False
    return True


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every track reaches the target at p < 0.01, else 1; 2 for a usage error, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(arguments)
    from compare.files import write_json
    from compare.training import preflight
    from compare.workers.process import ROOT

    if "plain-nnx" in options.tracks:
        require_packages("plain-nnx", "tensorflow", extra="tensorflow")
    names = [name for name in options.tracks if name in TRACKS]
    preflight.require([presets.get(options.preset)], names, folder=ROOT)
    entry = begin(options, shlex.join(["python", "-m", "compare.record", *arguments]))
    with cli.figures(options.json) as show:
        interrupted = not measured(entry)
        entry["rows"] = [row for row in entry["rows"] if row["runs"]]
        if not entry["rows"]:
            return 130
        show(entry, lambda: print("\n" + shown(entry)))
        print(cli.shown(write_json(options.out or file_of(entry), entry)))
    here = entry["environment"]["git_commit"]
    own = [row for row in entry["rows"] if row["name"] in TRACKS and row["commit"] == here]
    reached = all(p_above(results.accuracies(row), entry["target"]) < results.LEVEL for row in own)
    return 130 if interrupted else int(not reached)


if __name__ == "__main__":
    sys.exit(main())

"""docs/records.md and docs/machines.md, from the entries alone."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from pathlib import Path

from compare.benchmark import entry as machine_entry
from compare.benchmark.tables import number, table
from compare.errors import UserError
from compare.record import results as record
from compare.record.results import Rung, accuracies, seconds
from compare.report.style import name_of
from compare.results.runs import spread
from compare.workers.process import ROOT

DOCS = ROOT / "docs"
MADE = "<!-- Made from the entries by: python -m compare.entries write -->"
NONE = "There are no entries yet.\n"
RECORDS = f"""{MADE}

# Records

The time from a cold start to a test accuracy: start of Python, imports, data, compilation, training and the test. A row
is a record if its accuracy is above the target at p < 0.01 (one-sided t test over seeds), no other program disturbed
it, and it is significantly faster than the previous record, measured on the same machine in the same interleaved run.
The baselines `plain-torch` and `plain-nnx` are the plain scripts that a user would write
([PyTorch](../compare/record/plain_torch.py), [Flax](../compare/record/plain_nnx.py)).

```
python -m compare.record speedrun-mnist --seeds 20
python -m compare.record speedrun-mnist --seeds 20 --against COMMIT
python -m compare.entries write
```

"""
MACHINES = f"""{MADE}

# Machines

Results of [the benchmark](benchmarking.md) on contributed machines. To add yours, run the benchmark on an idle machine,
in a checkout without uncommitted changes. Then check the entry, copy it to `docs/entries/`, and write this page again:

```
python -m compare.benchmark mlp-mnist cnn-reference --entry
python -m compare.entries check runs/benchmark-DATE/entry.json
python -m compare.entries write
```

An entry is refused if the parity check failed or if other programs disturbed a row.

"""


def entries(folder: Path) -> list[Path]:
    """The files of entries in a folder."""
    return sorted(folder.glob("*.json"))


def refusals(path: Path) -> list[str]:
    """Why the entry in a file is not accepted; [] if it is. UserError if it is no entry."""
    try:
        return machine_entry.refusals(machine_entry.read(path))
    except UserError as error:
        try:
            record.read(path)
        except UserError:
            raise error from None
        return []


def of_rung(rung: Rung) -> list[str]:
    """The figures of a row: name, commit, number of seeds, seconds, accuracy, p."""
    return [
        rung.row["name"],
        (rung.row["commit"] or "none")[:7],
        str(len(rung.row["runs"])),
        spread(seconds(rung.row), ".2f"),
        spread([100 * each for each in accuracies(rung.row)], ".3f", unit="%"),
        f"{rung.p:.1g}",
    ]


def records(found: Iterable[record.Entry]) -> str:
    """The ladder: a table for each preset, each row with its verdict, machine and command."""
    rungs = record.ladder(found)
    text = RECORDS
    head = ("row", "commit", "n", "cold seconds", "test accuracy", "p", "verdict", "machine", "measured", "command")
    for preset in dict.fromkeys(rung.entry["preset"] for rung in rungs):
        same = [rung for rung in rungs if rung.entry["preset"] == preset]
        text += f"## {preset}, {same[0].entry['target']:.1%} of the test images\n\n"
        body = []
        for rung in same:
            verdict = f"**{rung.verdict}**" if rung.record else rung.verdict
            facts = rung.entry["environment"]
            where = f"{plain(facts['cpu'])}, {facts['threads']} cores"
            when, command = plain(rung.entry["created"])[:10], f"`{plain(rung.entry['command'])}`"
            body.append([*of_rung(rung), plain(verdict), where, when, command])
        text += table(head, body) + "\n\n"
    return text.rstrip() + "\n" if rungs else text + NONE


def machines(found: dict[str, machine_entry.Entry]) -> str:
    """The machines, by the file of their entry, and a table of speeds for each preset."""
    if not found:
        return MACHINES + NONE
    head = ("machine", "cores", "GEMM GFLOP/s", "memory GB/s", "versions", "commit", "measured", "command")
    text = MACHINES + table(head, [of_machine(name, entry) for name, entry in found.items()]) + "\n"
    head = ("machine", "variant", "n", "images/s", "step ms", "% of GEMM peak", "test accuracy", "peak MB")
    for preset in dict.fromkeys(row["preset"] for entry in found.values() for row in entry["rows"]):
        rows = [(entry, row) for entry in found.values() for row in entry["rows"] if row["preset"] == preset]
        text += f"\n## {preset}\n\nMedians over the processes.\n\n{table(head, [of_row(*each) for each in rows])}\n"
    return text


def of_machine(name: str, entry: machine_entry.Entry) -> list[str]:
    """The facts of a machine, with a link to its entry."""
    facts = entry["environment"]
    versions = [f"{each} {facts['versions'][each]}" for each in ("numpy", "jax", "torch") if each in facts["versions"]]
    return [
        f"[{plain(facts['cpu'])}](entries/{name})",
        str(facts["threads"]),
        number(facts["gemm_gflops"]),
        number(facts["memory_gbs"], ",.1f"),
        plain(", ".join(versions)),
        plain(facts["git_commit"] or "none")[:7],
        plain(entry["created"])[:10],
        f"`{plain(entry['command'])}`",
    ]


def of_row(entry: machine_entry.Entry, row: machine_entry.EntryRow) -> list[str]:
    """The figures of a variant."""
    step_ms, batch = statistics.median(row["step_ms"]), entry["presets"][row["preset"]]["batch_size"]
    return [
        f"{plain(entry['environment']['cpu'])}, {entry['environment']['threads']} cores",
        plain(named(row["variant"])),
        str(len(row["step_ms"])),
        number(1000 * batch / step_ms),
        f"{step_ms:.2f}",
        number(row["gemm_share"], ".0%"),
        number(row["test_accuracy"], ".2%"),
        number(row["peak_rss_mb"]),
    ]


def plain(text: str) -> str:
    """Text of an entry without what Markdown or HTML would act on: entries come from strangers."""
    return re.sub(r"[`|<>\[\]\n]", " ", text)


def named(variant: str) -> str:
    """``JAX scan`` of ``jax scan``."""
    track, _, name = variant.partition(" ")
    return f"{name_of(track)} {name}"


def pages(docs: Path = DOCS) -> dict[Path, str]:
    """The text of both pages; UserError names an entry that is refused."""
    sent = {path.name: machine_entry.read(path) for path in entries(docs / "entries")}
    for name, entry in sent.items():
        if found := machine_entry.refusals(entry):
            raise UserError(f"docs/entries/{name} is refused: {'; '.join(found)}")
    return {
        docs / "records.md": records(map(record.read, entries(docs / "records"))),
        docs / "machines.md": machines(sent),
    }

"""A record entry: its types, its reader, and the ladder, which says of each row whether it is a record."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, cast

from compare import machine
from compare.results import typed_json
from compare.results.schema import Machine
from compare.statistics import p_above, ratio_of_medians

TARGETS = {"speedrun-mnist": 0.99, "mlp-mnist": 0.983, "cnn-mnist": 0.993}  # test accuracies
LEVEL = 0.01  # p must be below it
SCRIPTS = {"plain-torch": "compare.record.plain_torch", "plain-nnx": "compare.record.plain_nnx"}


class Run(TypedDict):
    """One process."""

    seed: int
    seconds: float  # from its start to its test accuracy
    test_accuracy: float
    disturbed: str | None  # what other programs did, if it was too much


class Row(TypedDict):
    """A track, or a plain script, at one commit."""

    name: str
    commit: str | None
    runs: list[Run]


class Entry(TypedDict):
    """The whole file: one interleaved run of several rows."""

    schema: Literal[1]
    kind: Literal["record"]
    created: str  # ISO 8601
    command: str
    preset: str
    config: dict[str, Any]
    target: float  # test accuracy
    seeds: int  # as planned
    against: str | None  # commit whose tracks were measured beside
    environment: Machine
    rows: list[Row]


def read(path: Path) -> Entry:
    """The entry in a file; UserError, which lists what is wrong, if it is none."""
    return cast(Entry, typed_json.read(path, Entry, "entry.json"))


def seconds(row: Row) -> list[float]:
    """Cold seconds of each seed."""
    return [run["seconds"] for run in row["runs"]]


def accuracies(row: Row) -> list[float]:
    """Test accuracy of each seed."""
    return [run["test_accuracy"] for run in row["runs"]]


class Rung(NamedTuple):
    """A row of the ladder: what an entry says of one of its rows."""

    entry: Entry
    row: Row
    p: float
    record: bool
    verdict: str


def ladder(entries: Iterable[Entry]) -> list[Rung]:
    """Each row of each entry in the order of time, with its verdict.

    A row is a record if its accuracy is above the target at p < 0.01, no run was disturbed, and it is significantly
    faster than the standing record of the same preset, track and machine, measured in the same entry. The first such
    row stands without a comparison.
    """
    standing: dict[tuple[Any, ...], str] = {}
    rungs = []
    for entry in sorted(entries, key=lambda entry: entry["created"]):
        for row in entry["rows"]:
            where = entry["environment"]
            key = (entry["preset"], entry["target"], row["name"], where["cpu"], where["threads"])
            p = p_above(accuracies(row), entry["target"])
            record, verdict = judged(entry, row, p, standing.get(key))
            if record:
                standing[key] = cast(str, row["commit"])
            rungs.append(Rung(entry, row, p, record, verdict))
    return rungs


def judged(entry: Entry, row: Row, p: float, standing: str | None) -> tuple[bool, str]:
    """Whether a row is a record, and why, or why not; ``standing`` is the commit of the record before."""
    if row["name"] in SCRIPTS:
        return False, "baseline"
    if row["commit"] != entry["environment"]["git_commit"]:
        return False, "measured again, to compare with"
    if not machine.is_clean(row["commit"]):
        return False, "no record: uncommitted changes"
    if len(row["runs"]) < entry["seeds"]:
        return False, f"no record: interrupted after {len(row['runs'])} of {entry['seeds']} seeds"
    if reason := next((run["disturbed"] for run in row["runs"] if run["disturbed"]), None):
        return False, f"no record: disturbed ({reason})"
    if not p < LEVEL:
        return False, f"no record: the target is not reached at p < {LEVEL}"
    if standing is None:
        return True, "first record"
    before = next((each for each in entry["rows"] if (each["name"], each["commit"]) == (row["name"], standing)), None)
    if before is None:
        return False, f"no record: not measured beside the standing record, {standing[:7]}"
    ratio = ratio_of_medians(seconds(before), seconds(row))
    if any(run["disturbed"] for run in before["runs"]) or ratio.outcome != "faster":
        return False, f"no record: {ratio.describe(add='--seeds 20')}"
    return True, f"record: {ratio.describe()} as fast as {standing[:7]}"

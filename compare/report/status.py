"""The status of a comparison at a glance: parity, accuracy and timing quality, and a small table for each network."""

from __future__ import annotations

from statistics import fmean
from typing import NamedTuple

from compare.report.style import name_of
from compare.report.summary import accuracy_in_short, parity_in_short, speeds_in_short
from compare.results.convergence import convergence, in_words, outcome
from compare.results.parity import speed_remark, speed_withheld
from compare.results.runs import (
    WARNING,
    Tracks,
    cold_seconds,
    disturbed,
    groups,
    numbers,
    spread,
    target_accuracy,
    tested,
)
from compare.results.schema import Results, RunResult
from compare.statistics import mean_interval

GOOD, BAD, UNKNOWN = "✓", "✗", "–"
NAMED = 3  # disturbed runs are named one by one, the others are counted


class Check(NamedTuple):
    """One statement of the status strip."""

    name: str
    mark: str  # GOOD, BAD, WARNING or UNKNOWN
    text: str  # in a few words
    sentence: str  # in one sentence, for the terminal


class Card(NamedTuple):
    """The table of one network: a line for each framework."""

    preset: str
    headers: list[str]
    rows: list[list[str]]


def strip(results: Results) -> list[Check]:
    """Parity, accuracy, convergence where several seeds were run, and timing quality."""
    return [_parity(results), _accuracy(results), *_convergence(results), _timing(results)]


def cards(results: Results) -> list[Card]:
    """Accuracy, speed, cold time and memory of every framework, a table for each network."""
    return [_card(results, preset, tracks) for preset, tracks in groups(results).items()]


def amber(results: Results) -> str:
    """One line that names the disturbed runs; "" if there are none."""
    names = [
        f"{run['preset']} {run['track']} seed {run['seed']}" for run in tested(results["runs"]) if run["disturbed"]
    ]
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    disturbed_runs = f"{', '.join(names[:NAMED])}{more}"
    return f"{WARNING} The times of disturbed runs are excluded from ratios and rankings: {disturbed_runs}."


def _parity(results: Results) -> Check:
    pairs, sentence = results["parity"], parity_in_short(results)
    if not pairs:
        return Check("Parity", UNKNOWN, "not checked", sentence)
    failed = sum(not pair["passed"] for pair in pairs)
    if failed:
        return Check("Parity", BAD, f"failed for {failed} of {len(pairs)} pairs", sentence)
    return Check("Parity", GOOD, "passed", sentence)


def _accuracy(results: Results) -> Check:
    sentence = accuracy_in_short(groups(results))
    if not sentence:
        return Check("Accuracy", UNKNOWN, "not compared", "Nothing to compare")
    tie = sentence.startswith("no significant difference")
    return Check("Accuracy", GOOD if tie else BAD, "tie" if tie else "differs", sentence)


def _convergence(results: Results) -> list[Check]:
    found = convergence(groups(results))
    if not found:
        return []
    verdict = outcome([each for pairs in found.values() for each in pairs])
    mark = {"same": GOOD, "differs": BAD, "undecided": UNKNOWN}[verdict]
    return [Check("Convergence", mark, verdict, "; ".join(f"{name}: {in_words(each)}" for name, each in found.items()))]


def _timing(results: Results) -> Check:
    runs, ranking = tested(results["runs"]), speeds_in_short(results)
    marked = [run for run in runs if run["disturbed"]]
    judged = [run for run in runs if (seen := run.get("disturbance")) and seen["others"] is not None]
    if marked:
        first = (marked[0]["disturbed"] or "").partition(";")[0]
        mark, text = WARNING, f"{len(marked)} of {len(runs)} runs disturbed: {first}"
    elif len(judged) < len(runs) or not runs:
        mark, text = UNKNOWN, f"{len(runs) - len(judged)} of {len(runs)} runs not judged"
    else:
        mark, text = GOOD, "undisturbed"
    return Check("Timing quality", mark, text, "; ".join(filter(None, [text, ranking])))


def _card(results: Results, preset: str, tracks: Tracks) -> Card:
    target = target_accuracy(tracks)
    until = f"cold start to {100 * target:.1f} %, s" if target else "cold start to accuracy, s"
    several = any(len(tested(runs)) > 1 for runs in tracks.values())
    speed = "images/s, 95 % CI" if several else "images/s"
    accuracy = "test accuracy ± SD, %" if several else "test accuracy, %"
    headers = ["framework", accuracy, speed, "step ms", until, "peak MB"]
    return Card(preset, headers, [[name_of(track), *_cells(results, runs, target)] for track, runs in tracks.items()])


def _cells(results: Results, runs: list[RunResult], target: float | None) -> list[str]:
    """A line of the table: means over the seeds; accuracy with its deviation, speed with its confidence interval."""
    done, withheld = tested(runs), speed_withheld(results, runs)
    mark = f" {WARNING}" if disturbed(runs) else ""
    median = [] if withheld else numbers(done, "step_ms", "median")
    cold = [seconds for run in done if target and (seconds := cold_seconds(run, target)) is not None]
    speed = withheld or f"{_interval(numbers(done, 'images_per_second'))}{mark}"
    if remark := speed_remark(results):
        speed += f" ({remark})"
    return [
        spread([100 * value for value in numbers(done, "test_accuracy")]),
        speed,
        f"{fmean(median):.2f}{mark}" if median else "-",
        f"{fmean(cold):.1f}{mark}" if cold else "-",
        f"{fmean(memory):,.0f}" if (memory := numbers(done, "peak_rss_mb")) else "-",
    ]


def _interval(values: list[float]) -> str:
    """Mean ± half of the 95 % confidence interval; a single value has none, no value is a dash."""
    if len(values) < 2:
        return spread(values, ",.0f")
    found = mean_interval(values)
    return f"{found.mean:,.0f} ± {found.high - found.mean:,.0f}"

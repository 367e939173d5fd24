"""What a comparison amounts to, in sentences that claim no more than its numbers bear."""

from __future__ import annotations

import math
import statistics

from compare.results import Results, Run, closeness, describe, groups, name_of, numbers, order, speed_withheld, tested

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # 97.5 % quantile of t by degrees of freedom


def verdict(results: Results) -> str:
    """The sentences that answer: the same model, which is fastest, as good as each other."""
    lines = [_same_model(results)]
    for preset, tracks in groups(results).items():
        lines += [_which_is_fastest(results, preset, tracks), _equally_good(preset, tracks)]
    if results.get("status") != "finished":
        lines.insert(0, f"**This comparison was {results.get('status')}**: what follows is what there is of it.")
    return "\n".join(f"- {line}" for line in lines if line)


def headline(results: Results) -> str:
    """The verdict in one sentence, with its uncertainty."""
    presets = groups(results)
    parts = [_one_model(results), _all_alike(presets)]
    for preset, tracks in presets.items():
        shown, ranked = _ranking(results, tracks)
        if len(ranked) > 1:
            parts.append(f"on {preset}, {_lead(ranked[0], ranked[1], shown)}")
    unfinished = "" if results.get("status") == "finished" else f"So far ({results.get('status')}): "
    return f"{unfinished}{'; '.join(filter(None, parts))}."


def _lead(first: str, second: str, shown: dict[str, list[float]]) -> str:
    """How far the fastest track is ahead of the next, if it is."""
    middle, low, high = ratio(shown[first], shown[second])
    one, other = name_of(first), name_of(second)
    if low is None:
        return f"{one} trains fastest, {middle:.2f} times {other} (one run each: no interval)"
    if low > 1:
        return f"{one} trains fastest, {middle:.2f} times {other} ({interval(low, high)})"
    runs = min(len(shown[first]), len(shown[second]))
    return (
        f"{runs} runs each cannot tell which of {one} and {other} is faster (ratio {middle:.2f}, {interval(low, high)})"
    )


def _one_model(results: Results) -> str:
    pairs = results.get("proof") or []
    if not pairs:
        return "The tracks were not proven to be the same model"
    names = [name_of(track) for track in sorted({pair[side] for pair in pairs for side in "ab"}, key=order)]
    who = f"{', '.join(names[:-1])} and {names[-1]}"
    failed = sum(not pair["passed"] for pair in pairs)
    if failed:
        return f"{who} are not the same model: {failed} of {len(pairs)} pairs disagree"
    share = max(closeness(check) for pair in pairs for check in pair["checks"])
    return f"{who} are the same model (their differences use up {100 * share:.0f} % of the tolerance)"


def _all_alike(presets: dict[str, dict[str, list[Run]]]) -> str:
    """Are all accuracies of each preset within chance of each other?"""
    found = {preset: spans for preset, tracks in presets.items() if (spans := _accuracy_gap(tracks))}
    if not found:
        return ""
    apart = [preset for preset, (_, gap, chance, _) in found.items() if gap > chance]
    if apart:
        return f"their accuracies on {', '.join(apart)} differ by more than chance allows"
    widest = max(found, key=lambda preset: found[preset][1] / max(found[preset][2], 1e-9))
    _, gap, chance, _ = found[widest]
    return f"they are equally accurate ({100 * gap:.2f} points apart at most, where chance allows {100 * chance:.2f})"


def _same_model(results: Results) -> str:
    pairs = results.get("proof") or []
    checks = [(closeness(check), pair, check) for pair in pairs for check in pair["checks"]]
    if not checks:
        return "**The same model?** Not proven: no proof was made, so no speed is shown."
    share, pair, check = max(checks, key=lambda entry: entry[0])
    between = f"{pair['preset']}, {name_of(pair['a'])} against {name_of(pair['b'])}: {describe(check)}"
    unproven = [preset for preset in groups(results) if preset not in {pair["preset"] for pair in pairs}]
    but = f" Not proven: {', '.join(unproven)}." if unproven else ""
    if all(pair["passed"] for pair in pairs):
        steps = min(pair["steps"] for pair in pairs)
        return (
            f"**The same model?** Yes. From the same weights and batches, {steps} steps agree within tolerance for "
            f"every pair of tracks; the closest call is {between}, {100 * share:.0f} % of what is allowed.{but}"
        )
    failed = sum(not pair["passed"] for pair in pairs)
    return f"**The same model?** No: {failed} of {len(pairs)} pairs disagree, the worst is {between}.{but}"


def _which_is_fastest(results: Results, preset: str, tracks: dict[str, list[Run]]) -> str:
    shown, ranked = _ranking(results, tracks)
    if not ranked:
        return f"**Fastest, {preset}?** No speed can be shown: see the table."
    first = ranked[0]
    speed = f"{name_of(first)} trains {statistics.fmean(shown[first]):,.0f} images/s on this machine"
    others = [_times(shown[first], shown[track], name_of(track)) for track in ranked[1:]]
    missing = [name_of(track) for track in tracks if track not in ranked]
    text = f"**Fastest, {preset}?** {': '.join([speed, *([', '.join(others)] if others else [])])}."
    if others and min(len(speeds) for speeds in shown.values()) < 2:
        text += " One run each: no interval can be given, so a ratio near 1 is a tie."
    return text + (f" Not ranked: {', '.join(missing)}." if missing else "")


def _ranking(results: Results, tracks: dict[str, list[Run]]) -> tuple[dict[str, list[float]], list[str]]:
    """Images per second of the tracks whose speed may be shown, and their names, the fastest first."""
    shown = {
        track: numbers(tested(runs), "images_per_second")
        for track, runs in tracks.items()
        if not speed_withheld(results, runs)
    }
    return shown, sorted((t for t in shown if shown[t]), key=lambda t: -statistics.fmean(shown[t]))


def _times(a: list[float], b: list[float], name: str) -> str:
    """How one speed compares with another; a difference only where the interval of the ratio excludes 1."""
    middle, low, high = ratio(a, b)
    if low is None:
        return f"{middle:.2f} times {name}"
    if low > 1:
        return f"{middle:.2f} times {name} ({interval(low, high)})"
    return f"not known to be faster than {name} ({middle:.2f}, {interval(low, high)})"


def interval(low: float, high: float | None) -> str:
    """The 95 % interval of a ratio, in words; one that says nothing is not written out."""
    if high is None or low < 0.01 or high > 100:
        return "95 % interval beyond 0.01 to 100"
    return f"95 % interval {low:.2f} to {high:.2f}"


def ratio(a: list[float], b: list[float]) -> tuple[float, float, float] | tuple[float, None, None]:
    """How many times `b` goes into `a`, and the 95 % interval of that, which one repeat does not have.

    Of geometric means: log(a / b) ± t sqrt(var(log a) / n_a + var(log b) / n_b), t of Student with
    min(n_a, n_b) - 1 degrees of freedom (Welch's interval, on the safe side).
    """
    logs = [[math.log(value) for value in values] for values in (a, b)]
    middle = statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    repeats = min(len(a), len(b))
    if repeats < 2:
        return math.exp(middle), None, None
    half = STUDENT[min(repeats - 1, len(STUDENT)) - 1] * math.sqrt(sum(statistics.variance(x) / len(x) for x in logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def _accuracy_gap(tracks: dict[str, list[Run]]) -> tuple[dict[str, float], float, float, int] | None:
    """Mean test accuracies by name, how far apart they are, how far chance may put equals, and on how many images.

    Two counts of n images with the same error rate p differ by up to 1.96 sqrt(2 p (1 - p) / n), 95 times in 100.
    """
    found = {track: numbers(tested(runs), "test_accuracy") for track, runs in tracks.items()}
    means = {name_of(track): statistics.fmean(values) for track, values in found.items() if values}
    counts = [run["test_count"] for runs in tracks.values() for run in runs if run.get("test_count")]
    if len(means) < 2 or not counts:
        return None
    p, n = statistics.fmean(means.values()), min(counts)
    return means, max(means.values()) - min(means.values()), 1.96 * math.sqrt(2 * p * (1 - p) / n), n


def _equally_good(preset: str, tracks: dict[str, list[Run]]) -> str:
    """Test accuracies side by side, and how far apart chance alone may put two equal systems."""
    found = _accuracy_gap(tracks)
    if found is None:
        return ""
    means, gap, chance, n = found
    named = ", ".join(f"{name} {100 * value:.2f} %" for name, value in means.items())
    judged = "within" if gap <= chance else "MORE than"
    return (
        f"**As good, {preset}?** {named}: {100 * gap:.2f} points apart, {judged} the {100 * chance:.2f} points "
        f"by which two equal systems may differ on {n:,} images."
    )

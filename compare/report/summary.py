"""The summary of a comparison: sentences that claim no more than its numbers support."""

from __future__ import annotations

import math
import statistics

from compare.report.style import NAMES, name_of, order
from compare.results.convergence import convergence, in_words
from compare.results.parity import closeness, describe, speed_remark, speed_withheld
from compare.results.runs import WARNING, Tracks, disturbed, groups, numbers, tested, unit
from compare.results.schema import Results
from compare.statistics import ratio_of_medians


def title(results: Results) -> str:
    """The title of everything that is made from a comparison."""
    names = [name_of(track) for track in sorted({run["track"] for run in results["runs"]}, key=order)]
    if len(names) not in (2, 3):
        return "The same networks, track by track"
    return f"The same networks in {_listed(names)}"


def machine_facts(results: Results) -> list[str]:
    """Processor, and version of each framework."""
    environment = results["environment"]
    versions = environment["versions"] or {}
    machine = f"{environment['cpu'] or 'unknown CPU'}, {environment['cores']} cores"
    return [machine, *(f"{NAMES[name]} {versions[name]}" for name in NAMES if name in versions)]


def summary(results: Results) -> str:
    """Parity, speed, accuracy and convergence, a sentence or two each, as a Markdown list."""
    lines = [_parity(results)]
    for preset, tracks in groups(results).items():
        lines += [_speed(results, preset, tracks), _accuracy(preset, tracks)]
    for preset, differences in convergence(groups(results)).items():
        lines.append(f"**Convergence, {preset}:** {in_words(differences)}.")
    if results["status"] != "finished":
        lines.insert(0, f"**This comparison was {results['status']}.** The figures below are those of finished runs.")
    return "\n".join(f"- {line}" for line in lines if line)


def headline(results: Results) -> str:
    """The summary in one sentence, with its uncertainty."""
    presets = groups(results)
    parts = [parity_in_short(results), accuracy_in_short(presets), speeds_in_short(results)]
    unfinished = "" if results["status"] == "finished" else f"{results['status'].capitalize()}: "
    return f"{unfinished}{'; '.join(filter(None, parts))}."


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


# --- parity -----------------------------------------------------------------------------------------------------------


def parity_in_short(results: Results) -> str:
    """Whether the tracks passed the parity check."""
    pairs = results["parity"]
    if not pairs:
        return "Parity was not checked"
    names = _listed(
        [name_of(track) for track in sorted({t for pair in pairs for t in (pair["a"], pair["b"])}, key=order)]
    )
    failed = sum(not pair["passed"] for pair in pairs)
    if failed:
        return f"{names} failed the parity check: {failed} of {len(pairs)} pairs disagree"
    share = max((closeness(check) for pair in pairs for check in pair["checks"]), default=0.0)
    return f"{names} passed the parity check (largest difference: {100 * share:.0f} % of its tolerance)"


def _parity(results: Results) -> str:
    pairs = results["parity"]
    checks = [(closeness(check), pair, check) for pair in pairs for check in pair["checks"]]
    if not checks:
        shown = "its speed is that of one track alone" if speed_remark(results) else "so no speed is shown"
        return f"**Parity:** not checked, {shown}."
    share, pair, check = max(checks, key=lambda entry: entry[0])
    where = f"{pair['preset']}, {name_of(pair['a'])} and {name_of(pair['b'])}: {describe(check)}"
    unchecked = [preset for preset in groups(results) if preset not in {pair["preset"] for pair in pairs}]
    but = f" Not checked: {', '.join(unchecked)}." if unchecked else ""
    failed = sum(not pair["passed"] for pair in pairs)
    if failed:
        return f"**Parity:** failed for {failed} of {len(pairs)} pairs of tracks. The worst is {where}.{but}"
    return (
        f"**Parity:** passed. From the same weights and batches, {min(pair['steps'] for pair in pairs)} steps agree "
        f"within tolerance for every pair of tracks. The largest difference, {100 * share:.0f} % of its tolerance, is "
        f"{where}.{but}"
    )


# --- speed ------------------------------------------------------------------------------------------------------------


def speeds_in_short(results: Results) -> str:
    """The fastest track of each preset against the second, if no run of the two was disturbed."""
    parts = []
    for preset, tracks in groups(results).items():
        shown, ranked = _ranking(results, tracks)
        marked = [name_of(track) for track in shown if disturbed(tracks[track])]
        found = [f"{_listed(marked)} not ranked (disturbed)"] if marked else []
        if len(ranked) > 1:
            ratio = ratio_of_medians(shown[ranked[0]], shown[ranked[1]])
            found.insert(0, ratio.sentence(name_of(ranked[0]), name_of(ranked[1])))
        if found:
            parts.append(f"training speed on {preset}: {', '.join(found)}")
    return "; ".join(parts)


def _speed(results: Results, preset: str, tracks: Tracks) -> str:
    shown, ranked = _ranking(results, tracks)
    marked = {track: reason for track in shown if (reason := disturbed(tracks[track]))}
    if not ranked and marked:
        return f"**Speed, {preset}:** not ranked. {_marked(marked)}"
    if not ranked:
        return f"**Speed, {preset}:** not shown; the table gives the reason."
    speeds = ", ".join(f"{name_of(track)} {statistics.median(shown[track]):,.0f}" for track in ranked)
    ratios = [(track, ratio_of_medians(shown[ranked[0]], shown[track])) for track in ranked[1:]]
    found = dict.fromkeys(ratio.sentence(name_of(ranked[0]), name_of(track)) for track, ratio in ratios)
    missing = [name_of(track) for track in tracks if track not in ranked and track not in marked]
    median = " (medians)" if max(len(shown[track]) for track in ranked) > 1 else ""
    text = "; ".join([f"**Speed, {preset}:** {speeds} images/s{median}", *found])
    text += f". Not ranked: {', '.join(missing)}" if missing else ""
    return f"{text}. Not ranked: {_marked(marked)}" if marked else f"{text}."


def _marked(marked: dict[str, str]) -> str:
    """Why each disturbed track is in no ratio."""
    return " ".join(f"{WARNING} {name_of(track)}: {reason}." for track, reason in marked.items())


def _ranking(results: Results, tracks: Tracks) -> tuple[dict[str, list[float]], list[str]]:
    """Images per second of the tracks whose speed may be shown; those of undisturbed runs alone, the fastest first."""
    speeds = {
        track: numbers(tested(runs), "images_per_second")
        for track, runs in tracks.items()
        if not speed_withheld(results, runs)
    }
    shown = {track: values for track, values in speeds.items() if values}
    ranked = [track for track in shown if not disturbed(tracks[track])]
    return shown, sorted(ranked, key=lambda track: -statistics.median(shown[track]))


# --- accuracy ---------------------------------------------------------------------------------------------------------


def _accuracy_gap(tracks: Tracks) -> tuple[dict[str, float], float, float, int] | None:
    """Mean test accuracies by name, their range, the range that chance allows equal systems, and the number of labels.

    Two counts of n images with the same error rate p differ by up to 1.96 sqrt(2 p (1 - p) / n), 95 times in 100.
    """
    found = {track: numbers(tested(runs), "test_accuracy") for track, runs in tracks.items()}
    means = {name_of(track): statistics.fmean(values) for track, values in found.items() if values}
    counts = [run["test_count"] for runs in tracks.values() for run in runs if run["test_count"]]
    if len(means) < 2 or not counts:
        return None
    p, n = statistics.fmean(means.values()), min(counts)
    return means, max(means.values()) - min(means.values()), 1.96 * math.sqrt(2 * p * (1 - p) / n), n


def accuracy_in_short(presets: dict[str, Tracks]) -> str:
    """Whether the test accuracies of each preset differ by more than chance."""
    found = {preset: known for preset, tracks in presets.items() if (known := _accuracy_gap(tracks))}
    if not found:
        return ""
    apart = [preset for preset, (_, gap, chance, _) in found.items() if gap > chance]
    if apart:
        return f"test accuracies on {', '.join(apart)} differ by more than chance"
    widest = max(found, key=lambda preset: found[preset][1] / max(found[preset][2], 1e-9))
    _, gap, chance, _ = found[widest]
    apart_by = f"{100 * gap:.2f} points apart, up to {100 * chance:.2f} by chance"
    return f"no significant difference in test accuracy ({apart_by})"


def _accuracy(preset: str, tracks: Tracks) -> str:
    """Test accuracies side by side, and how far chance alone may separate two equal systems."""
    found = _accuracy_gap(tracks)
    if found is None:
        return ""
    means, gap, chance, n = found
    named = ", ".join(f"{name} {100 * value:.2f} %" for name, value in means.items())
    judged = "no significant difference" if gap <= chance else "a significant difference"
    return (
        f"**Accuracy, {preset}:** {named}. {judged.capitalize()}: {100 * gap:.2f} points apart, where two equally good "
        f"systems may differ by up to {100 * chance:.2f} points on {n:,} {unit(next(iter(tracks.values()))[0])}."
    )

"""What a comparison amounts to, in sentences that claim no more than its numbers bear."""

from __future__ import annotations

import math
import statistics

from compare.results import Results, Run, closeness, describe, groups, name_of, numbers, order, speed_withheld, tested
from compare.statistics import ratio_of_medians


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
            ratio = ratio_of_medians(shown[ranked[0]], shown[ranked[1]])
            parts.append(f"{preset}: {ratio.sentence(name_of(ranked[0]), name_of(ranked[1]))}")
    unfinished = "" if results.get("status") == "finished" else f"So far ({results.get('status')}): "
    return f"{unfinished}{'; '.join(filter(None, parts))}."


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
    speeds = ", ".join(f"{name_of(track)} {statistics.median(shown[track]):,.0f}" for track in ranked)
    pairs = [(track, ratio_of_medians(shown[ranked[0]], shown[track])) for track in ranked[1:]]
    found = dict.fromkeys(ratio.sentence(name_of(ranked[0]), name_of(track)) for track, ratio in pairs)
    text = "; ".join([f"**Fastest, {preset}?** {speeds} images/s", *found])
    missing = [name_of(track) for track in tracks if track not in ranked]
    return f"{text}." + (f" Not ranked: {', '.join(missing)}." if missing else "")


def _ranking(results: Results, tracks: dict[str, list[Run]]) -> tuple[dict[str, list[float]], list[str]]:
    """Images per second of the tracks whose speed may be shown, and their names, the fastest first."""
    shown = {
        track: numbers(tested(runs), "images_per_second")
        for track, runs in tracks.items()
        if not speed_withheld(results, runs)
    }
    return shown, sorted((t for t in shown if shown[t]), key=lambda t: -statistics.median(shown[t]))


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

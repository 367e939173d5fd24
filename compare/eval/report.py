"""An evaluation as text for the terminal."""

from __future__ import annotations

from compare.eval.evaluation import Evaluation
from compare.eval.figures import BINS, Figures

WIDEST = 20  # classes in a confusion matrix on the terminal
LISTED = 10  # images and confusions


def text(network: str, found: Evaluation) -> str:
    """Every figure, the details of the first track only: the others are compared with it."""
    first, figures = next(iter(found["tracks"].items()))
    counted = found["counted"]
    note = [f"note: {found['note']}"] if found["note"] else []
    parts = [
        [f"{network}: {found['model']} on {found['dataset']}, {figures['count']:,} test {counted}", *note],
        [f"SHA-256 of the test set: {found['test_digest']}"],
        summary(found),
        agreement(found),
        [f"Classes ({first})", *classes(figures)],
        [f"Confusion ({first}; rows are labels, columns predictions)", *confusion(figures)],
        [f"Calibration ({first}; ECE over {BINS} equally wide bins of the confidence)", *calibration(figures)],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def summary(found: Evaluation) -> list[str]:
    """A line for each track."""
    lines = ["track    accuracy     correct      loss       ECE"]
    for track, each in found["tracks"].items():
        lines.append(
            f"{track:6} {each['accuracy']:>10.2%} {each['correct']:>11,} {each['loss']:>9.4f} {each['ece']:>9.2%}"
        )
    return lines


def agreement(found: Evaluation) -> list[str]:
    """Whether the tracks agree; which images they predict differently, with the margins of the logits."""
    if found["largest_logit_difference"] is None:
        return []
    lines = [f"Largest difference of a logit between the tracks: {found['largest_logit_difference']:.1e}"]
    if not found["agree"]:
        counts = ", ".join(f"{track} {each['correct']:,}" for track, each in found["tracks"].items())
        lines.append(f"THE TRACKS DO NOT AGREE on the number of correct {found['counted']}: {counts}")
    for image in found["disagreements"][:LISTED]:
        answers = ", ".join(
            f"{track} {each['prediction']} (margin {each['margin']:.1e})" for track, each in image["tracks"].items()
        )
        lines.append(f"  {found['counted'].removesuffix('s')} {image['index']}, label {image['label']}: {answers}")
    if more := len(found["disagreements"]) - LISTED:
        lines += [f"  and {more:,} more: --json lists all"] if more > 0 else []
    return lines


def classes(figures: Figures) -> list[str]:
    """Precision, recall and support of each class."""
    width = max(len("class"), *(len(each["name"]) for each in figures["classes"]))
    lines = [f"{'class':<{width}}  precision    recall   support"]
    for each in figures["classes"]:
        precision, recall = percent(each["precision"]), percent(each["recall"])
        lines.append(f"{each['name']:<{width}} {precision:>10} {recall:>9} {each['support']:>9,}")
    return lines


def confusion(figures: Figures) -> list[str]:
    """The matrix, or the most frequent confusions of more than WIDEST classes."""
    names, counts = [each["name"] for each in figures["classes"]], figures["confusion"]
    if counts is None:
        return [f"not counted for {len(names):,} classes"]
    if len(names) > WIDEST:
        pairs = [(n, i, k) for i, row in enumerate(counts) for k, n in enumerate(row) if n and i != k]
        return [f"{n:>6,}  {names[i]} as {names[k]}" for n, i, k in sorted(pairs, key=lambda each: -each[0])[:LISTED]]
    label = max(map(len, names))
    width = max(5, *(len(f"{n:,}") for row in counts for n in row)) + 1
    head = " " * label + "".join(f"{name[: width - 1]:>{width}}" for name in names)
    rows = ["".join(f"{n:>{width},}" if n else f"{'.':>{width}}" for n in row) for row in counts]
    return [head, *(f"{name:<{label}}{row}" for name, row in zip(names, rows, strict=True))]


def calibration(figures: Figures) -> list[str]:
    """The bins that hold images."""
    lines = ["   confidence     images      mean  accuracy"]
    for each in figures["bins"]:
        if each["count"]:
            limits = f"{each['lower']:.1%} - {each['upper']:.1%}"
            mean, accuracy = percent(each["confidence"]), percent(each["accuracy"])
            lines.append(f"{limits:>14} {each['count']:>9,} {mean:>9} {accuracy:>9}")
    return lines


def percent(share: float | None) -> str:
    """Two decimals; a dash for None."""
    return "-" if share is None else f"{share:.2%}"

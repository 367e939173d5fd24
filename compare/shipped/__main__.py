"""Train and export the two shipped networks, and write their model cards.

    python -m compare.shipped           # train both in PyTorch, write compare/shipped/: minutes
    python -m compare.shipped --cards   # write only the model cards, from the existing networks

Every figure in a card is counted from the network beside it, on all test images, in NumPy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from compare import cli, data, presets
from compare.cli import SHIPPED, command_line
from compare.errors import UserError
from compare.eval.figures import figures, image_logits
from compare.weights.network import Network
from compare.weights.open import open_network
from numpy_nn.tree import count

# Random rotation and shift in training, because users' pictures are not centred exactly as MNIST's are.
CONFIGS = {
    "mlp-mnist": replace(
        presets.get("mlp-mnist"),
        expected="99.1 %, about a minute in PyTorch",
        model_args={"hidden": (256, 128)},
        augment=("affine:10:2",),
        epochs=20,
        batch_size=128,
        lr=0.1,
    ),
    "cnn-mnist": replace(
        presets.get("cnn-mnist"), expected="99.4 %, about two minutes in PyTorch", augment=("affine:10:2",), epochs=10
    ),
}
TITLES = {"mlp-mnist": "A multi-layer perceptron for digits", "cnn-mnist": "A convolutional network for digits"}
CONFUSIONS = 8  # in a card
BATCH = 500


def train(directory: Path) -> None:
    """Train both in PyTorch, the fastest here, and export them to SHIPPED."""
    from compare.experiment import plan
    from compare.experiment.comparison import Comparison
    from compare.export import export
    from compare.progress import Progress

    command = ["python", "-m", "compare.shipped"]
    results = plan.plan(directory, list(CONFIGS.values()), ["torch"], command=command, parity=False, mlflow=False)
    with Progress() as progress:
        if Comparison(results, directory, progress).run():
            raise UserError(f"the training did not finish: see {directory}")
    for name, config in CONFIGS.items():
        path = SHIPPED / f"{name}.npz"
        path.unlink(missing_ok=True)
        export(directory / "checkpoints" / f"{name}-torch-seed{config.seed}", "npz", path)


# --- cards ------------------------------------------------------------------------------------------------------------


CARD = """\
# {title}

`{name}.npz` holds the network `{model}` with {arguments}: {parameters:,} parameters, {megabytes:.2f} MB.
NumPy, JAX and PyTorch all compute with it:

```
python -m compare.predict IMAGE --checkpoint {name} --tracks all
```

## What it was trained on

MNIST (LeCun, Cortes and Burges): 55,000 training images, with 5,000 more for validation; the 10,000 test
images were used for the figures below only. During training, images were rotated by up to 10° and shifted by up
to 2 pixels (`{augment}`). {epochs:g} epochs in batches of {batch_size}, {optimizer} with {settings}, learning
rate `{schedule}` up to {lr:g}. Made by

```
python -m compare.shipped
```

## Accuracy

**{accuracy}** of the {count:,} test images are classified correctly, {wrong:,} are not.

| digit | test images | recall | precision |
| --- | --- | --- | --- |
{digits}

Most frequent confusions:

| digit | predicted as | count |
| --- | --- | --- |
{mistakes}

## Limits

- It has ten classes and no other: a letter, a face or a blot is classified as one of the ten digits, often with
  high probability.
- It expects one digit, upright. Several digits in a picture are not separated. Lined paper and shadows are removed
  if they are recognised; otherwise they are read as strokes.
- MNIST was written by employees of the US Census Bureau and American high-school students around 1990.
  The continental 1 with a long upstroke and the crossed 7 are rare in it; printed digits are not in it.
- Its probabilities are not calibrated: an answer given with 99 % may be wrong more often than once in a hundred.
- It is for learning and for trying things out, not for reading cheques.
"""


def card(name: str, network: Network, x: np.ndarray, y: np.ndarray) -> str:
    """The model card in Markdown, its figures counted on the test images x (n, h, w, c) with labels y (n,)."""
    config, found = CONFIGS[name], figures(image_logits(network.logits, x, y, batch_size=BATCH), y, network.classes)
    digits = [
        f"| {each['name']} | {each['support']:,} | {percent(each['recall'])} | {percent(each['precision'])} |"
        for each in found["classes"]
    ]
    wrong = {
        (label, taken): count
        for label, row in enumerate(found["confusion"] or [])
        for taken, count in enumerate(row)
        if count and label != taken
    }
    mistakes = [
        f"| {network.classes[label]} | {network.classes[taken]} | {times} |"
        for (label, taken), times in sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:CONFUSIONS]
    ]
    parameters = count({"params": network.params})
    return CARD.format(
        title=TITLES[name],
        name=name,
        model=network.model,
        arguments=", ".join(f"`{key}={value}`" for key, value in network.args.items()) or "its default arguments",
        parameters=parameters,
        megabytes=parameters * 4 / 1e6,
        augment=" ".join(config.augment),
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        settings=", ".join(f"{key} {value:g}" for key, value in config.optimizer_args.items()),
        schedule=config.schedule,
        lr=config.lr,
        accuracy=percent(found["accuracy"]),
        count=found["count"],
        wrong=found["count"] - found["correct"],
        digits="\n".join(digits),
        mistakes="\n".join(mistakes),
    )


def percent(share: float | None) -> str:
    """Format a share of 1; a dash for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def write_cards() -> list[Path]:
    """Write the card of each network beside it."""
    test = data.load("mnist")
    paths = []
    for name in CONFIGS:
        path = SHIPPED / f"{name}.md"
        path.write_text(card(name, open_network(path.with_suffix(".npz")), test.test_x, test.test_y), encoding="utf-8")
        paths.append(path)
    return paths


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("shipped", __doc__)
    options.add_argument("--out", type=cli.output, metavar="DIR", help="folder of the training (default: runs/shipped)")
    options.add_argument("--cards", action="store_true", help="write only the model cards")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all was written, 2 if the training did not finish or a file cannot be written."""
    options = parser().parse_args(arguments)
    if not options.cards:
        train(options.out or cli.output("runs/shipped"))
    print(*write_cards(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

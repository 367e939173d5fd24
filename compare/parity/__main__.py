"""Check that the tracks are the same model: the difference of every parameter, gradient and optimizer slot.

    python -m compare.parity mlp cnn
    python -m compare.parity resnet --tracks jax torch --precision float32 --optimizer adamw

Where a pair differs, ``compare.ports`` names the line at which their forward or backward passes first differ. The exit
status is 1 if any leaf exceeds its tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from compare import cli, networks, presets
from compare.cli import command_line
from compare.config import Config
from compare.errors import UserError, look_up
from compare.files import finite
from compare.parity.check import EXAMPLES, TOLERANCES, Details, check_parity
from compare.results.schema import ParityRow
from compare.tracks import supporting
from compare.workers import process


def show(row: ParityRow, details: Details) -> None:
    """Print one pair of tracks, a line per leaf; the first leaf out of tolerance is named at the end."""
    print(f"\n{row['preset']}: {row['a']} and {row['b']}, {row['precision']}, {row['steps']} steps")
    first_bad = None
    for check in row["checks"]:
        what, tolerance = check["what"], check["tolerance"]
        for path, (max_abs, max_rel) in details[what].items():
            good = max_rel <= tolerance
            first_bad = first_bad or (None if good else f"{what} {path}")
            mark = "ok" if good else "tolerance exceeded"
            print(
                f"  {what:<11}{path:<28} max abs {max_abs:8.1e}   max rel {max_rel:8.1e} (<= {tolerance:.0e})  {mark}"
            )
    print("  passed" if row["passed"] else f"  FAILED, first at: {first_bad}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from numpy_nn.models import MODELS
    from numpy_nn.optim import OPTIMIZERS

    options = cli.parser("parity", __doc__, what="what to check")
    options.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help=f"{', '.join(MODELS)} (default: all)",
    )
    cli.add_network(options, where="what to check")
    cli.add_tracks(options, where="what to check")
    check = cli.group(options, "what to check")
    check.add_argument(
        "--precision", type=cli.setting("precision"), default="float64", metavar="|".join(TOLERANCES),
        help="arithmetic of the check (default: float64)",
    )  # fmt: skip
    check.add_argument(
        "--steps", type=cli.number(int, 1, 1000), default=10, metavar="N", help="training steps (default: 10)"
    )
    check.add_argument(
        "--optimizer", nargs="+", type=cli.each(cli.one_of("optimizer", list(OPTIMIZERS))), action=cli.Several,
        default=["nesterov"], metavar="NAME", help=f"{', '.join(OPTIMIZERS)} (default: nesterov)",
    )  # fmt: skip
    check.add_argument(
        "--lr",
        type=cli.setting("lr"),
        metavar="X",
        help="learning rate (default: 0.05 for sgd, momentum and nesterov, else 0.001)",
    )
    cli.add_json(options, "the rows of results.json", where="what to check")
    # for a comparison: rows of results.json on standard output
    options.add_argument("--configs", metavar="JSON", help=argparse.SUPPRESS)
    return options


def wanted(options: argparse.Namespace) -> Iterator[Config]:
    """A Config for each model and optimizer; UserError for a model, a network or tracks that cannot be compared."""
    from numpy_nn.models import MODELS

    for model in options.models:
        if model in presets.PRESETS:
            raise UserError(f"{model!r} is a preset: give its model, {presets.PRESETS[model].model}")
        look_up("model", model, MODELS)
    if options.network:
        options.models.append(str(options.network))
        options.tracks = networks.available(options.models[-1], options.tracks, asked=options.tracks is not cli.TRACKS)
    names = supporting(options.precision, options.tracks)
    if len(set(names)) < 2:
        raise UserError(
            f"nothing to compare in {options.precision} with {' '.join(names) or 'no track'} alone: name two tracks"
        )
    for model in options.models or MODELS:
        for optimizer in options.optimizer:
            config = Config(
                preset=f"{Path(model).stem} {optimizer}",
                model=model,
                dataset="random images",
                model_args=EXAMPLES.get(model, {}),
                optimizer=optimizer,
                optimizer_args={"weight_decay": 5e-4},
                lr=options.lr or (0.05 if optimizer in ("sgd", "momentum", "nesterov") else 0.001),
                precision=options.precision,
            )
            if networks.is_file(model):
                networks.require_same_network(config)
            yield config


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all tracks agree, 1 if not, 2 for invalid arguments."""
    options = parser().parse_args(arguments)
    if options.configs is not None:
        process.tell(f"importing {', '.join(options.tracks)}")
        configs = map(Config.from_json, json.loads(options.configs))
        checked = (check_parity(config, options.tracks, steps=options.steps, say=process.tell) for config in configs)
        print(json.dumps(finite([row for pairs in checked for row, _ in pairs])))
        return 0
    rows = []
    for config in wanted(options):
        for row, details in check_parity(config, options.tracks, steps=options.steps):
            rows.append(row)
            if not options.json:
                show(row, details)
                if not row["passed"]:
                    from compare.parity import lines

                    print(f"\n{lines.explained(config, row['a'], row['b'])}")
    passed = all(row["passed"] for row in rows)
    with cli.figures(options.json) as show_rows:
        show_rows(rows, lambda: print(f"\nThe tracks {'are the same model' if passed else 'differ'}."))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Measure the speed of every variant of the tracks, in fresh processes that take turns.

    python -m compare.benchmark                               the MLP and the CNN, all tracks
    python -m compare.benchmark cnn-mnist --tracks jax torch --repeats 9 --threads 1
    python -m compare.benchmark mlp-mnist --target 0.98       also the cold time to a validation accuracy
    python -m compare.benchmark mlp-mnist --sweep             also how cost grows with batch, width and steps
    python -m compare.benchmark mlp-mnist --tensorflow        also a plain Keras script on the same batches
    python -m compare.benchmark cnn-mnist --device gpu --precision bfloat16
    python -m compare.benchmark mlp-mnist --against OLD.json  what became slower, beyond noise

No speed is measured of a track that fails the parity check, and none is shown of a process whose first losses differ
from the others'. `python -m compare.benchmark.report DIR` writes the report and its plots again.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

from compare import cli, machine, presets, tracks
from compare.benchmark.session import Benchmark, begin
from compare.cli import command_line
from compare.config import Config
from compare.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("benchmark", __doc__, what="what to measure")
    options.add_argument("presets", nargs="*", metavar="PRESET", help=f"default: {' '.join(presets.DEFAULT)}")
    cli.add_tracks(options)
    cli.add_settings(options, "batch_size", "data_dir", "device")
    cli.group(options, "devices").add_argument(
        "--precision", type=cli.one_of("precision", ("float32", "bfloat16")), metavar="float32|bfloat16",
        help="of the matmuls (default: the preset's)",
    )  # fmt: skip
    measured = cli.group(options, "what to measure")
    measured.add_argument(
        "--repeats", type=cli.number(int), default=5, metavar="N", help="fresh processes for each (default: 5)"
    )
    measured.add_argument(
        "--threads", type=cli.one_of("number of threads", ("1", "all")), default="all", metavar="1|all",
        help="cores to use (default: all)",
    )  # fmt: skip
    measured.add_argument(
        "--target", type=cli.number(float, 0, 1, above=True), metavar="X",
        help="also the cold time to this validation accuracy, 0 to 1",
    )  # fmt: skip
    measured.add_argument("--sweep", action="store_true", help="also how cost grows with batch, width and steps")
    measured.add_argument("--tensorflow", action="store_true", help="also a plain Keras script, as a second baseline")
    measured.add_argument("--no-layers", action="store_true", help="no layers one by one, no roofline")
    measured.add_argument("--against", type=cli.path, metavar="OLD", help="an earlier benchmark.json to compare with")
    cli.add_output(options, default="benchmark-")
    return options


def run(options: argparse.Namespace, configs: list[Config], command: str) -> dict[str, Any]:
    """Measure all that was asked for, in fresh processes on the same cores; each stage is saved as it ends."""
    from compare.benchmark import variants

    start = time.perf_counter()
    threads = machine.cores() if options.threads == "all" else 1
    with variants.on_cores(threads):
        started = begin(configs, repeats=options.repeats, target=options.target, threads=threads, command=command)
        names = tracks.that_have(configs[0].precision, options.tracks)
        benchmark = Benchmark(configs, names, options.tensorflow, threads, options.out, _say, started)
        benchmark.prove()
        for number in range(options.repeats):
            benchmark.repeat(number, options.target)
            benchmark.save()
        if not options.no_layers and all(config.device == "cpu" for config in configs):  # a roofline of one core
            benchmark.layers()
        if options.sweep:
            benchmark.sweep()
        benchmark.results["seconds"] = round(time.perf_counter() - start)
        benchmark.save()
    return benchmark.results


def _say(text: str) -> None:
    print(text, flush=True)


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all went well, 1 if a speed cannot be shown or became slower, 2 for invalid arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if options.tensorflow and not importlib.util.find_spec("tensorflow"):
        raise UserError("--tensorflow: TensorFlow is not installed; pip install 'nn-three-ways[tensorflow]' brings it")
    chosen = [presets.get(name) for name in dict.fromkeys(options.presets or presets.DEFAULT)]
    configs = [dataclasses.replace(config, **cli.given(options)) for config in chosen]
    from compare.benchmark import report, results

    before = results.read(options.against) if options.against else None
    options.out = cli.output_folder(options.out, "benchmark-")
    cli.require_writable(options.out)
    found = run(options, configs, command=shlex.join(["python", "-m", "compare.benchmark", *arguments]))
    print("\n" + report.summary(found, before))
    for path in report.write(found, options.out, before):
        print(path)
    return report.status(found, before)


if __name__ == "__main__":
    sys.exit(main())

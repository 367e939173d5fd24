"""Time every track in its plain and its fast variant, in fresh processes that take turns.

    python -m compare.benchmark                               the MLP and the CNN, all tracks
    python -m compare.benchmark cnn-mnist --tracks jax torch --repeats 9 --threads 1
    python -m compare.benchmark mlp-mnist --quick             one short repeat: speeds, not ranked
    python -m compare.benchmark mlp-mnist --target 0.98       also the cold time to a validation accuracy
    python -m compare.benchmark mlp-mnist --sweep             also how cost grows with batch, width and steps
    python -m compare.benchmark mlp-mnist --tensorflow        also a plain Keras script on the same batches
    python -m compare.benchmark cnn-mnist --device gpu --precision bfloat16
    python -m compare.benchmark mlp-mnist --against OLD.json  which variants became significantly slower
    python -m compare.benchmark mlp-mnist --entry             also this machine's entry for docs/machines.md

Tracks are timed only after they pass the parity check, and no speed is shown for a process whose first losses differ
from the others'. Ctrl-C stops the benchmark and reports the processes that have ended.
`python -m compare.report DIR` writes the report and its plots again.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence

from compare import cli, machine, overrides, presets, tracks
from compare.benchmark.results import Benchmark
from compare.benchmark.session import Session, begin
from compare.cli import command_line
from compare.config import Config
from compare.errors import require_packages


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("benchmark", __doc__, what="what to measure")
    options.add_argument("presets", nargs="*", metavar="PRESET", help=f"default: {' '.join(presets.DEFAULT)}")
    cli.add_network(options)
    cli.add_tracks(options)
    cli.add_settings(options, "batch_size", "dataset", "data_dir", "device")
    cli.group(options, "devices").add_argument(
        "--precision", type=cli.one_of("precision", ("float32", "bfloat16")), metavar="float32|bfloat16",
        help="precision of the matmuls (default: the preset's)",
    )  # fmt: skip
    measured = cli.group(options, "what to measure")
    length = measured.add_mutually_exclusive_group()
    length.add_argument(
        "--repeats", type=cli.number(int), default=5, metavar="N", help="fresh processes for each variant (default: 5)"
    )
    length.add_argument("--quick", action="store_true", help="one repeat of the fewest steps; speeds are not ranked")
    measured.add_argument(
        "--min-time",
        type=cli.seconds,
        default=5.0,
        metavar="5s",
        help="time of timed steps in each process (default: 5s)",
    )
    measured.add_argument(
        "--threads", type=cli.one_of("number of threads", ("1", "all")), default="all", metavar="1|all",
        help="cores to use (default: all)",
    )  # fmt: skip
    measured.add_argument(
        "--target", type=cli.number(float, 0, 1, above=True), metavar="X",
        help="also the time from a cold start to this validation accuracy, 0 to 1",
    )  # fmt: skip
    measured.add_argument("--sweep", action="store_true", help="also how cost grows with batch, width and steps")
    measured.add_argument("--tensorflow", action="store_true", help="also a plain Keras script, as a second baseline")
    measured.add_argument("--no-layers", action="store_true", help="leave out the roofline of single layers")
    measured.add_argument("--against", type=cli.path, metavar="OLD", help="an earlier benchmark.json to compare with")
    cli.add_output(options, default="benchmark-")
    cli.group(options, "output").add_argument(
        "--entry", action="store_true", help="also write entry.json, this machine's entry for docs/machines.md"
    )
    cli.add_json(options, "the speed of every variant and the verdicts")
    return options


def run(options: argparse.Namespace, configs: list[Config], command: str) -> Benchmark:
    """Measure all that was asked for, on the same cores; after Ctrl-C or SIGTERM, return what has been measured."""
    from compare.benchmark import variants

    start = time.perf_counter()
    threads = machine.cores() if options.threads == "all" else 1
    repeats, min_seconds = (1, 0.0) if options.quick else (options.repeats, options.min_time)
    with variants.on_cores(threads):
        started = begin(
            configs, repeats=repeats, target=options.target, min_seconds=min_seconds, threads=threads, command=command
        )
        names = tracks.supporting(configs[0].precision, options.tracks)
        session = Session(configs, names, options.tensorflow, threads, options.out, _say, started)
        try:
            session.check_parity()
            for number in range(repeats):
                session.repeat(number, options.target)
            on_cpu = all(config.device == "cpu" for config in configs)
            if on_cpu and not (options.no_layers or options.network):  # a roofline of one core, of layers that it knows
                session.layers()
            if options.sweep:
                session.sweep()
            session.results["status"] = "finished"
        except KeyboardInterrupt:
            _say("\nStopped; the processes that have ended are reported.")
            session.results["status"] = "interrupted"
        finally:
            session.results["seconds"] = round(time.perf_counter() - start)
            session.save()
    return session.results


def _say(text: str) -> None:
    print(text, flush=True)


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all went well, 1 if a speed cannot be shown or became slower, 2 for a usage error, 130 if stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    with cli.figures(options.json) as show:
        return measure(options, shlex.join(["python", "-m", "compare.benchmark", *arguments]), show)


def measure(options: argparse.Namespace, command: str, show: cli.Show) -> int:
    """Check what was asked for, measure it, and write and print the report; returns the exit status."""
    if options.tensorflow:
        require_packages("--tensorflow", "tensorflow", extra="tensorflow")
    configs = [
        overrides.fitted(dataclasses.replace(config, **cli.given(options)))
        for config in presets.chosen(options.presets, options.network)
    ]
    if options.network:
        from compare import networks

        networks.require_same_network(configs[0])
        options.tracks = networks.available(configs[0].model, options.tracks, asked=options.tracks is not cli.TRACKS)
    from compare.benchmark import entry, report, results
    from compare.files import write_json
    from compare.training import preflight

    before = results.read(options.against) if options.against else None
    options.out = cli.output_folder(options.out, "benchmark-")
    cli.require_writable(options.out)
    preflight.require(configs, options.tracks, folder=options.out)
    found = run(options, configs, command)
    show(report.figures(found, options.out, before), lambda: print("\n" + report.summary(found, before)))
    for path in report.write(found, options.out, before):
        print(path)
    if options.entry:
        print(write_json(options.out / "entry.json", entry.of_benchmark(found)))
    return 130 if found["status"] == "interrupted" else report.status(found, before)


if __name__ == "__main__":
    sys.exit(main())

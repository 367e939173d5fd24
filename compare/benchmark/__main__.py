"""The benchmark: every track in its plain and in its fast form, in fresh processes that take turns.

python -m compare.benchmark                               the MLP and the CNN, all tracks
python -m compare.benchmark cnn-mnist --tracks jax torch --repeats 9 --threads 1
python -m compare.benchmark mlp-mnist --target 0.98       also the cold time to a validation accuracy
python -m compare.benchmark mlp-mnist --sweep             also how cost grows with batch, width and steps
python -m compare.benchmark mlp-mnist --tensorflow        also a plain Keras script on the same batches
python -m compare.benchmark cnn-mnist --device gpu --precision bfloat16
python -m compare.benchmark mlp-mnist --against OLD.json  what became slower, beyond noise

No speed is measured before the tracks are proven to be one model, and none is shown of a process whose first losses
are not those of all the others. python -m compare.benchmark.report DIR writes the report and its pictures again.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare import machine, presets, tracks
from compare.benchmark.session import Benchmark, begin
from compare.cli import command_line
from compare.config import Config
from compare.errors import UserError

TRACKS = ("numpy", "jax", "torch")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m compare.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("presets", nargs="*", metavar="PRESET", help=f"default: {' '.join(presets.DEFAULT)}")
    options.add_argument("--tracks", nargs="+", choices=TRACKS, default=list(TRACKS), metavar="TRACK")
    options.add_argument("--repeats", type=int, default=5, metavar="N", help="fresh processes for each (default: 5)")
    options.add_argument("--batch-size", type=int, metavar="N", help="instead of the preset's")
    options.add_argument("--precision", choices=("float32", "bfloat16"), help="of the products (default: the preset's)")
    options.add_argument("--device", type=tracks.parse_device, metavar="auto|cpu|gpu[:i]", help="of JAX and PyTorch")
    options.add_argument("--threads", choices=("1", "all"), default="all", help="cores to use (default: all)")
    options.add_argument("--target", type=float, metavar="X", help="also the cold time to this validation accuracy")
    options.add_argument("--sweep", action="store_true", help="also how cost grows with batch, width and steps")
    options.add_argument("--tensorflow", action="store_true", help="also a plain Keras script, as a second yardstick")
    options.add_argument("--no-layers", action="store_true", help="no layers one by one, no roofline")
    options.add_argument("--against", type=Path, metavar="OLD", help="an earlier benchmark.json to compare with")
    options.add_argument("--data-dir", metavar="DIR", help="where datasets are that do not ship (or set NN_DATA_DIR)")
    options.add_argument("--out", type=Path, metavar="DIR", help="where results go (default: runs/benchmark-DATE_TIME)")
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
    """Return 0 if all went well, 1 if a speed cannot be shown or became slower, 2 for a wrong question."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: at least 1")
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: at least 1")
    if options.tensorflow and not importlib.util.find_spec("tensorflow"):
        raise UserError("--tensorflow: TensorFlow is not installed; pip install 'nn-three-ways[tensorflow]' brings it")
    folder = str(Path(options.data_dir).resolve()) if options.data_dir else None
    names = dict.fromkeys(options.presets or presets.DEFAULT)
    asked = {name: getattr(options, name) for name in ("batch_size", "precision", "device")}
    given = {"data_dir": folder} | {name: value for name, value in asked.items() if value is not None}
    configs = [dataclasses.replace(presets.get(name), **given) for name in names]
    from compare.benchmark import report, results

    before = results.read(options.against) if options.against else None
    options.out = options.out or Path("runs", f"benchmark-{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}")
    options.out.mkdir(parents=True, exist_ok=True)
    found = run(options, configs, command=shlex.join(["python", "-m", "compare.benchmark", *arguments]))
    print("\n" + report.summary(found, before))
    for path in report.write(found, options.out, before):
        print(path)
    return report.status(found, before)


if __name__ == "__main__":
    sys.exit(main())

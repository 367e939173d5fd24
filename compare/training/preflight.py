"""What would stop a planned run after it has started is found before: devices, data, batch sizes, loaders, disk space.

All planned runs are checked at once, before the parity check and before a folder is made. Devices are checked in a
process of its own, because only a framework knows which ones it can use.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from compare import networks, tracks
from compare.config import Config
from compare.data import batch_indices
from compare.data import load as load_data
from compare.data.loaders import require as require_loader
from compare.errors import UserError
from compare.training.checks import require_images, require_validation
from compare.training.steps import plan
from compare.workers import process
from numpy_nn import optim
from numpy_nn.tree import leaves


def require(configs: Sequence[Config], names: Sequence[str], *, folder: Path, keep: int = 0) -> None:
    """Raise UserError, which lists every problem, unless each config can be trained in each of the tracks.

    Args:
        configs: one for each preset and seed.
        names: tracks, of which each config is trained in those that support its precision.
        folder: where the runs will be saved; it need not exist.
        keep: checkpoints of each run that are kept; 0 if none is saved.
    """
    problems = [
        *device_problems(configs, names),
        *data_problems(configs),
        *disk_problems(configs, len(names), folder=folder, keep=keep),
    ]
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))


def device_problems(configs: Sequence[Config], names: Sequence[str]) -> Iterator[str]:
    """Why JAX and PyTorch cannot use the devices, where other ones than the CPU are asked for."""
    wanted: dict[tuple[str, int], Config] = {}
    for config in configs:
        if config.device != "cpu" and (config.device, config.devices) != ("auto", 1):  # there is always one
            wanted.setdefault((config.device, config.devices), config)
    for config in wanted.values():
        found = [name for name in tracks.supporting(config.precision, names) if name != "numpy"]
        if found:
            arguments = (config.device, str(config.devices), *found)
            yield from process.call(__name__, *arguments, variables=tracks.device_variables(config))


def data_problems(configs: Sequence[Config]) -> Iterator[str]:
    """Why a dataset cannot be had, or does not fit a config: its images, batch size, loader or validation set.

    Each dataset is loaded once; one that can be downloaded is.
    """
    by_data: dict[tuple[str, str | None, int | None], list[Config]] = {}
    for config in configs:
        by_data.setdefault((config.dataset, config.data_dir, config.val_size), []).append(config)
    for (name, data_dir, val_size), same in by_data.items():
        try:
            data = load_data(name, data_dir=data_dir, val_size=val_size, seed=same[0].seed)
        except UserError as error:
            yield f"{' and '.join(dict.fromkeys(config.preset for config in same))}: {error}"
            continue
        for config in same:
            try:
                require_loader(config.loader)
                require_images(config, data)
                require_validation(config, data)
                batch_indices(0, 0, 0, batch_size=config.batch_size, train_size=len(data.train_x))
                plan(config, len(data.train_x))
            except UserError as error:
                yield str(error) if str(error).startswith(config.preset) else f"{config.preset}: {error}"


def disk_problems(configs: Sequence[Config], tracks_each: int, *, folder: Path, keep: int) -> Iterator[str]:
    """Say if the checkpoints do not fit on the disk: ``keep`` of each run, the best, and one that is being written."""
    if not keep:
        return
    sizes = {config.preset: checkpoint_bytes(config) for config in {each.preset: each for each in configs}.values()}
    needed = sum(sizes[config.preset] for config in configs) * tracks_each * (keep + 2)
    free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
    if free < needed:
        runs = len(configs) * tracks_each
        yield (
            f"{folder} has {free / 1e9:.2g} GB of free disk space, and the checkpoints of {runs} runs take up to "
            f"{needed / 1e9:.2g} GB: free some space, choose another folder with --out, or lower --keep"
        )


def checkpoint_bytes(config: Config) -> int:
    """Bytes of a checkpoint in float32: parameters, statistics, the optimizer's slots and the averaged weights."""
    snapshot = networks.first_snapshot(config.model, config.model_args, np.random.default_rng(0))
    numbers = {"params": snapshot["params"], "stats": snapshot["stats"]}
    numbers |= {"opt": optim.init(snapshot["params"], config.optimizer)}
    numbers |= {"ema": snapshot["params"]} if config.ema else {}
    return 4 * sum(leaf.size for leaf in leaves(numbers).values())


def main() -> int:
    """Print a JSON list of why the tracks cannot use a device: arguments DEVICE COUNT TRACK..."""
    device, count, *names = sys.argv[1:]
    problems = []
    for name in names:
        try:
            importlib.import_module(f"{name}_nn.devices").choose(device, int(count))
        except (ValueError, ImportError) as error:
            problems.append(f"--tracks {name}: {error}")
    print(json.dumps(problems))
    return 0


if __name__ == "__main__":
    sys.exit(main())

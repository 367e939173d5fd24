"""The parity check of a comparison, in a process of its own: its parent imports no framework."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from compare import tracks
from compare.config import Config
from compare.parity.check import parity_config
from compare.results.schema import ParityRow
from compare.workers import process


def wanted(configs: Sequence[Config]) -> list[Config]:
    """What is checked: every config in float64, for the formulas, and in the precisions that are timed."""
    precisions = dict.fromkeys(("float64", *(config.precision for config in configs)))
    return [parity_config(config, precision) for precision in precisions for config in configs]


def parts(configs: Sequence[Config], names: Sequence[str]) -> int:
    """How many times :func:`check` calls ``hear``, if no attempt is repeated."""
    return len(_by_device(configs)) + sum(len(tracks.supporting(config.precision, names)) for config in configs)


def check(configs: Sequence[Config], names: Sequence[str], *, hear: Callable[[str], object]) -> list[ParityRow]:
    """The rows of all configs, from one process for those on the same kind of device.

    ``hear`` gets what each process does next. XLA's programs are kept on disk, since nothing is timed here.
    """
    rows: list[ParityRow] = []
    for same in _by_device(configs):
        rows += process.call(
            *("compare.parity", "--configs", json.dumps([config.to_json() for config in same]), "--tracks", *names),
            variables=tracks.device_variables(same[0]) | tracks.compilation_cache(),
            hear=hear,
        )
    return rows


def _by_device(configs: Sequence[Config]) -> list[list[Config]]:
    """The configs in groups with the same environment variables, which JAX reads when it starts."""
    groups: dict[str, list[Config]] = {}
    for config in configs:
        groups.setdefault(json.dumps(tracks.device_variables(config)), []).append(config)
    return list(groups.values())

"""List, describe and verify checkpoints."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compare import cli
from compare.checkpoint.reader import CheckpointError, verified
from compare.checkpoint.store import find, read
from compare.cli import command_line
from numpy_nn.tree import count, leaves


def parser() -> argparse.ArgumentParser:
    """``ls``, ``show`` and ``verify``."""
    options = cli.parser("checkpoint", __doc__)
    commands = options.add_subparsers(dest="command", required=True)
    for name, text in (
        ("ls", "list every checkpoint below a folder"),
        ("show", "describe one checkpoint: that of a step, or the newest of a run"),
        ("verify", "read and check every checkpoint below a folder; exit status 1 if any is damaged"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "directory", type=cli.path, metavar="DIR", help="folder of a comparison, of a run, or of one of its steps"
        )
        if name == "show":
            command.add_argument("--json", action="store_true", help="print its metadata as JSON")
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 if verify found damage, 2 for invalid arguments."""
    options = parser().parse_args(arguments)
    if options.command == "show":
        found = read(options.directory)
        print(json.dumps(found.meta) if options.json else described(found.meta, leaves(found.snapshot)))
        return 0
    return listing(options.directory, quiet=options.command == "ls")


def listing(directory: Path, *, quiet: bool) -> int:
    """Print a line for each checkpoint below a folder; return 1 for damage if not ``quiet``, else 0."""
    paths = find(directory)
    if not paths:
        raise CheckpointError(f"no checkpoint below {directory}")
    damaged = 0
    for path in paths:
        try:
            print(f"{path}  {summary(verified(path).meta)}{'' if quiet else '  whole'}")
        except CheckpointError as error:
            print(error)
            damaged += 1
    if not quiet:
        print(f"{len(paths) - damaged} of {len(paths)} checkpoints are whole")
    return 0 if quiet else int(damaged > 0)


def summary(meta: Mapping[str, Any]) -> str:
    """One line: model, dataset, track, seed, step, validation accuracy."""
    config = meta.get("config") or {}
    accuracy = (meta.get("metrics") or {}).get("val_accuracy")
    words = [
        f"{config.get('model', '?')} on {config.get('dataset', '?')}",
        str(meta.get("track", "?")),
        f"seed {config.get('seed', '?')}",
        f"step {meta['step']:,}",
        *([f"validation accuracy {accuracy:.2%}"] if accuracy is not None else []),
    ]
    return ", ".join(words)


def described(meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """Everything about one checkpoint: its metadata, then its arrays."""
    lines = [summary(meta)]
    for name, value in meta.items():
        if name == "arrays":  # digests
            continue
        if isinstance(value, Mapping):
            lines += [name, *(f"  {key}: {each}" for key, each in value.items() if each not in (None, {}, []))]
        else:
            lines.append(f"{name}: {value}")
    lines.append(f"arrays: {len(arrays)}, {count(dict(arrays)):,} numbers")
    lines += [f"  {path} {array.dtype} {array.shape}" for path, array in arrays.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

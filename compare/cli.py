"""What the command lines share: argument types, common flags, and how a command ends."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

from compare.config import Interval
from compare.errors import UserError

TRACKS = ("numpy", "jax", "torch")
LOADERS = ("memory", "torch", "tfds", "tfdata", "grain")


def add_saving(options: argparse.ArgumentParser) -> None:
    """How often a training saves itself, and how many of its checkpoints stay."""
    options.add_argument(
        "--save-every",
        type=Interval.parse,
        default=Interval.parse("60s"),
        metavar="N",
        help="save after N steps, or after N seconds with an s behind it (default: 60s), and at the end",
    )
    options.add_argument(
        "--keep",
        type=positive(int),
        default=2,
        metavar="K",
        help="keep the last K checkpoints of a run, and the best by validation (default: 2)",
    )


def positive(kind: type[int] | type[float]) -> Any:
    """A number above zero, as argparse wants it."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text!r} is not a positive {'number' if kind is float else 'integer'}")
        return value

    return convert


Arguments = ParamSpec("Arguments")


def told(error: UserError) -> int:
    """Print what is wrong; returns the exit status for it, 2."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def command_line(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """A ``main`` that ends without a traceback where none would help.

    Status 2 for what the user can mend, 130 after Ctrl-C, and 141, as other programs have it, where whoever reads has
    seen enough (``| head``).
    """

    @functools.wraps(main)
    def ending_well(*arguments: Arguments.args, **options: Arguments.kwargs) -> int:
        try:
            status = main(*arguments, **options)
            sys.stdout.flush()
            return status
        except UserError as error:
            return told(error)
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more when it ends
            return 141

    return ending_well


def require_writable(directory: Path) -> None:
    """Make the folder and try it, before hours of training find out; never write over another comparison."""
    if (directory / "results.json").exists():
        raise UserError(
            f"{directory} holds a comparison already; choose another folder with --out, or go on with --resume"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {directory} ({error.strerror}); choose another folder with --out") from error

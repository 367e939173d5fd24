"""List the commands of this project, or run one: ``nn3 train --help``, or ``python -m compare train --help``."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compare import cli, presets
from compare.cli import command_line
from compare.errors import UserError, suggestion

# Group -> name of a command -> what it runs, a module of this package and maybe a subcommand of it.
GROUPS = {
    "Train and compare": {
        "train": "run_all",
        "parity": "parity",
        "ports": "ports",
        "report": "report",
        "checkpoint": "checkpoint",
        "ui": "tracking ui",
        "log": "tracking log",
        "best": "tracking best",
    },
    "Measure": {
        "doctor": "doctor",
        "bench": "benchmark",
        "record": "record",
        "loaders": "loaders",
        "eval": "eval",
    },
    "Find and reuse networks": {
        "search": "search",
        "transfer": "transfer",
        "launch": "launch",
        "import": "pretrained import",
        "export": "export",
    },
    "Try and learn": {
        "predict": "predict",
        "generate": "generate",
        "play": "play",
        "side-by-side": "side_by_side",
        "bugs": "bugs",
    },
    "Maintain this project": {
        "entries": "entries",
        "shipped": "shipped",
    },
}
SUBCOMMANDS = {
    "ui": "Open MLflow's page of the runs.",
    "log": "Log comparisons to MLflow that were not logged while they ran.",
    "best": "Register the best networks of a comparison in MLflow.",
    "import": "Import weights that were trained elsewhere, as a checkpoint that every track reads.",
}
FOLDER = Path(__file__).resolve().parent
SHELLS = ("bash", "zsh", "tcsh")
COMPLETION = f"nn3 completion {'|'.join(SHELLS)} prints a script that completes all this in your shell."


@functools.cache
def modules() -> dict[str, Path]:
    """The file of every module with a command line, by the module's name in this package; nothing is imported."""
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        name = ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__main__")
        if path != Path(__file__).resolve() and "\n@command_line\ndef main(" in path.read_text(encoding="utf-8"):
            found[name] = path
    return found


@functools.cache
def commands() -> dict[str, list[str]]:
    """Every command that is installed: its name -> its module and the first arguments."""
    known = modules()
    every = {name: words.split() for group in GROUPS.values() for name, words in group.items()}
    return {name: words for name, words in every.items() if words[0] in known}


def text(name: str) -> str:
    """What a command does, in a line: the first of its module's docstring, if it runs the whole module."""
    if name in SUBCOMMANDS:
        return SUBCOMMANDS[name]
    source = modules()[commands()[name][0]].read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def listing() -> str:
    """Every command with a line of what it does, in groups."""
    known = commands()
    width = max(map(len, known))
    lines = [
        "nn3 COMMAND ...   runs one of these, as does python -m compare COMMAND; COMMAND --help explains its flags"
    ]
    for title, names in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {text(name)}" for name in names if name in known)]
    return "\n".join([*lines, "", COMPLETION])


# --- completion -------------------------------------------------------------------------------------------------------


def options_of(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command, or of its subcommand."""
    path = modules()[words[0]].relative_to(FOLDER.parent).with_suffix("")
    parser: argparse.ArgumentParser = importlib.import_module(".".join(path.parts)).parser()
    return subcommands(parser)[words[1]] if words[1:] else parser


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the subcommands, by their names."""
    return next((dict(each.choices) for each in parser._actions if isinstance(each, argparse._SubParsersAction)), {})


def every_action(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The flags and arguments of a parser and of its subcommands."""
    yield from parser._actions
    for each in subcommands(parser).values():
        yield from every_action(each)


def completion(shell: str) -> str:
    """A script for bash, zsh or tcsh that completes commands, flags, presets, models, tracks and files."""
    import shtab

    from numpy_nn.models import MODELS

    names: dict[Any, Sequence[str]] = {"PRESET": list(presets.PRESETS), "MODEL": list(MODELS), "TRACK": cli.TRACKS}
    root = argparse.ArgumentParser(prog="nn3", description=__doc__)
    added = root.add_subparsers()
    for name, words in commands().items():
        parser = options_of(words)
        added.add_parser(
            name, parents=[parser], help=text(name), description=parser.description, conflict_handler="resolve"
        )
    added.add_parser("completion", help="Print a script that completes commands in your shell.")
    for action in every_action(root):
        if action.type in (cli.path, cli.output, cli.network):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.choices is None and isinstance(action.metavar, str):
            action.choices = names.get(action.metavar) or (action.metavar.split("|") if "|" in action.metavar else None)
    return shtab.complete(root, shell)


# --- running a command ------------------------------------------------------------------------------------------------


def resolve(name: str, program: str) -> list[str]:
    """Module and first arguments of a command, by its name or its module's; UserError for any other name."""
    known, others = commands(), modules()
    if name in known or name in others:
        return known.get(name) or [name]
    if name in presets.PRESETS:
        raise UserError(f"{name!r} is a preset, not a command: {program} train {name}")
    from numpy_nn.models import MODELS

    if name in MODELS:
        preset = next(config.preset for config in presets.PRESETS.values() if config.model == name)
        raise UserError(f"{name!r} is a model, not a command: {program} train {preset}, or {program} parity {name}")
    close = suggestion(name, [*known, *others, *presets.PRESETS])
    raise UserError(f"unknown command {name!r}.{close} Known: {', '.join(known)}")


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list, or run a command; returns its exit status, and 2 if there is none of this name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    program = "nn3" if Path(sys.argv[0]).stem == "nn3" else "python -m compare"
    if not given or given[0] in ("-h", "--help"):
        print(listing())
        return 0
    if given[0] == "completion":
        cli.program = f"{program} completion"
        options = cli.parser(
            "completion", f"{completion.__doc__}\n\n    nn3 completion bash > nn3.bash; source nn3.bash"
        )
        options.add_argument("shell", choices=SHELLS, help="shell that reads the script")
        print(completion(options.parse_args(given[1:]).shell))
        return 0
    module, *first = resolve(given[0], program)
    cli.program = program if first else f"{program} {given[0]}"
    sys.argv[1:] = [*first, *given[1:]]
    runpy.run_module(f"compare.{module}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

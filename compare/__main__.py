"""List the commands of this project, or run one: ``python -m compare run_all --help``, or ``nn3 train --help``."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from compare.cli import command_line
from compare.errors import look_up

GROUPS = {
    "Train and compare": ("run_all", "parity", "ports", "report", "checkpoint", "tracking"),
    "Measure": ("doctor", "benchmark", "record", "entries", "loaders"),
    "Find and reuse networks": (
        "search",
        "transfer",
        "launch",
        "pretrained",
        "export",
        "shipped",
    ),
    "Try and learn": ("predict", "play", "side_by_side", "bugs"),
}
ALIASES = {"train": ["run_all"], "bench": ["benchmark"], "import": ["pretrained", "import"]}
FOLDER = Path(__file__).resolve().parent


def commands() -> dict[str, str]:
    """What each command does, by its name: the first line of the docstring of every module with a command line.

    Nothing is imported.
    """
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        name = ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__main__")
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__).resolve() and "\n@command_line\ndef main(" in text:
            found[name] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def listing() -> str:
    """Every command with a line of what it does, in groups."""
    known = commands()
    width = max(map(len, known))
    lines = [
        "python -m compare COMMAND ...   runs one of these, as does nn3 COMMAND; COMMAND --help says what it takes"
    ]
    for title, names in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {known[name]}" for name in names)]
    short = (f"{alias} = {' '.join(words)}" for alias, words in ALIASES.items())
    return "\n".join([*lines, "", f"Aliases: {', '.join(short)}"])


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the list, or run a command; returns its exit status, and 2 if there is none of this name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(listing())
        return 0
    name, *rest = [*ALIASES.get(given[0], given[:1]), *given[1:]]
    look_up("command", name, commands())
    sys.argv[1:] = rest
    runpy.run_module(f"compare.{name}", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The table of the loaders, from loaders.json alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compare.loaders.results import Loaders, problems, read

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = {  # heading: key and format
    "images/s": ("images_per_second", ",.0f"),
    "start s": ("start_seconds", ".1f"),
    "memory MB": ("memory_mb", ".0f"),
    "step ms": ("step_ms", ".2f"),
    "input wait": ("input_share", ".1%"),
}


def show(results: Loaders, console: Console) -> None:
    """Print medians over the repeats, and why a loader has none."""
    from rich.table import Table

    repeats = len({trial["repeat"] for trial in results["trials"]})
    title = f"Loaders of {results['dataset']}, training with {results['track']}"
    table = Table(title=title, caption=f"medians of {repeats}" if repeats > 1 else "one run each: not ranked")
    table.add_column("loader")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    wrong = problems(results["trials"])
    for loader in results["loaders"]:
        trials: list[Any] = [trial for trial in results["trials"] if trial["loader"] == loader]
        if loader in wrong or not trials:
            table.add_row(loader, *["-"] * len(COLUMNS))
            continue
        cells = [format(statistics.median(t[key] for t in trials), form) for key, form in COLUMNS.values()]
        table.add_row(loader, *cells)
    console.print(table)
    for loader, problem in wrong.items():
        console.print(f"{loader}: {problem}", markup=False, highlight=False)


def again(path: Path) -> Loaders:
    """Show the table of a loaders.json, or of the one in a folder, again, and return it."""
    from rich.console import Console

    found = read(path)
    show(found, Console())
    return found

"""Progress of training: a live bar in a terminal, plain lines in a file.

with Progress() as progress:
    progress.begin("mlp-mnist jax seed 0", 4300)
    progress.update(430, loss=0.21, accuracy=0.958, images_per_second=31_000)
    progress.end("mlp-mnist jax seed 0", "98.31 %, 30 s")
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

REFRESH_HZ = 4  # low, because training needs every core


class Progress:
    """The current run: a live bar if the console is a terminal, else a line per evaluation.

    Each run leaves one line. The `with` block restores the terminal's cursor however it ends.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bars = _bars(self.console) if self.console.is_interactive else None
        self._label, self._total, self._first_step, self._began = "", 0, 0, 0.0
        self._seen: dict[str, str] = {}
        self._examples = "images"

    def __enter__(self) -> Progress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._drop_bar()
            self._bars.stop()

    def begin(self, label: str, total_steps: int, *, step: int = 0, examples: str = "images") -> None:
        """Show a run from `step` on: 0, or where it resumes. Its speed is that of `examples` per second."""
        self._label, self._total, self._first_step, self._began = label, total_steps, step, time.perf_counter()
        self._seen, self._examples = {}, examples
        if self._bars:
            self._drop_bar()
            self._bars.add_task(escape(label), total=total_steps, completed=step, status="starting")
        else:
            self.note(f"{label}: {total_steps - step:,} steps")

    def update(
        self,
        step: int,
        *,
        loss: float | None = None,
        accuracy: float | None = None,
        images_per_second: float | None = None,
    ) -> None:
        """Show the state of the run. Omitted values keep their last value; plain mode prints only evaluations."""
        given = {
            "loss": None if loss is None else f"loss {loss:.4f}",
            "accuracy": None if accuracy is None else f"accuracy {100 * accuracy:.2f} %",
            "speed": None if images_per_second is None else f"{images_per_second:,.0f} {self._examples}/s",
        }
        self._seen |= {name: text for name, text in given.items() if text is not None}
        status = "  ".join(self._seen[name] for name in given if name in self._seen)
        if self._bars:
            for task in self._bars.task_ids:
                self._bars.update(task, completed=step, status=status)
        elif accuracy is not None:
            self.note(f"{self._label}: step {step:,}/{self._total:,}  {status}  {self._time_left(step)}")

    def end(self, label: str, text: str) -> None:
        """Replace the bar of a run by one permanent line."""
        self._drop_bar()
        self.note(f"{label}: {text}")

    def stage(self, label: str, total: int) -> Callable[[str], None]:
        """Show a stage before training as a bar, or as a line per part; returns a function to call with each part."""
        parts = itertools.count()
        if self._bars:
            self._drop_bar()
            self._bars.add_task(escape(label), total=total, status="starting")

        def began(part: str) -> None:
            done = min(next(parts), total)  # a part may be repeated
            if not self._bars:
                self.note(f"  {part}")
                return
            for task in self._bars.task_ids:
                self._bars.update(task, completed=done, status=part)

        return began

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _time_left(self, step: int) -> str:
        """Remaining time at the mean speed of this run so far."""
        done = step - self._first_step
        if done <= 0:
            return ""
        return f"{(self._total - step) * (time.perf_counter() - self._began) / done:,.0f} s left"

    def _drop_bar(self) -> None:
        if self._bars:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)


def _bars(console: Console) -> Bars:
    """The live display: label, a bar if the terminal is wide enough, steps, latest metrics, time left."""
    one_line = Column(no_wrap=True, overflow="ellipsis")
    return Bars(
        TextColumn("{task.description}", table_column=one_line),
        *([BarColumn(bar_width=24)] if console.width >= 110 else []),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False, table_column=one_line.copy()),
        TimeRemainingColumn(compact=True),
        console=console,
        refresh_per_second=REFRESH_HZ,
        transient=True,
    )

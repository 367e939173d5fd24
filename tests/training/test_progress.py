"""The live display: what it says, how often, and that it gives the terminal back."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from compare.progress import Progress

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def console(*, terminal: bool, width: int = 120) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, force_interactive=terminal, width=width), file


def test_without_a_terminal_each_evaluation_prints_one_plain_line():
    screen, file = console(terminal=False)
    with Progress(screen) as progress:
        progress.begin("mlp [x] jax seed 0", 1000)
        for step in range(1, 1001):
            progress.update(step, loss=0.5, images_per_second=31_234.5, accuracy=0.9875 if step % 500 == 0 else None)
        progress.end("mlp [x] jax seed 0", "98.75 %")
    assert "\x1b" not in file.getvalue()
    lines = file.getvalue().splitlines()
    assert lines[0] == "mlp [x] jax seed 0: 1,000 steps"
    assert len(lines) == 4
    assert lines[1].startswith("mlp [x] jax seed 0: step 500/1,000  loss 0.5000  accuracy 98.75 %  31,234 images/s")
    assert lines[1].endswith("s left")
    assert lines[3] == "mlp [x] jax seed 0: 98.75 %"


@pytest.mark.parametrize("width", [60, 80, 140])
def test_terminal_bar_ends_as_a_permanent_line(width: int):
    screen, file = console(terminal=True, width=width)
    with Progress(screen) as progress:
        progress.begin("cnn torch", 10, step=4)
        progress.update(7, loss=0.25)
        assert progress._bars is not None
        progress._bars.refresh()
        assert "7/10" in file.getvalue()
        progress.note("a remark")
        progress.end("cnn torch", "done")
    shown = file.getvalue()
    assert "a remark" in shown
    assert "cnn torch: done" in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_cursor_is_restored_after_an_exception(error: type[BaseException]):
    screen, file = console(terminal=True)

    def train() -> None:
        with Progress(screen) as progress:
            progress.begin("mlp numpy", 10)
            raise error

    with pytest.raises(error):
        train()
    shown = file.getvalue()
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)


def test_resumed_run_counts_only_its_own_steps():
    screen, file = console(terminal=False)
    with Progress(screen) as progress:
        progress.begin("mlp jax", 100, step=90)
        progress.update(90, accuracy=0.5)
    assert "mlp jax: 10 steps" in file.getvalue()
    assert "left" not in file.getvalue()


def test_a_text_is_read_in_windows():
    screen, file = console(terminal=False)
    with Progress(screen) as progress:
        progress.begin("gpt jax", 100, examples="windows")
        progress.update(50, accuracy=0.5, images_per_second=41)
        progress.begin("mlp jax", 100)
        progress.update(50, accuracy=0.5, images_per_second=42)
    assert "41 windows/s" in file.getvalue()
    assert "42 images/s" in file.getvalue()


def test_a_stage_names_its_parts():
    screen, file = console(terminal=False)
    with Progress(screen) as progress:
        hear = progress.stage("Parity check", 2)
        hear("mlp numpy")
    assert file.getvalue().splitlines() == ["  mlp numpy"]
    screen, file = console(terminal=True)
    with Progress(screen) as progress:
        hear = progress.stage("Parity check", 2)
        for part in ("mlp numpy", "mlp jax", "mlp jax again"):
            hear(part)
        assert progress._bars is not None
        progress._bars.refresh()
        assert "2/2" in file.getvalue()
        assert "mlp jax again" in file.getvalue()

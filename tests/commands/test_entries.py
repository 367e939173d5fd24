"""Entries of machines: what is refused and why, and the pages that are made of all entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compare.benchmark import entry
from compare.benchmark.entry import Entry
from compare.entries import __main__ as command
from compare.entries import pages
from compare.errors import UserError
from compare.machine import disturbance

QUIET: dict[str, float | None] = {"others": 0.01, "throttled": None, "step_spread": 1.1, "matmul_swing": 1.05}


def benchmark(**changes: Any) -> Any:
    """A benchmark of two variants, three quiet processes each."""
    facts = {"python": "3.11", "platform": "Linux", "cpu": "a CPU", "cores": 2, "threads": 2, "versions": {"jax": "1"}}
    facts |= {"git_commit": "a" * 40, "gemm_gflops": 200.0, "memory_gbs": 12.0, "load": [0.1]}
    plan = {"model": "mlp", "dataset": "mnist", "batch_size": 128, "precision": "float32", "device": "cpu"}
    trials = [
        {"preset": "mlp-mnist", "track": track, "variant": variant, "repeat": repeat, "step_ms": [ms, ms, ms]}
        | {"losses": [2.0, 1.5], "test_accuracy": 0.9, "gemm_gflops": 200.0, "hardware": "cpu", "peak_rss_mb": 99.0}
        | {"disturbance": QUIET | {"preemptions": 1.0, "load": 0.5}, "disturbed": None}
        for track, variant, ms in (("numpy", "plain", 8.0), ("jax", "scan", 4.0))
        for repeat in range(3)
    ]
    pair = {"preset": "mlp-mnist", "precision": "float32", "a": "numpy", "b": "jax", "passed": True, "checks": []}
    made = {"created": "2026-01-01T00:00:00", "status": "finished", "command": "python -m compare.benchmark"}
    made |= {"environment": facts, "presets": {"mlp-mnist": plan | {"flops_per_image": 3_209_216}}}
    return made | {"parity": [pair], "trials": trials, "cold": []} | changes


def test_an_entry_holds_what_its_types_say_and_a_good_one_is_accepted(tmp_path: Path) -> None:
    made = entry.of_benchmark(benchmark())
    (tmp_path / "entry.json").write_text(json.dumps(made))
    assert entry.read(tmp_path) == made
    assert entry.refusals(made) == []
    numpy, jax = made["rows"]
    assert (jax["variant"], jax["step_ms"]) == ("jax scan", [4.0] * 3)
    assert jax["gemm_share"] == pytest.approx(128 * 3_209_216 / 4e-3 / 200e9)
    assert numpy["disturbance"] == QUIET
    assert set(numpy["disturbance"]) == set(disturbance.LIMITS)
    (tmp_path / "entry.json").write_text(json.dumps(made | {"status": "done", "more": 1}))
    with pytest.raises(
        UserError, match=r" is not of this kind or version: \.more: unknown; \.status: 'done' is none of"
    ):
        entry.read(tmp_path)


def change(made: Entry, words: str) -> None:
    """Spoil an entry."""
    row: Any = made["rows"][1]
    if words.startswith("the benchmark is not finished"):
        made["status"] = "interrupted"
    elif words.startswith("its code"):
        made["environment"]["git_commit"] = "a" * 40 + "-dirty"
    elif "not at parity" in words:
        made["parity"][0]["passed"] = False
    elif "parity was not checked" in words:
        made["parity"] = []
    elif "first losses" in words:
        row["problem"] = "its first losses differ from the others'"
    elif words.endswith("the cores"):
        row["disturbance"] = row["disturbance"] | {"others": 0.5}  # although it calls itself undisturbed
    elif "nothing tells" in words:
        row["disturbance"] = dict.fromkeys(QUIET)
    elif "not described" in words:
        made["presets"] = {}
    elif "processes" in words:
        row["step_ms"] = [4.0]
    else:
        made["rows"] = []


@pytest.mark.parametrize(
    "reason",
    [
        "the benchmark is not finished: interrupted",
        "its code is no commit: measure in a checkout without uncommitted changes",
        "mlp-mnist: numpy and jax are not at parity in float32",
        "mlp-mnist, jax scan: parity was not checked",
        "mlp-mnist, jax scan: its first losses differ from the others'",
        "mlp-mnist, jax scan was disturbed: other programs took 50% of the cores",
        "mlp-mnist, jax scan: nothing tells whether other programs disturbed it",
        "mlp-mnist, jax scan: 1 processes, and 3 are needed: measure with --repeats 5",
        "mlp-mnist, jax scan: its preset is not described",
        "it has no rows",
    ],
)
def test_an_entry_is_refused_with_the_reason(reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = entry.of_benchmark(benchmark())
    change(made, reason)
    assert reason in entry.refusals(made)
    file = tmp_path / "entry.json"
    file.write_text(json.dumps(made))
    assert command.main(["check", str(file)]) == 1
    printed = capsys.readouterr().out
    assert "entry.json: refused" in printed
    assert f"  {reason}\n" in printed


def test_check_accepts_and_says_what_is_no_entry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "entry.json").write_text(json.dumps(entry.of_benchmark(benchmark())))
    assert command.main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip().endswith(": accepted")
    (tmp_path / "entry.json").write_text('{"kind": "benchmark"}')
    assert command.main(["check", str(tmp_path / "entry.json")]) == 2
    assert "is not of this kind or version" in capsys.readouterr().err


def test_machines_page_shows_every_entry_as_plain_text(tmp_path: Path) -> None:
    made = entry.of_benchmark(benchmark())
    made["environment"]["cpu"] = "<b>CPU</b> | [x](y)"
    (tmp_path / "entries").mkdir()
    (tmp_path / "records").mkdir()
    (tmp_path / "entries" / "one.json").write_text(json.dumps(made))
    text = pages.pages(tmp_path)[tmp_path / "machines.md"]
    assert "<b>" not in text
    assert "JAX scan" in text
    assert "32,000" in text
    assert "(entries/one.json)" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("| ")} == {9}
    made["parity"][0]["passed"] = False
    (tmp_path / "entries" / "one.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"docs/entries/one.json is refused: mlp-mnist: numpy and jax"):
        pages.pages(tmp_path)


def test_both_pages_are_those_of_the_entries() -> None:
    """After a change of an entry: python -m compare.entries write."""
    for path, text in pages.pages().items():
        assert path.read_text("utf-8") == text, f"{path.name} is not up to date"

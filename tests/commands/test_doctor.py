"""compare.doctor: what it says of a machine, in time, and what it says would be refused is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from compare import machine, run_all
from compare.doctor import __main__ as doctor
from compare.machine import disturbance


def test_it_says_what_the_machine_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.partition("\n\n")[0].splitlines())
    known = {name: value.strip() for name, value in said.items()}
    assert known["cores"].startswith(f"{machine.cores()} usable of ")
    assert known["numpy"] == machine.facts(threads=1)["versions"]["numpy"]
    assert known["idle"].partition(":")[0] in ("yes", "no", "unknown")
    assert known["free disk here"].endswith(" GB")


def test_vector_instructions_are_read_from_cpuinfo(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: A\nflags\t\t: fpu avx2 fma avx512f\n")
    assert doctor.vectors(tmp_path / "cpuinfo") == ["avx512f", "avx2", "fma"]
    assert doctor.vectors(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("others", "answer"), [(0.02, "yes: "), (0.5, "no: other programs took 50%"), (None, "unknown")]
)
def test_a_busy_machine_is_not_quiet(others: float | None, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = disturbance.between(None, None) | {"others": others}
    monkeypatch.setattr(disturbance, "watch", lambda: seen)
    assert doctor.idle().startswith(answer)


def test_what_it_says_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "accelerators", list)
    refused = doctor.refused()
    assert "--device gpu: no accelerator was found" in refused
    assert f"--devices {machine.cores() + 1} or more on the CPU" in refused[0]
    more = machine.cores() + 1
    assert run_all.main(["mlp-mnist", "--devices", str(more), "--batch-size", str(8 * more)]) == 2
    assert f"this process may use {machine.cores()}" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "--tracks jax: flax is not installed" in doctor.refused()
    assert any(line.startswith("--loader grain: the loader grain needs grain") for line in doctor.refused())

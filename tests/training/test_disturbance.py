"""A timed run that other programs disturb is noticed, and a quiet one is not accused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.paths import ROOT

from compare import machine
from compare.machine import cores, cpu_quota, disturbance
from compare.machine.disturbance import Counters, between, reason, spread, swing

SPIN = "while True: pass"


def moment(clock: float, busy: float, own: float, *, throttled: float | None = None, preemptions: int = 0) -> Counters:
    return Counters(clock=clock, cores=2, busy=busy, own=own, throttled=throttled, preemptions=preemptions)


@pytest.mark.parametrize(
    ("busy", "own", "others"),
    [(20.0, 20.0, 0.0), (20.0, 19.0, 0.05), (20.0, 10.0, 0.5), (19.9, 20.0, 0.0)],
)
def test_others_is_what_the_cores_did_beyond_the_own_processes(busy, own, others):
    found = between(moment(100, 7, 3), moment(110, 7 + busy, 3 + own))
    assert found["others"] == others
    assert (reason(found) is None) == (others <= 0.1)


def test_the_reason_names_every_figure_beyond_its_limit():
    found = between(moment(0, 0, 0, throttled=0.0), moment(10, 20, 10, throttled=1.0, preemptions=300))
    assert (found["throttled"], found["preemptions"]) == (0.1, 30.0)
    assert reason(found) == "other programs took 50% of the cores; a CPU quota stopped the run for 10% of its time"
    quiet = between(moment(0, 0, 0), moment(10, 20, 20))
    assert reason(quiet) is None
    assert "3.0 times as long" in (reason(quiet | {"step_spread": 3.0}) or "")
    assert "changed by a factor of 2.0" in (reason(quiet | {"matmul_swing": 2.0}) or "")


def test_too_short_a_time_is_not_judged():
    found = between(moment(0, 0, 0), moment(0.1, 0.2, 0.0))
    assert found["others"] is None
    assert reason(found) is None
    assert between(None, moment(1, 0, 0))["others"] is None


def test_spread_and_swing():
    assert spread([4.0] * 9 + [400.0]) == 1.0  # one slow step in ten is not the slowest tenth
    assert spread([4.0] * 8 + [12.0] * 2) == 3.0
    assert spread([4.0] * 4) is None
    assert swing([100.0], [150.0, 10.0, 160.0]) == swing([150.0], [100.0]) == 1.5
    assert swing([], [100.0]) is None


def test_the_counters_are_read_from_a_machine_of_four_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    process = tmp_path / "self"
    (process / "task" / "1").mkdir(parents=True)
    (tmp_path / "stat").write_text(
        "cpu  9 9 9 9 9 9 9 9\n"
        "cpu0 100 10 20 500 7 1 2 30 0 0\n"
        "cpu1 200 0 0 500 0 0 0 0 0 0\n"
        "cpu2 900 0 0 0 0 0 0 0 0 0\n"
        "intr 5\n"
    )
    (process / "stat").write_text("1 (a (strange) name) S " + " ".join(map(str, [*range(10), 40, 5, 3, 2, 0])))
    (process / "status").write_text("Name:\tx\nnonvoluntary_ctxt_switches:\t17\n")
    (process / "task" / "1" / "children").write_text("7 8")  # 8 has just ended
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text("7 (child) R " + " ".join(map(str, [*range(10), 10, 0, 0, 0, 0])))
    (tmp_path / "quota").mkdir()
    (tmp_path / "quota" / "cpu.stat").write_text("usage_usec 5\nnr_throttled 2\nthrottled_usec 250000\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    found = disturbance.counters(tmp_path, tmp_path / "quota")
    assert found is not None
    assert (found.cores, found.busy, found.own) == (2, 3.63, 0.6)
    assert (found.throttled, found.preemptions) == (0.25, 17)
    assert disturbance.counters(tmp_path / "absent", tmp_path) is None


def test_the_wait_ends_with_a_quiet_machine_its_time_or_a_stop(monkeypatch: pytest.MonkeyPatch):
    busy = iter([False, False, True])
    monkeypatch.setattr(disturbance, "is_quiet", lambda: next(busy))
    assert disturbance.wait_until_quiet(60)
    monkeypatch.setattr(disturbance, "is_quiet", lambda: False)
    assert not disturbance.wait_until_quiet(0.01)
    assert not disturbance.wait_until_quiet(60, stop=lambda: True)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system has no /proc/stat")
def test_programs_that_spin_on_every_core_are_noticed_in_every_attempt():
    # through a shell that ends at once: a child of this process would count as its own
    command = [*("sh", "-c", '"$0" -c "$1" > /dev/null 2>&1 & echo $!'), sys.executable, SPIN]
    spinning = [int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(cores())]
    try:
        marked = 0
        for _ in range(3):
            before = disturbance.counters()
            end = time.monotonic() + 0.7
            while time.monotonic() < end:  # what a timed run does
                sum(range(1000))
            marked += reason(between(before, disturbance.counters())) is not None
        assert marked == 3
    finally:
        for number in spinning:
            os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_cpu_quota_is_read_from_either_cgroup_version(files, quota, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu_quota(tmp_path, tmp_path / "absent") == quota


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        ("0::/jobs.slice/job.scope\n", {"jobs.slice/job.scope/cpu.max": "300000 100000\n"}, 3.0),
        (
            "0::/jobs.slice/job.scope\n",
            {"jobs.slice/cpu.max": "200000 100000\n", "jobs.slice/job.scope/cpu.max": "max 100000\n"},
            2.0,
        ),
        (
            "4:cpu,cpuacct:/job\n0::/\n",
            {"cpu/job/cpu.cfs_quota_us": "50000\n", "cpu/job/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        ("0::/../outside\n", {"cpu.max": "100000 100000\n"}, 1.0),
        ("nonsense\n", {"cpu.max": "max 100000\n"}, None),
    ],
)
def test_a_cpu_quota_of_a_control_group_and_its_parents_counts(own, files, quota, tmp_path):
    for name, content in {"own": own, **{f"fs/{name}": content for name, content in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cpu_quota(tmp_path / "fs", tmp_path / "own") == quota


def test_cores_are_those_of_the_quota(monkeypatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(8))
    assert cores() == 1
    monkeypatch.setattr(machine, "cpu_quota", lambda: 0.2)
    assert cores() == 1
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    assert cores() == 8


def test_commit_is_the_projects_own_or_none(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "vendor" / "compare" / "machine").mkdir(parents=True)
    (tmp_path / "compare" / "machine").mkdir(parents=True)
    (tmp_path / "file").write_text("one")
    git("init")
    git("add", "file")
    git("commit", "-m", "first")
    place = ("compare", "machine", "__init__.py")
    monkeypatch.setattr(machine, "__file__", str(tmp_path.joinpath("vendor", *place)))
    assert machine.git_commit() is None  # the repository around it is another project's
    monkeypatch.setattr(machine, "__file__", str(tmp_path.joinpath(*place)))
    commit = machine.git_commit()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "file").write_text("two")
    assert machine.git_commit() == f"{commit}-dirty"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout, but an unpacked archive")
def test_commit_of_this_checkout_is_found():
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", machine.git_commit())

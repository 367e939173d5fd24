"""The bug zoo: planting and removing a bug restores the sources, and each bug makes a test fail."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT

from compare.bugs import __main__ as bugs
from compare.bugs import copies, mutate, planting, probe
from compare.bugs.bug import CHANGED, RIGHT, WRONG, Bug, which
from compare.bugs.copies import Verdict
from compare.bugs.mutants import mutants
from compare.bugs.planting import BUGS, STATE_FILE, Planted, current, difference, plant, solve, swap
from compare.bugs.showing import measured, sparkline, table
from compare.errors import UserError
from compare.tracks import TRACKS

QUICK = ("split-leak", "labels-apart")  # caught without a framework
every_bug = pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources without any bug, also where somebody is hunting one in them."""
    tree = tmp_path_factory.mktemp("mended")
    with copies.copy_of(ROOT) as copy:
        for file in {bug.file for bug in BUGS.values()}:
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(copy / file, tree / file)
    return tree


@pytest.fixture
def tree(mended: Path, tmp_path: Path) -> Path:
    """A tree to plant in, with a folder of tests as a clone has."""
    (tmp_path / "tree" / "tests").mkdir(parents=True)
    return Path(shutil.copytree(mended, tmp_path / "tree", dirs_exist_ok=True))


@pytest.fixture
def at(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the tree of the command line."""
    monkeypatch.setattr(bugs, "ROOT", tree)
    return tree


def bytes_of(tree: Path) -> dict[str, bytes]:
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_an_installed_package_is_left_alone(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (at / "tests").rmdir()
    before = bytes_of(at)
    assert bugs.main(["plant"]) == 2
    assert f"{at} has no tests: the bug zoo needs a clone of the whole project" in capsys.readouterr().err
    assert bytes_of(at) == before


# --- the entries ------------------------------------------------------------------------------------------------------


def test_zoo_has_twenty_bugs_of_every_kind():
    assert len(BUGS) == 20
    assert {bug.file.partition("/")[0] for bug in BUGS.values()} == {"numpy_nn", "jax_nn", "torch_nn", "compare"}
    assert {bug.track for bug in BUGS.values()} == set(TRACKS)


@every_bug
def test_right_lines_are_unique_and_wrong_lines_compile(bug: Bug, mended: Path):
    text = planting.read(mended, bug)
    assert text.count(bug.right) == 1
    assert bug.right not in bug.wrong
    broken = text.replace(bug.right, bug.wrong)
    assert which(bug, broken) == WRONG
    assert compile(broken, bug.file, "exec")
    file, _, test = bug.caught_by.partition("::")
    named = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))) if hasattr(node, "name")}
    assert test.partition("[")[0] in named


def test_docs_page_describes_every_bug():
    page = (ROOT / "docs" / "bugs.md").read_text("utf-8")
    assert [name for name in BUGS if f"`{name}`" not in page] == []


# --- in the working tree ----------------------------------------------------------------------------------------------


@every_bug
def test_solving_a_planted_bug_restores_the_tree(bug: Bug, tree: Path):
    before = bytes_of(tree)
    plant(bug, tree)
    changed = {path for path, content in bytes_of(tree).items() if before.get(path) != content}
    assert changed == {bug.file, STATE_FILE.as_posix()}
    assert solve(tree) == (bug, WRONG)
    assert bytes_of(tree) == before


def test_solving_restores_only_the_lines_of_the_bug(tree: Path):
    bug = BUGS["conv-stride"]
    plant(bug, tree)
    with (tree / bug.file).open("a", encoding="utf-8") as file:
        file.write("# a note of mine\n")
    solve(tree)
    assert planting.read(tree, bug).endswith("# a note of mine\n")
    assert which(bug, planting.read(tree, bug)) == RIGHT


@pytest.mark.parametrize("memory", [None, "", "{", "[1]", '{"name": "moth"}', '{"moth": 1}'])
def test_bug_without_its_record_is_found_in_the_sources(memory: str | None, tree: Path):
    plant(BUGS["zero-grad"], tree)
    (tree / STATE_FILE).unlink() if memory is None else (tree / STATE_FILE).write_text(memory)
    assert current(tree) == Planted("zero-grad", secret=True)
    with pytest.raises(UserError, match="a bug is already planted, with a secret name"):
        plant(BUGS["adam-bias"], tree)
    assert solve(tree) == (BUGS["zero-grad"], WRONG)
    assert current(tree) is None


def test_fix_by_hand_is_recognised(at: Path, capsys: pytest.CaptureFixture):
    plant(BUGS["norm-variance"], at)
    swap(BUGS["norm-variance"], at, WRONG)
    assert bugs.main(["solve"]) == 0
    assert "You have already fixed it. Well done!" in capsys.readouterr().out
    assert current(at) is None


def test_fix_with_other_code_is_left_alone(at: Path, capsys: pytest.CaptureFixture):
    bug = BUGS["softmax-overflow"]
    plant(bug, at)
    text = planting.read(at, bug).replace(bug.wrong, "shifted = x - np.max(x, axis=-1, keepdims=True)")
    planting.write(at, bug, text)
    assert which(bug, text) == CHANGED
    assert bugs.main(["solve"]) == 2
    error = capsys.readouterr().err
    assert "solve --keep" in error
    assert bug.right in error
    assert planting.read(at, bug) == text
    capsys.readouterr()
    assert bugs.main(["solve", "--keep"]) == 0
    assert "-shifted = x\n+shifted = x - x.max" in capsys.readouterr().out
    assert planting.read(at, bug) == text
    assert current(at) is None


def test_changed_file_gets_no_bug(at: Path, capsys: pytest.CaptureFixture):
    bug = BUGS["lstm-gates"]
    planting.write(at, bug, planting.read(at, bug).replace(bug.right, "i, f, g, o = four"))
    before = bytes_of(at)
    assert bugs.main(["plant", bug.name]) == 2
    assert "bug 'lstm-gates' cannot be placed or removed: its lines in jax_nn/recurrent.py" in capsys.readouterr().err
    assert bytes_of(at) == before


def test_errors_name_their_remedy(at: Path, capsys: pytest.CaptureFixture):
    for command, words in {
        "plant zero-gard": "unknown bug 'zero-gard'. Did you mean zero-grad? Known: conv-stride, norm-variance",
        "solve": "no bug is planted: plant one with `python -m compare.bugs plant`",
        "hint": "no bug is planted",
        "check": "give the NAME of a bug, or --all",
        "check zero-grad --all": "give the NAME of a bug, or --all",
        "show moth": "unknown bug 'moth'. Known",
    }.items():
        assert bugs.main(command.split()) == 2
        assert words in capsys.readouterr().err
    assert bugs.main(["plant", "zero-grad"]) == 0
    assert bugs.main(["plant", "adam-bias"]) == 2
    assert (
        "a bug is already planted, 'zero-grad': find it, or run `python -m compare.bugs solve`"
        in capsys.readouterr().err
    )
    (at / "numpy_nn/conv.py").unlink()
    solve(at)
    assert bugs.main(["plant", "pool-ties"]) == 2
    assert "numpy_nn/conv.py cannot be read" in capsys.readouterr().err


def test_secret_bug_is_revealed_only_on_request(at: Path, capsys: pytest.CaptureFixture):
    assert bugs.main(["plant", "--seed", "5"]) == 0
    assert bugs.main(["ls"]) == 0
    told = capsys.readouterr().out
    bug = BUGS[json.loads((at / STATE_FILE).read_text())["name"]]
    assert "A bug is planted." in told
    assert "Planted: one of them (secret)" in told
    assert bug.story not in told
    for words in (bug.symptom, bug.file, bug.caught_by, bug.caught_by):
        assert words not in told
        assert bugs.main(["hint"]) == 0
        hints = capsys.readouterr().out
        assert words in hints
        told = "" if words == bug.caught_by else hints
    assert bugs.main(["solve"]) == 0
    ending = capsys.readouterr().out
    assert all(words in ending for words in (f"It was {bug.name}.", bug.story, bug.lesson, "are restored"))
    first = bug.right.strip().splitlines()[0]
    assert any(line.startswith("+") and first in line for line in ending.splitlines())


def test_diff_is_the_same_before_and_after_planting(tree: Path):
    bug = BUGS["zero-grad"]
    after = difference(bug, tree)
    plant(bug, tree)
    assert difference(bug, tree) == after
    assert "+        state.optimizer.zero_grad()" in after


# --- mutants ----------------------------------------------------------------------------------------------------------

SOURCE = b'''"""About."""
LIMIT = 2.0 * 3


def f(x: int = 1, *, y: bool = True) -> str:
    """What it does."""
    for a, b in zip(x, x, strict=True):
        x += 1
    if not x < 2 and y:
        raise ValueError(f"{x + 1}")
    g(x, key="text", *x)
    return "a" + h(x) if x is None else -x / 2
'''


def test_mutants_are_the_small_edits_of_code_and_of_no_text():
    found = {(each.line, each.old, each.new) for each in mutants("a.py", SOURCE)}
    assert found == {
        (2, "2.0 * 3", "(2.0 / 3)"), (2, "2.0", "4.0"), (2, "3", "4"),
        (5, "1", "2"), (5, "True", "False"),
        (8, "x += 1", "pass"), (8, "1", "2"),
        (9, "not x < 2 and y", "(not x < 2 or y)"), (9, "not x < 2", "(x < 2)"),
        (9, "x < 2", "(x <= 2)"), (9, "2", "3"),
        (11, "g(x, *x, key='text')", "pass"), (11, "g(x, *x, key='text')", "g(x, *x)"),
        (12, "'a' + h(x) if x is None else -x / 2", "('a' + h(x) if not x is None else -x / 2)"),
        (12, "x is None", "(x is not None)"), (12, "-x / 2", "(-x * 2)"), (12, "-x", "(x)"), (12, "2", "3"),
    }  # fmt: skip


def test_a_long_mutant_is_printed_where_it_differs():
    long = ", ".join(f"name{k}=x" for k in range(40))
    found = {str(each) for each in mutants("a.py", f"def f(x):\n    return g({long})".encode())}
    (printed,) = (text for text in found if "name11=x, name13=x" in text)
    assert printed.startswith("a.py:2  …")
    assert "name11=x, name12=x, name13=x" in printed
    assert len(printed) < 180


def test_every_mutant_compiles_and_a_sample_is_a_function_of_its_seed():
    for module, (files, tests) in mutate.MODULES.items():
        paths = [path for pattern in files for path in ROOT.glob(pattern)]
        assert all((ROOT / test.partition("::")[0]).is_file() for test in tests), module
        for path in paths:
            source = path.read_bytes()
            for each in mutants(path.name, source)[::10]:
                assert each.apply(source) != source, each
                assert compile(each.apply(source), path.name, "exec"), each
    modules = list(mutate.MODULES)
    drawn = mutate.sample(ROOT, modules, limit=21, seed=3)
    assert drawn == mutate.sample(ROOT, modules, limit=21, seed=3) != mutate.sample(ROOT, modules, limit=21, seed=4)
    assert [module for module, _ in drawn] == modules * 3
    assert len({mutant for _, mutant in drawn}) == 21


def test_survivors_are_counted_and_the_copy_is_whole_again(monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """With tests that notice every second mutant."""
    seen: list[dict[str, bytes]] = []

    def tested(copy: Path, *tests: str) -> Verdict:
        seen.append({path.name: path.read_bytes() for path in (copy / "compare/checkpoint").glob("*.py")})
        return Verdict(passed=len(seen) % 2 == 1, failed=len(seen) % 2 == 0, words="")

    monkeypatch.setattr(mutate, "tested", tested)
    assert bugs.main(["mutate", "--module", "checkpoint", "--limit", "4", "--seed", "1"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["noticed", "SURVIVED"] * 2
    assert total == "2 of 4 mutants noticed, 2 survived"
    right, *broken = seen
    assert [sum(each[name] != right[name] for name in right) for each in broken] == [1] * 4
    monkeypatch.setattr(mutate, "tested", lambda *_: Verdict(False, True, "assert 1 == 2"))
    assert bugs.main(["mutate", "--module", "checkpoint"]) == 1
    assert "the tests fail without a mutant: assert 1 == 2" in capsys.readouterr().out


# --- in a copy --------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_tests_run_in_the_copy():
    with copies.copy_of(ROOT) as copy:
        file = copy / "compare/data/stream.py"
        file.write_text(file.read_text("utf-8") + "\nraise RuntimeError('the copy, and nothing else')\n", "utf-8")
        verdict = copies.tested(copy, BUGS["split-leak"].caught_by)
        assert not verdict.passed
        assert not verdict.failed  # a file that cannot be imported is no caught bug
        assert "the copy, and nothing else" in verdict.words
        child = copies.run(copy, "compare.data.stream")
        assert "the copy, and nothing else" in child.stderr


@pytest.mark.parametrize("name", QUICK)
def test_planted_bug_fails_its_test(name: str, capsys: pytest.CaptureFixture):
    assert bugs.main(["check", name]) == 0
    told = capsys.readouterr().out
    assert f"caught by {BUGS[name].caught_by}" in told
    assert "1 of 1 caught" in told


@pytest.mark.parametrize(
    ("without", "broken", "words"),
    [
        (Verdict(True, False, ""), Verdict(True, False, "5 passed"), "5 passed"),
        (Verdict(True, False, ""), Verdict(False, False, "no such test"), "no such test"),
        (Verdict(False, True, "assert 2 == 3"), Verdict(False, True, ""), "fails without the bug: assert 2 == 3"),
    ],
)
def test_bug_missed_by_its_test_is_reported(without: Verdict, broken: Verdict, words: str, monkeypatch, capsys):
    monkeypatch.setattr(copies, "check", lambda bug, root: (without, broken))
    assert bugs.main(["check", "--all"]) == 1
    told = capsys.readouterr().out
    assert told.count("MISSED") == 20
    assert words in told
    assert "0 of 20 caught" in told


def test_copy_is_free_of_planted_bugs(tmp_path: Path):
    with copies.copy_of(ROOT) as first:
        tree = shutil.copytree(first, tmp_path / "tree")
    plant(BUGS["labels-apart"], tree)
    with copies.copy_of(tree) as copy:
        assert which(BUGS["labels-apart"], planting.read(copy, BUGS["labels-apart"])) == RIGHT
    assert which(BUGS["labels-apart"], planting.read(tree, BUGS["labels-apart"])) == WRONG
    shutil.rmtree(tree / "tests")
    with (
        pytest.raises(UserError, match=r"has no tests: the bug zoo needs a clone of the whole project"),
        copies.copy_of(tree),
    ):
        pass


@pytest.mark.long
def test_symptom_probe_passes_on_correct_code():
    config = dataclasses.replace(probe.CONFIG, steps=40)
    curve = probe.curve(config, "numpy")
    assert curve["loss"][0] > 2 > 1 > np.mean(curve["loss"][-10:])
    assert curve["test"] > 0.7
    assert probe.gradients(dataclasses.replace(config, precision="float64"), "numpy") < 1e-6  # observed: 1e-8


def test_failing_probe_shows_its_error(monkeypatch: pytest.MonkeyPatch):
    right = {"curve": {"loss": [2.0], "step_ms": 1.0, "val": 0.9, "test": 0.9}, "gradients": 1e-9}
    right["parity"] = {"what": "logits", "worst_leaf": "logits", "max_rel": 1e-15}
    monkeypatch.setattr(probe, "load", lambda *_, **__: 1 / 0)
    stopped = probe.whatever_happens(probe.curve, probe.CONFIG, "numpy")
    assert stopped == {"stopped": "ZeroDivisionError: division by zero"}
    cells = list(table(BUGS["zero-grad"], right, dict.fromkeys(right, stopped)).columns[2].cells)
    assert cells.count("stops: ZeroDivisionError: division by zero") == 4
    assert len(cells) == 7


@pytest.mark.long
def test_shown_symptoms_are_measured(capsys: pytest.CaptureFixture):
    without, broken = measured(BUGS["loss-mean-axis"], ROOT)
    assert broken["curve"]["loss"] == pytest.approx([loss / 10 for loss in without["curve"]["loss"]], rel=1e-5)
    assert broken["curve"]["test"] == without["curve"]["test"] > 0.8
    assert without["gradients"] < 1e-6
    assert broken["gradients"] > 0.5
    assert without["parity"]["max_rel"] < 1e-12
    assert broken["parity"]["what"] == "losses"


def test_sparkline_accepts_any_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1e9, float("nan"), float("inf")], 8) == "█××"


@pytest.mark.long
def test_interrupted_command_leaves_no_copies(tmp_path: Path):
    before = {path: (ROOT / path).read_bytes() for path in {bug.file for bug in BUGS.values()}}
    asked = [sys.executable, "-m", "compare.bugs", "check", "conv-stride"]
    process = subprocess.Popen(asked, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, process_group=0)
    while not list(tmp_path.glob("bugs-*/pyproject.toml")) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(200) == 130
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert {path: (ROOT / path).read_bytes() for path in before} == before


@pytest.mark.long
@pytest.mark.timeout(900)  # twenty tests in one
def test_every_catching_test_passes_without_a_bug():
    with copies.copy_of(ROOT) as copy:
        verdict = copies.tested(copy, *(bug.caught_by for bug in BUGS.values()))
    assert verdict.passed, verdict.words


@pytest.mark.long
@every_bug
def test_every_bug_is_caught(bug: Bug):
    """Red for its own reason: pytest ends with 1, for a test that failed, and not for one that could not be run."""
    with copies.copy_of(ROOT) as copy:
        swap(bug, copy, RIGHT)
        verdict = copies.tested(copy, bug.caught_by)
    assert verdict.failed, f"{bug.name} is in {bug.file}, and {bug.caught_by} did not fail: {verdict.words}"

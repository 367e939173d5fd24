"""Every `python` command in the README and in docs/ runs as it is printed, what trains for minutes cut short."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT
from support.printed_commands import cases

from compare.__main__ import resolve

# What is put behind a command of this module so that it ends soon; of a flag given twice the last counts.
CUTS = {
    "compare": "",
    "compare.benchmark": "--tracks numpy --repeats 1 --no-layers --threads 1",
    "compare.checkpoint": "",
    "compare.doctor": "",
    "compare.eval": "",
    "compare.export": "",
    "compare.loaders": "--repeats 1 --loaders memory",
    "compare.parity": "--steps 2",
    "compare.predict": "",
    "compare.pretrained": "",
    "compare.report": "",
    "compare.run_all": "--steps 4 --skip-parity",
    "compare.search": "--steps 4 --trials 1 --tracks numpy",
    "compare.tracking": "",
    "compare.side_by_side": "mlp --out new/page.html",
    "compare.transfer": "--steps 4 --seeds 0 --tracks numpy",
}
NOT_RUN = {  # what is only read, and why
    r"make (test|notebooks|docs|lint|format|lock)\b": "builds .venv, or runs this very suite",
    r"make (ui|play)\b": "serves until Ctrl-C",
    "make compare PIP_ARGS": "installs from another index",
    "nn3 completion": "prints a script for a shell; test_command_line.py has bash read it",
    "--device gpu": "needs GPUs",
    r"compare\.play": "serves until Ctrl-C; test_play.py asks it",
    r"compare\.generate": "continues a text with a GPT that the reader trained; test_generate.py has a small one",
    r"compare\.record": "takes minutes for each seed; test_record.py makes a short one",
    r"compare\.entries": "writes pages of docs/, or refuses a short benchmark; test_entries.py has both",
    r"compare\.bugs": "changes the sources that it lies in; test_bugs.py does so in copies",
    "--network gru.py|--dataset arrays": "files that the reader is to write; test_own_network.py and test_arrays.py do",
    r"compare\.ports FILE": "a file that the reader is to write; test_ports.py runs some",
    "python -m pytest": "runs this very suite",
    "tfds:kmnist|(loaders|benchmark) .*cifar10": "needs a network",
    r"compare\.launch": "starts the processes of several machines; test_launch.py does so on one",
    "compare.parity gru": "a network that the reader is to write",
    "--pretrained (torchvision|resnet20)|--model resnet20": "needs somebody's weights; test_pretrained.py has some",
}
STAND_INS = {  # the capitals of a page, in turn
    "IMAGE": ["compare/shipped/seven.png"],
    "FILE": ["compare/shipped/mlp-mnist.npz"],
    "CHECKPOINT": ["runs/DATE/checkpoints/mlp-mnist-numpy-seed0"],
    "DIR": ["runs/DATE", "runs/OTHER"],
}


def expanded(command: str) -> Iterator[str]:
    """What a printed command stands for: nothing optional, each of `a|b`, and what `make compare` calls."""
    command = re.sub(r" \[(?:[^][]|\[[^]]*\])*\]| \.\.\.", "", command)
    if command.startswith("make compare"):
        arguments = "".join(shlex.split(command)[2:]).removeprefix("ARGS=")
        command = f"python -m compare.run_all {arguments}".strip()
    if command.startswith("nn3 "):
        _, name, *rest = command.split(" ")
        module, *first = resolve(name, "nn3")
        command = " ".join(["python -m", f"compare.{module}", *first, *rest])
    choice = next((word for word in command.split() if "|" in word), "")
    yield from (command.replace(choice, one) for one in choice.split("|")) if choice else [command]


def is_run(command: str) -> bool:
    return not any(re.search(kind, command) for kind in NOT_RUN)


EXPANDED = {one for _, command in cases() if is_run(command) for one in expanded(command)}
COMMANDS = sorted(filter(is_run, EXPANDED))


def typed(command: str) -> list[str]:
    """The words of a command, its capitals filled in and its length cut."""
    words = shlex.split(command)
    module = words[2] if words[1] == "-m" else words[1].removesuffix(".py").replace("/", ".")
    assert module in CUTS, f"{command}: say in CUTS how {module} ends soon, or in NOT_RUN why it is not run"
    cut = "" if {"--list", "--resume"} & set(words) else CUTS[module]
    if "--epochs" in words:  # either steps or epochs
        cut = cut.replace("--steps 4", "--epochs 0.01")
    if "--resume-from" in words:  # what took 4 steps goes on
        cut = cut.replace("--steps 4", "--steps 8")
    if words[-2] == "--devices":
        cut += " mlp-mnist"  # instead of both default presets
    turns = {name: iter(paths) for name, paths in STAND_INS.items()}
    for k, word in enumerate(words):
        if word in turns:
            words[k] = "new" if words[k - 1] == "--out" else next(turns[word])
    return [sys.executable, *words[1:], *cut.split()]


def run(command: list[str], folder: Path) -> None:
    """As typed in a clone; MLflow's store lies in the folder, too."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a clone, with two small comparisons in it: nobody's runs/ are touched."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("numpy_nn", "jax_nn", "torch_nn", "compare", "checkpoints"):
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    run([*typed("python -m compare.run_all mlp-mnist --tracks numpy"), "--out", "runs/DATE"], folder)
    shutil.copytree(folder / "runs" / "DATE", folder / "runs" / "OTHER")
    return folder


@pytest.fixture(scope="session")
def benchmark(clone: Path) -> Path:
    """A small benchmark, under both names that the pages have for one."""
    folder = clone / "runs" / "OLD"
    run([*typed("python -m compare.benchmark mlp-mnist"), "--out", str(folder)], clone)
    shutil.copytree(folder, clone / "runs" / "benchmark-DATE")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first benchmark is made for others, and counted here
@pytest.mark.parametrize("command", COMMANDS)
def test_documented_command_runs(command: str, clone: Path, request: pytest.FixtureRequest) -> None:
    if re.search(r"runs/(OLD|benchmark-DATE)", command):
        request.getfixturevalue("benchmark")
    shutil.rmtree(clone / "new", ignore_errors=True)
    run(typed(command), clone)


def test_every_documented_command_is_run_or_excluded() -> None:
    """Quick, so that a new command is noticed at once."""
    assert all(typed(command) for command in COMMANDS)
    printed = {command for _, command in cases()} | EXPANDED
    stale = [kind for kind in NOT_RUN if not any(re.search(kind, command) for command in printed)]
    stale += [name for name in CUTS if not any(name in command.replace("/", ".") for command in COMMANDS)]
    assert not stale, f"no page prints such a command: {stale}"

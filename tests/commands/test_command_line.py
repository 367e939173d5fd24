"""What every command has in common: help, paths, names, signals, and the list of all commands."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import sqlalchemy
from PIL import Image
from support.paths import ROOT

from compare import cli, predict, presets, run_all
from compare.__main__ import GROUPS, SUBCOMMANDS, commands, completion, listing, main, modules, text
from compare.cli import command_line
from compare.config import SETTINGS, Config
from compare.doctor import __main__ as doctor
from compare.errors import UserError
from compare.parity import __main__ as parity
from compare.progress import Progress
from compare.tracking import Tracker
from compare.transfer import __main__ as transfer

FRAMEWORKS = {
    *("jax", "flax", "optax", "orbax", "torch", "torchvision", "tensorflow", "tensorflow_datasets", "grain"),
    *("mlflow", "optuna", "matplotlib", "safetensors", "sqlalchemy"),
}


def run_python(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python as a user runs it who stands in some folder, with the project installed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


# --- the list and --help ----------------------------------------------------------------------------------------------


def test_every_command_is_listed_once_with_one_line():
    every = [words.split()[0] for group in GROUPS.values() for words in group.values()]
    assert set(every) == set(modules())
    assert set(SUBCOMMANDS) == {name for name, words in commands().items() if words[1:]}
    for name in commands():
        assert text(name).endswith("."), name
        assert len(text(name)) <= 120, name
        assert f"  {name} " in listing()


HELP = """
import runpy, sys
sys.argv = ["command", "--help"]
try:
    runpy.run_module("compare.{name}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted(sys.modules.keys() & {frameworks}), file=sys.stderr)
"""


@pytest.mark.parametrize("name", modules())
def test_help_answers_within_a_second_and_without_a_framework(name):
    seconds = []
    for _ in range(3):  # the best of three, and the processor's time: the machine may be busy
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run_python("-c", HELP.format(name=name, frameworks=FRAMEWORKS), cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: python -m compare.{name} ")
        assert done.stderr.splitlines()[-1] == "loaded:"
        if seconds[-1] < 1:
            return
    pytest.fail(f"--help took {seconds} s")


def test_a_command_is_run_by_its_name_and_an_unknown_one_is_answered(tmp_path):
    done = run_python("-m", "compare", "run_all", "--list", cwd=tmp_path)
    assert done.stdout.startswith("mlp-mnist ")
    assert done.returncode == 0
    done = run_python("-m", "compare", "runall", cwd=tmp_path)
    assert "error: unknown command 'runall'. Did you mean run_all? Known: " in done.stderr
    assert done.returncode == 2


NN3 = "import sys; sys.argv[0] = 'nn3'; from {module} import {function}; sys.exit({function}())"


def test_nn3_runs_every_command_under_its_name(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["nn3"].partition(":")
    for name in ("train", "import", "ui", "side-by-side"):
        done = run_python("-c", NN3.format(module=module, function=function), name, "--help", cwd=tmp_path)
        assert done.stdout.startswith(f"usage: nn3 {name} ")
        assert (done.returncode, done.stderr) == (0, "")


def test_a_preset_for_a_command_is_answered_with_the_command(capsys):
    assert main(["mlp-mnist"]) == 2
    assert "'mlp-mnist' is a preset, not a command: python -m compare train mlp-mnist" in capsys.readouterr().err
    assert main(["resnet"]) == 2
    assert "'resnet' is a model, not a command: python -m compare train resnet20-cifar10, or" in capsys.readouterr().err
    assert main(["mlp-mnst"]) == 2
    assert "Did you mean mlp-mnist? Known: train," in capsys.readouterr().err


def test_completion_knows_commands_flags_presets_and_files(tmp_path):
    script = run_python("-m", "compare", "completion", "bash", cwd=tmp_path)
    assert script.returncode == 0, script.stderr
    asked = """
    answer() { COMP_WORDS=(nn3 "$@"); COMP_CWORD=$#; COMPREPLY=(); _shtab_nn3 nn3 "${@: -1}"; echo "${COMPREPLY[@]}"; }
    answer side; answer train cnn-mnist-; answer train --tracks n; answer parity dense; answer checkpoint ver
    answer export R
    """
    (tmp_path / "R.npz").touch()
    done = subprocess.run(
        ["bash", "-c", script.stdout + asked], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["side-by-side", "cnn-mnist-augmented", "numpy", "densenet", "verify", "R.npz"]
    for shell in ("zsh", "tcsh"):
        assert "cnn-mnist-augmented" in completion(shell)


def test_compare_holds_at_most_twenty_files():
    assert len(list((ROOT / "compare").glob("*.py"))) <= 20


# --- figures for a program --------------------------------------------------------------------------------------------


def test_figures_are_printed_as_json(capsys):
    seven = cli.SHIPPED / "seven.png"
    assert predict.main([str(seven), "--checkpoint", "mlp-mnist", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    probabilities = answer["tracks"]["numpy"]
    assert max(probabilities, key=probabilities.get) == "7"
    assert sum(probabilities.values()) == pytest.approx(1)
    assert run_all.main(["--list", "--json"]) == 0
    assert Config.from_json(json.loads(capsys.readouterr().out)["mlp-mnist"]) == presets.get("mlp-mnist")
    assert doctor.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"cores", "idle", "refused"}
    assert parity.main(["mlp", "--tracks", "numpy,torch", "--steps", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["a"], row["b"], row["passed"]) == ("numpy", "torch", True)


def test_json_is_all_that_reaches_standard_output(capsys):
    for as_json in (True, False):
        with cli.figures(as_json) as show, Progress() as progress:
            print("a line")
            progress.note("a note")
            show({"value": float("nan")}, lambda: print("for a reader"))
        out, err = capsys.readouterr()
        if as_json:
            assert (json.loads(out), err) == ({"value": None}, "a line\na note\n")
        else:
            assert (out, err) == ("a line\na note\nfor a reader\n", "")


def test_shipped_network_is_found_by_name_unless_a_path_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.network("cnn-mnist") == predict.DEFAULT
    assert cli.network("x/cnn-mnist") == tmp_path / "x" / "cnn-mnist"
    assert cli.network("seven") == tmp_path / "seven"
    (tmp_path / "cnn-mnist").mkdir()
    assert cli.network("cnn-mnist") == tmp_path / "cnn-mnist"


def test_a_preset_for_a_model_is_answered_with_its_model(capsys):
    assert parity.main(["resnet20-cifar10"]) == 2
    assert "'resnet20-cifar10' is a preset: give its model, resnet" in capsys.readouterr().err


# --- names ------------------------------------------------------------------------------------------------------------


def options(*arguments: str) -> argparse.Namespace:
    return run_all.parser().parse_args(arguments)


@pytest.mark.parametrize("words", [["numpy,torch"], ["numpy", "torch"], ["numpy,pytorch"], ["numpy", "torch,numpy"]])
def test_several_tracks_are_given_with_commas_or_spaces(words):
    assert options("--tracks", *words).tracks == ["numpy", "torch"]
    assert options("--seeds", "1,2", "3").seeds == [1, 2, 3]


def test_the_names_of_other_programs_are_understood():
    found = options("--device", "cuda:1", "--precision", "bf16")
    assert (found.device, found.precision) == ("gpu:1", "bfloat16")
    assert options("--device", "cuda").device == "gpu"
    (config,) = run_all.configs(options("mlp-mnist", "--tracks", "jax", "--set", "precision=bf16"))
    assert config.precision == "bfloat16"


def test_earlier_flags_work_and_are_not_documented():
    assert options("--no-proof").skip_parity
    assert "no-proof" not in run_all.parser().format_help()
    for module in ("search", "loaders", "launch"):
        parser = importlib.import_module(f"compare.{module}.__main__").parser()
        extra = {"search": ["mlp-mnist"], "loaders": [], "launch": ["mlp-mnist", "--out", "x"]}[module]
        assert parser.parse_args([*extra, "--track", "jax"]).track == "jax"
        assert "--track " not in parser.format_help()
    assert predict.parser().parse_args(["7.png", "--track", "all"]).tracks == ["all"]


def test_every_field_with_a_flag_is_set_by_it():
    words = {"dataset": "cifar10", "data_dir": "/data", "loader": "torch", "augment": "flip", "precision": "float64"}
    for name, setting in SETTINGS.items():
        if setting.group:
            word = words.get(name, "cpu" if name == "device" else "2")
            given = cli.given(options(f"--{name.replace('_', '-')}", word))
            assert given.pop(name) == {"augment": ("flip",)}.get(name, word if name in words or name == "device" else 2)
            assert given in ({}, {"steps": None})


# --- paths ------------------------------------------------------------------------------------------------------------


def test_every_path_is_relative_to_where_the_user_stands_with_the_home_expanded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/user")
    found = options("--dataset", "folder:PHOTOS", "--data-dir", "data", "--out", "~/x", "--resume-from", "../c")
    assert (found.dataset, found.data_dir) == (f"folder:{tmp_path}/PHOTOS", f"{tmp_path}/data")
    assert (str(found.out), found.resume_from) == ("/home/user/x", tmp_path / "../c")
    to = transfer.parser().parse_args(["to", "folder:~/p", "--pretrained", "resnet20:x.th", "--data-dir", "~/d"])
    assert (to.dataset, to.pretrained) == ("folder:/home/user/p", f"resnet20:{tmp_path}/x.th")
    assert to.data_dir == "/home/user/d"
    assert cli.pretrained("torchvision:resnet18") == "torchvision:resnet18"
    assert cli.dataset("tfds:kmnist") == "tfds:kmnist"
    assert cli.output_folder(None, "search-").parent == tmp_path / "runs"
    assert cli.database("a b.db") == f"sqlite:///{tmp_path}/a b.db"
    assert cli.database("sqlite:///~/s.db?timeout=9") == "sqlite:////home/user/s.db?timeout=9"
    assert cli.database("postgresql://host/db") == "postgresql://host/db"


@pytest.mark.parametrize("folder", ["data", "~/data"])
def test_the_data_folder_of_the_environment_is_the_users(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NN_DATA_DIR", folder)
    seen = []

    @command_line
    def main() -> int:
        seen.append(os.environ["NN_DATA_DIR"])
        return 0

    assert main() == 0
    assert seen == [f"{tmp_path}/data"]


def test_a_folder_of_images_is_found_from_where_the_user_stands(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / "compare" / name).mkdir(parents=True)  # the project has a folder of that name, too
        for number in range(30):
            Image.new("RGB", (32, 32), colour).save(tmp_path / "compare" / name / f"{number}.png")
    shape = ["model_args.input_shape=[32,32,3]", "model_args.classes=2", "batch_size=8"]
    flags = ["--tracks", "numpy", "--steps", "5", "--skip-parity", "--no-mlflow", "--set", *shape]
    done = run_python(*("-m", "compare.run_all", "mlp-mnist", "--dataset", "folder:compare", *flags), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (out,) = (tmp_path / "runs").iterdir()
    (entry,) = json.loads((out / "results.json").read_text())["runs"]
    assert entry["dataset"] == f"folder:{tmp_path}/compare"
    assert entry["test_count"] == 10


@pytest.mark.parametrize("name", ["s%20x", "what?", "a#b", "{c}", "caf\xe9 d", "100%"])
def test_a_database_lies_in_the_folder_that_was_named(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    engine = sqlalchemy.create_engine(cli.sqlite_url(folder / "study.db"))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("create table t (x int)"))
    engine.dispose()
    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_mlflow_logs_into_the_folder_that_was_named(tmp_path):
    folder, warnings = tmp_path / "100%25?", []
    folder.mkdir()
    (folder / "report.md").write_text("a report")
    with Tracker(results_dir=folder, warn=warnings.append, store=folder / "runs") as tracker:
        tracker.start("compare", "name")
        tracker.finish("finished", artifacts=[folder / "report.md"])
    assert not warnings
    assert (folder / "runs" / "mlflow.db").is_file()
    assert [path.read_text() for path in (folder / "runs").rglob("report.md")] == ["a report"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_default_folder_belongs_to_the_process_that_made_it(tmp_path, monkeypatch):
    """Comparisons that are started in the same second, or after the clock was set back, have each its own."""
    monkeypatch.chdir(tmp_path)
    now = mock.Mock(**{"datetime.now.return_value": datetime.datetime(2026, 12, 1, 9, 48, 53)})
    monkeypatch.setattr(cli, "datetime", now)
    kept: list[tuple[Any, ...]] = []
    monkeypatch.setattr("atexit.register", lambda *call: kept.append(call))
    folders = [cli.output_folder(None) for _ in range(3)]
    name = "2026-12-01_09-48-53"
    assert [each.relative_to(tmp_path / "runs").as_posix() for each in folders] == [name, f"{name}-2", f"{name}-3"]
    (folders[1] / "results.json").touch()
    for remove, *arguments in reversed(kept):
        remove(*arguments)
    assert [each.exists() for each in folders] == [False, True, False]


def test_no_place_for_a_default_folder_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    with pytest.raises(UserError, match=r"cannot write to .*runs.*; choose another folder with --out"):
        cli.output_folder(None)


def test_an_output_folder_that_is_not_utf8_is_refused_before_any_work(tmp_path):
    out = os.fsencode(tmp_path) + b"/caf\xe9"
    done = subprocess.run(
        [sys.executable, "-m", "compare.run_all", "mlp-mnist", "--steps", "1", "--out", out],
        cwd=ROOT, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"argument --out: invalid path" in done.stderr
    assert b"expected a name in UTF-8" in done.stderr
    assert not list(tmp_path.iterdir())


# --- terminals and signals --------------------------------------------------------------------------------------------


def test_characters_that_the_terminal_cannot_show_are_replaced(tmp_path):
    code = """
from compare.cli import command_line
@command_line
def main():
    print("\\u2212 \\xb1 \\udce9")
    return 0
main()
"""
    for encoding in ("ascii", "utf-8:strict"):
        done = run_python("-c", code, cwd=tmp_path, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


COMMAND = """
import signal, sys, time
from compare.cli import command_line

{before}

@command_line
def main():
    try:
        print("begun", flush=True)
        time.sleep({seconds})
    except KeyboardInterrupt:
        print("saved", flush=True)
        raise
    return 0

sys.exit(main())
"""


@pytest.mark.parametrize(
    ("number", "before", "status"),
    [
        (signal.SIGINT, "", 130),
        (signal.SIGTERM, "", 143),
        (signal.SIGHUP, "", 129),
        (signal.SIGTERM, "signal.signal(signal.SIGINT, signal.SIG_IGN)", 143),  # what a shell starts behind &
        (signal.SIGHUP, "signal.signal(signal.SIGHUP, signal.SIG_IGN)", 0),  # nohup
    ],
)
def test_sigterm_and_sighup_act_as_ctrl_c(number, before, status):
    code = COMMAND.format(before=before, seconds=30 if status else 0.5)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == ("saved\n" if status else "")
    assert process.returncode == status

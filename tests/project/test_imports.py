"""Who may import whom (notebooks, tests -> compare -> the tracks), and where files lie."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys

import pytest
from support.import_walk import PACKAGES, TRACKS, import_graph, imported, is_within, sources
from support.paths import ROOT

# What a track may lean on, the standard library and itself aside.
SHARED = {"numpy_nn.batch", "numpy_nn.network_file", "numpy_nn.tree"}
MAY_IMPORT = {
    "numpy_nn": {"numpy", "jaxtyping"},
    "jax_nn": {"numpy", "jaxtyping", "jax", "flax", "optax", *SHARED},
    "torch_nn": {"numpy", "jaxtyping", "torch", "triton", *SHARED},
}

# What only one module or folder may import, so that it can be exchanged there.
ONE_HOME = {
    "orbax": "compare/checkpoint/store.py",
    "mlflow": "compare/tracking/",
    "optuna": "compare/search/study.py",
}

# What the command line must not load before it knows that there is something to train.
HEAVY = {
    *TRACKS,
    "jax",
    "flax",
    "optax",
    "orbax",
    "torch",
    "torchvision",
    "tensorflow_datasets",
    "mlflow",
    "matplotlib",
}


@pytest.mark.parametrize("track", TRACKS)
def test_track_imports_only_its_own_libraries(track):
    allowed = {track, *MAY_IMPORT[track], *sys.stdlib_module_names}
    astray = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(track)
        for line, name in imported(path)
        if not any(is_within(name, parent) for parent in allowed)
    ]
    assert sources(track), f"{track} is empty"
    assert not astray, "\n".join(astray)


@pytest.mark.parametrize(("library", "home"), ONE_HOME.items())
def test_library_is_imported_by_one_module_only(library, home):
    importers = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sources(package)
        if any(is_within(name, library) for _, name in imported(path))
    }
    assert importers
    assert {path for path in importers if path != home and not path.startswith(home.rstrip("/") + "/")} == set()


def test_jaxtyping_reaches_numpy_nn_through_shapes_only():
    importers = {path.name for path in sources("numpy_nn") if any(is_within(n, "jaxtyping") for _, n in imported(path))}
    assert importers == {"shapes.py"}


def test_no_modules_import_each_other_in_a_circle():
    try:
        graphlib.TopologicalSorter(import_graph(*PACKAGES)).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_no_module_imports_the_main_of_a_package():
    astray = [
        f"{module} imports {name}"
        for module, names in import_graph("compare").items()
        for name in names
        if name.endswith(".__main__")
    ]
    assert not astray, "\n".join(astray)


def test_no_leaf_module_imports_a_command():
    """A file directly in compare/ is a command if it has a function ``main``, and else a leaf."""
    files = list((ROOT / "compare").glob("*.py"))
    trees = {f"compare.{path.stem}": ast.parse(path.read_text("utf-8")) for path in files}
    commands = {
        module
        for module, tree in trees.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    }
    graph = import_graph("compare")
    leaves = graph.keys() & trees.keys() - commands
    astray = [f"{leaf} imports {name}" for leaf in leaves for name in graph[leaf] & commands]
    assert {"compare.run_all", "compare.predict"} <= commands
    assert {"compare.config", "compare.errors"} <= leaves
    assert not astray, "\n".join(astray)


def test_compare_holds_at_most_twenty_files_directly():
    assert len(list((ROOT / "compare").glob("*.py"))) <= 20


# --- tests/ -----------------------------------------------------------------------------------------------------------

TEST_FOLDERS = {"nn", "data", "training", "report", "commands", "project", "ports"}


def test_each_test_file_lies_in_a_folder_and_helpers_in_support():
    files = [path.relative_to(ROOT / "tests") for path in sources("tests") if path.name != "conftest.py"]
    astray = [
        path.as_posix()
        for path in files
        if path.parts[0] not in (TEST_FOLDERS if path.name.startswith("test_") else {"support"})
    ]
    assert {path.parts[0] for path in files} == {*TEST_FOLDERS, "support"}
    assert not astray, "\n".join(astray)


def test_no_test_module_imports_another():
    astray = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources("tests")
        for line, name in imported(path)
        if any(part.startswith("test_") for part in name.split(".")[:-1]) or name.startswith(("tests.", "test_"))
    ]
    assert not astray, "\n".join(astray)


# --- what a fresh interpreter loads -----------------------------------------------------------------------------------

IMPORT_ALL = """
import importlib.util, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if {blocked}:
            raise ModuleNotFoundError(f"{{name}} is not to be had here", name=top)

sys.meta_path.insert(0, Absent())
package = importlib.import_module("{track}")
names = [m.name for m in pkgutil.walk_packages(package.__path__, "{track}.")]
if "{track}" == "torch_nn" and not importlib.util.find_spec("triton"):  # it exists for Linux only
    names = [name for name in names if name != "torch_nn.kernels"]
for name in names:
    importlib.import_module(name)
print(*names)
"""


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("track", "blocked"),
    [
        ("numpy_nn", "top not in sys.stdlib_module_names and top not in ('numpy', 'numpy_nn')"),
        ("jax_nn", "top in ('torch', 'torch_nn', 'compare')"),
        ("torch_nn", "top in ('jax', 'flax', 'optax', 'jax_nn', 'compare')"),
    ],
)
def test_track_loads_without_the_other_frameworks(track, blocked):
    result = run("-c", IMPORT_ALL.format(track=track, blocked=blocked))
    assert result.returncode == 0, result.stderr
    assert f"{track}.train" in result.stdout.split()
    assert f"{track}.models.mlp" in result.stdout.split()


TRAIN_AND_TELL = """
import dataclasses, pathlib, sys, threading
from compare import presets
from compare.training import worker
from compare.workers.protocol import Job

def emit(event):
    if event["event"] == "chunk":
        print(*sorted(sys.modules.keys() & {{"jax", "torch", "tensorflow", "tensorflow_datasets", "grain"}}))

config = dataclasses.replace(presets.get("mlp-mnist"), steps=2, model_args={{"hidden": (8,)}})
worker.run(Job(config, "{track}", threads=1, folder=pathlib.Path("{folder}")), emit=emit, stop=threading.Event())
"""


@pytest.mark.parametrize(("track", "framework"), [("numpy", ""), ("jax", "jax"), ("torch", "torch")])
def test_worker_loads_only_its_own_framework(track, framework, tmp_path):
    result = run("-c", TRAIN_AND_TELL.format(track=track, folder=tmp_path))
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.splitlines()) == {framework}


RUN_AND_TELL = """
import runpy, sys
sys.argv = ["run_all.py", *sys.argv[1:]]
try:
    runpy.run_module("compare.run_all", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", *sorted(sys.modules.keys() & {heavy}), file=sys.stderr)
"""


@pytest.mark.parametrize("flag", ["--help", "--list"])
def test_command_line_answers_without_a_framework(flag):
    result = run("-c", RUN_AND_TELL.format(heavy=HEAVY), flag)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "loaded:"

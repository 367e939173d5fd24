"""What ``pip install .`` installs: the wheel is complete, works from any folder, and `numpy_nn` needs NumPy only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import numpy as np
import pytest
from support.import_walk import PACKAGES
from support.paths import ROOT


def run(*arguments: str | Path, cwd: Path, **variables: str) -> str:
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | variables
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the wheel, built from a copy of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    source, unpacked = folder / "source", folder / "installed"
    for name in (*PACKAGES, "licenses"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


def files(root: Path) -> set[str]:
    found = (path for name in PACKAGES for path in (root / name).rglob("*") if "__pycache__" not in path.parts)
    return {path.relative_to(root).as_posix() for path in found if path.is_file()}


def test_wheel_holds_every_file_of_the_packages_and_the_licences(installed: Path) -> None:
    assert files(installed) == files(ROOT)
    (info,) = installed.glob("*.dist-info")
    assert {path.name for path in installed.iterdir()} == {*PACKAGES, info.name}
    metadata = PathDistribution(info).metadata
    assert set(metadata.get_all("License-File") or []) == {
        "LICENSE",
        *(path.relative_to(ROOT).as_posix() for path in (ROOT / "licenses").iterdir()),
    }
    for name in metadata.get_all("License-File") or []:
        assert (info / "licenses" / name).read_bytes() == (ROOT / name).read_bytes()


def test_installed_commands_work_from_any_folder_and_write_where_the_user_stands(
    installed: Path, tmp_path: Path
) -> None:
    before = set(installed.rglob("*"))
    flags = ("--tracks", "numpy", "--steps", "2", "--set", "model_args.hidden=[8]", "--skip-parity", "--no-mlflow")
    run("-m", "compare", "train", "mlp-mnist", *flags, cwd=tmp_path, PYTHONPATH=str(installed))
    (comparison,) = (tmp_path / "runs").iterdir()
    assert (comparison / "report.html").stat().st_size > 1e6  # with the library that draws its plots
    seven = installed / "compare" / "shipped" / "seven.png"
    answer = run(
        *("-m", "compare", "predict", seven, "--checkpoint", "mlp-mnist"), cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert answer.split()[2] == "7"
    assert set(installed.rglob("*")) == before


NUMPY_ALONE = """
import sys
sys.path[:0] = {paths}
import importlib, pkgutil
import numpy as np
import numpy_nn
for module in pkgutil.walk_packages(numpy_nn.__path__, "numpy_nn."):
    importlib.import_module(module.name)
assert sys.modules.keys().isdisjoint(["jaxtyping", "jax", "torch"])
from numpy_nn import train
from numpy_nn.models import MODELS
snapshot = MODELS["mlp"](hidden=(64,)).init(np.random.default_rng(0))
state = train.init_state(snapshot, model="mlp", model_args={{"hidden": (64,)}}, schedule_args={{"lr": 0.1, "steps": 1}})
_, metrics = train.train_steps(state, np.zeros((1, 8, 28, 28, 1), np.uint8), np.zeros((1, 8), np.int32))
print(float(metrics["loss"][0]))
"""


def test_numpy_nn_trains_with_numpy_alone(installed: Path, tmp_path: Path) -> None:
    """An interpreter without site-packages sees the wheel and NumPy, as after pip install --no-deps . numpy."""
    packages = Path(np.__file__).parents[1]
    for path in packages.glob("numpy*"):
        (tmp_path / path.name).symlink_to(path)
    program = NUMPY_ALONE.format(paths=[str(installed), str(tmp_path)])
    assert float(run("-I", "-S", "-c", program, cwd=tmp_path)) == pytest.approx(np.log(10), rel=0.2)

"""How much memory a check needs, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.paths import ROOT

SCRIPT = """
import re
from pathlib import Path

import numpy as np, torch, torchvision
from flax import nnx
import jax_nn.models
from compare.ports import check

args = {"stages": (2, 2, 2, 2), "channels": (64, 128, 256, 512), "stem": "large", "shortcut": "project"}
theirs = torchvision.models.resnet18(num_classes=10)
ours = jax_nn.models.MODELS["resnet"](**args, input_shape=(64, 64, 3), classes=10, rngs=nnx.Rngs(0))
report = check(theirs, ours, np.random.default_rng(0).standard_normal((2, 64, 64, 3)))
peak_kb = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]  # ru_maxrss begins at the parent's
print(report.verdict, 1024 * int(peak_kb))
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_a_resnet_18_at_64_pixels_needs_less_than_2_gb():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    verdict, peak = done.stdout.split()
    assert verdict == "same"
    assert int(peak) < 2e9
